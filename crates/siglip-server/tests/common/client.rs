//! HTTP, byte by byte, so that nothing is tidied up on the way.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Client::on(TcpStream::connect(addr).unwrap())
    }

    pub(crate) fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
    }

    /// The next response; an error if the connection is closed or nothing comes.
    pub(crate) fn receive(&mut self) -> io::Result<Response> {
        self.receive_to("GET")
    }

    /// The next response, to a request of that method.
    pub(crate) fn receive_to(&mut self, method: &str) -> io::Result<Response> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            self.read_more()?;
        };
        let head = String::from_utf8(self.unread[..end].to_vec()).unwrap();
        self.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut status_line = lines.next().unwrap().splitn(3, ' ');
        let version = status_line.next().unwrap().to_owned();
        let status = status_line.next().unwrap().parse().unwrap();
        let reason = status_line.next().unwrap_or_default().to_owned();
        let headers: Vec<_> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        let mut response = Response { version, status, reason, headers, body: Vec::new() };
        if method != "HEAD" && status != 100 {
            response.body = self.read_body(&response)?;
        }
        Ok(response)
    }

    fn read_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if response.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line = loop {
                    if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                        break at;
                    }
                    self.read_more()?;
                };
                let size = std::str::from_utf8(&self.unread[..line]).unwrap().to_owned();
                let size = usize::from_str_radix(&size, 16).unwrap();
                self.unread.drain(..line + 2);
                let mut chunk = self.take(size + 2)?;
                chunk.truncate(size);
                if size == 0 {
                    return Ok(body);
                }
                body.append(&mut chunk);
            }
        }
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        self.take(length)
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.read_more()?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let read = self.stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&buffer[..read]);
        Ok(())
    }

    /// Whether the server closes the connection within the time.
    pub(crate) fn is_closed_within(&mut self, time: Duration) -> bool {
        self.set_timeout(time);
        match self.stream.read(&mut [0; 1]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Whether the server closes the connection, each of the bytes that it may send before coming in that time.
    pub(crate) fn ends_within(&mut self, time: Duration) -> bool {
        self.set_timeout(time);
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
        self.receive().unwrap()
    }

    pub(crate) fn post(&mut self, path: &str, headers: &str, body: &[u8]) -> Response {
        self.send_post(path, headers, body);
        self.receive().unwrap()
    }

    pub(crate) fn send_post(&mut self, path: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.send(&[head.as_bytes(), body].concat()).unwrap();
    }

    /// Asks `siglip_text` for rows that consist of one id each.
    pub(crate) fn embed_ids(&mut self, rows: &[i64]) -> Response {
        self.post("/v2/models/siglip_text/infer", "", ids_body(rows).as_bytes())
    }
}

/// A request to `siglip_text` for rows that consist of one id each.
pub(crate) fn ids_body(rows: &[i64]) -> String {
    let ids: Vec<String> = rows.iter().flat_map(|id| std::iter::repeat_n(id.to_string(), 64)).collect();
    format!(
        r#"{{"inputs":[{{"name":"INPUT_IDS","shape":[{},64],"datatype":"INT64","data":[{}]}}]}}"#,
        rows.len(),
        ids.join(",")
    )
}

/// The embeddings of a response in JSON.
pub(crate) fn embeddings(response: &Response) -> Vec<f32> {
    assert_eq!(response.status, 200, "{}", response.text());
    let data = response.json()["outputs"][0]["data"].clone();
    serde_json::from_value(data).unwrap()
}
