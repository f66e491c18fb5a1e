//! Reading the recording and sending its requests.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::common::client::{Client, Response};

pub(crate) struct Exchange {
    pub name: String,
    pub group: String,
    /// The writes, and between them waits for a response.
    steps: Vec<Step>,
    pub method: String,
    path: String,
    /// The recorded responses; an error if none came.
    pub responses: Vec<Result<Response, String>>,
    /// Whether the recorded server closed the connection afterwards.
    pub closed: bool,
}

enum Step {
    Send(Vec<u8>),
    Receive,
}

pub(crate) struct Outcome {
    pub responses: Vec<io::Result<Response>>,
    pub closed: bool,
}

pub(crate) fn read() -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/http.jsonl.gz");
    let mut text = String::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| Exchange::of(&serde_json::from_str(line).unwrap())).collect()
}

impl Exchange {
    fn of(line: &Value) -> Self {
        let request = &line["request"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&line["name"]);
        let responses = match line.get("responses") {
            Some(responses) => responses.as_array().unwrap().iter().map(response).collect(),
            None => vec![response(&line["response"])],
        };
        Exchange {
            steps: steps(request, &name),
            method: text(&request["method"]),
            path: text(&request["path"]),
            group: text(&line["group"]),
            closed: line["connection_after"] == "closed",
            name,
            responses,
        }
    }

    /// The two recorded text models had different embeddings; two servers play them.
    pub(crate) fn asks_embed_text_to_infer(&self) -> bool {
        self.path.starts_with("/v2/models/embed_text/")
            && !self.path.contains("stats")
            && self.method == "POST"
    }

    pub(crate) fn replay(&self, mut client: Client) -> Outcome {
        let mut responses = Vec::new();
        let mut waits = self.responses.len();
        for step in &self.steps {
            match step {
                // A server that has closed the connection already has answered, too.
                Step::Send(bytes) => drop(client.send(bytes)),
                Step::Receive => {
                    responses.push(client.receive_to(&self.method));
                    waits -= 1;
                }
            }
        }
        for _ in 0..waits {
            if self.name == "body_shorter_then_idle" {
                client.set_timeout(Duration::from_millis(300));
            }
            responses.push(client.receive_to(&self.method));
        }
        let closed = client.is_closed_within(Duration::from_millis(if self.closed { 2000 } else { 1 }));
        Outcome { responses, closed }
    }
}

fn response(recorded: &Value) -> Result<Response, String> {
    let Some(status) = recorded["status"].as_u64() else {
        return Err(recorded.to_string());
    };
    let headers = recorded["headers"].as_array().unwrap().iter();
    Ok(Response {
        version: String::new(),
        status: status as u16,
        reason: recorded["reason"].as_str().unwrap().to_owned(),
        headers: headers
            .map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().to_owned()))
            .collect(),
        body: bytes(recorded, "body").unwrap_or_default(),
    })
}

fn steps(request: &Value, name: &str) -> Vec<Step> {
    if let Some(raw) = bytes(request, "raw") {
        let mut rest = raw.as_slice();
        let parts = request["parts_lens"].as_array().unwrap().iter();
        return parts
            .map(|part| match part.as_u64() {
                None => Step::Receive,
                Some(length) => {
                    let (part, others) = rest.split_at(length as usize);
                    rest = others;
                    Step::Send(part.to_vec())
                }
            })
            .collect();
    }
    let body = bytes(request, "body").unwrap_or_else(|| big_body(name));
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let mut message = format!("{} {} {}\r\n", text("method"), text("path"), text("version")).into_bytes();
    for header in request["headers"].as_array().unwrap() {
        let (name, mut value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap().to_owned());
        if name == "Content-Length" && request.get("omitted").is_some() {
            value = body.len().to_string();
        }
        let line = format!("{name}: {value}\r\n");
        message.extend_from_slice(line.as_bytes());
    }
    message.extend_from_slice(b"\r\n");
    message.extend_from_slice(&body);
    vec![Step::Send(message)]
}

/// Bodies too large to be recorded.
fn big_body(name: &str) -> Vec<u8> {
    let json = |data: &str| {
        format!(r#"{{"inputs": [{{"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", {data}}}]}}"#)
    };
    match name {
        "big_binary_65MB_wrong_size" => {
            let mut body = json(r#""parameters": {"binary_data_size": 65000000}"#).into_bytes();
            body.resize(body.len() + 65_000_000, 0);
            body
        }
        "big_garbage_70MB" => vec![b'x'; 70_000_000],
        "big_json_10MB_too_long" => json(&format!(r#""data": [1{}]"#, ",1".repeat(5_000_000))).into_bytes(),
        _ => Vec::new(),
    }
}

/// A field that is there as text, as base64, or as compressed base64.
fn bytes(object: &Value, field: &str) -> Option<Vec<u8>> {
    let get = |suffix: &str| object.get(format!("{field}{suffix}")).and_then(Value::as_str);
    if let Some(text) = get("_text").or_else(|| get("")) {
        return Some(text.as_bytes().to_vec());
    }
    if let Some(text) = get("_b64") {
        return Some(base64(text));
    }
    let compressed = base64(get("_gz_b64")?);
    let mut out = Vec::new();
    GzDecoder::new(compressed.as_slice()).read_to_end(&mut out).unwrap();
    Some(out)
}

pub(crate) fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {byte}"),
    };
    let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'=').map(digit).collect();
    digits
        .chunks(4)
        .flat_map(|group| {
            let bits = group.iter().fold(0_u32, |bits, &digit| bits << 6 | u32::from(digit));
            let bits = bits << (6 * (4 - group.len()));
            bits.to_be_bytes()[1..group.len()].to_vec()
        })
        .collect()
}
