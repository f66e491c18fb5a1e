//! A stand-in for the Hub: it lists and describes files on one port, and serves the bytes of large ones on another, as
//! the real one does, and it can be told to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whether it came to the port of the large files.
    pub(crate) cdn: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) token: Option<String>,
}

/// What the stand-in does. Each field can be changed while it runs.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// The repository `org/model`: its files.
    pub(crate) files: HashMap<String, Vec<u8>>,
    /// Only requests to the Hub with this token are answered.
    pub(crate) token: Option<String>,
    /// How many bytes the next answers with a body from the other port hold before the connection is cut.
    pub(crate) cuts: Vec<usize>,
    /// How often the next answers are a 503.
    pub(crate) busy: usize,
    /// What the Hub adds to the length of this file.
    pub(crate) longer: HashMap<String, u64>,
    /// Files whose bytes are not those that their ETag means.
    pub(crate) damaged: Vec<String>,
    /// Whether ranges are ignored.
    pub(crate) no_ranges: bool,
    pub(crate) asked: Vec<Asked>,
}

pub(crate) struct StandIn {
    pub(crate) endpoint: String,
    pub(crate) state: Arc<Mutex<Behaviour>>,
    stop: Arc<AtomicBool>,
    ports: Vec<u16>,
}

impl StandIn {
    pub(crate) fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> StandIn {
        let behaviour = Behaviour { files: files.into_iter().collect(), ..Behaviour::default() };
        let state = Arc::new(Mutex::new(behaviour));
        let stop = Arc::new(AtomicBool::new(false));
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect::<Vec<_>>();
        let cdn = format!("http://127.0.0.1:{}", ports[1]);
        for (listener, is_cdn) in listeners.into_iter().zip([false, true]) {
            let (state, stop, cdn) = (Arc::clone(&state), Arc::clone(&stop), cdn.clone());
            thread::spawn(move || {
                for connection in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (state, cdn) = (Arc::clone(&state), cdn.clone());
                    thread::spawn(move || {
                        // A client that hangs up is a part of the tests.
                        let _ = answer(&connection.unwrap(), &state, is_cdn, &cdn);
                    });
                }
            });
        }
        StandIn { endpoint: format!("http://127.0.0.1:{}", ports[0]), state, stop, ports }
    }

    /// Changes what it does.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().unwrap());
    }

    /// What was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for port in &self.ports {
            // Wakes the listener, which then sees that it is to stop.
            let _ = TcpStream::connect(("127.0.0.1", *port));
        }
    }
}

/// Whether the Hub keeps the file elsewhere.
pub(crate) fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".model")
}

/// The ETag: SHA-256 of large files; of small ones something of the form of Git's SHA-1.
pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if is_large(name) { hash } else { hash[..40].to_owned() }
}

fn answer(connection: &TcpStream, state: &Mutex<Behaviour>, is_cdn: bool, cdn: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let range = headers.get("range").and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, end.parse::<u64>().ok()? + 1))
    });
    let token = headers.get("authorization").map(|value| value.trim_start_matches("Bearer ").to_owned());
    let mut state = state.lock().unwrap();
    state.asked.push(Asked {
        cdn: is_cdn,
        method: method.clone(),
        path: path.clone(),
        range,
        token: token.clone(),
    });

    if state.busy > 0 {
        state.busy -= 1;
        return head(connection, "503 Service Unavailable", &["Content-Length: 0"]);
    }
    if !is_cdn && state.token.is_some() && state.token != token {
        return head(connection, "401 Unauthorized", &["Content-Length: 0"]);
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/model/revision/") {
        if !["main", COMMIT].contains(&revision) {
            return head(
                connection,
                "404 Not Found",
                &["X-Error-Code: RevisionNotFound", "Content-Length: 0"],
            );
        }
        let siblings: Vec<_> =
            state.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        head(connection, "200 OK", &[&format!("Content-Length: {}", body.len())])?;
        return (&*connection).write_all(body.as_bytes());
    }
    let resolve = format!("/org/model/resolve/{COMMIT}/");
    let place = ["/api/resolve-cache/", "/large/", &resolve].into_iter().find_map(|start| {
        let name = path.strip_prefix(start)?.split('?').next()?;
        Some((start.to_owned(), name.to_owned(), state.files.get(name)?.clone()))
    });
    let Some((place, name, bytes)) = place else {
        return head(connection, "404 Not Found", &["X-Error-Code: RepoNotFound", "Content-Length: 0"]);
    };
    let etag = format!("ETag: \"{}\"", etag(&name, &bytes));
    let commit = format!("X-Repo-Commit: {COMMIT}");
    if place == resolve {
        let size = bytes.len() as u64 + state.longer.get(&name).unwrap_or(&0);
        let linked = [format!("X-Linked-Size: {size}"), format!("X-Linked-{etag}")];
        return if is_large(&name) {
            let location = format!("Location: {cdn}/large/{name}?signed=1");
            let own = "ETag: \"of-the-redirect\"";
            head(
                connection,
                "302 Found",
                &[&location, own, &commit, &linked[0], &linked[1], "Content-Length: 9"],
            )?;
            if method == "HEAD" { Ok(()) } else { (&*connection).write_all(b"elsewhere") }
        } else {
            let location = format!("Location: /api/resolve-cache/{name}");
            head(connection, "307 Temporary Redirect", &[&location, &commit, "Content-Length: 0"])
        };
    }

    let mut bytes = bytes;
    if state.damaged.contains(&name) {
        bytes[0] ^= 1;
    }
    let total = bytes.len();
    let (status, content_range) = match range.filter(|_| !state.no_ranges) {
        None => ("200 OK", "Accept-Ranges: bytes".to_owned()),
        Some((start, end)) => {
            let end = (end as usize).min(total);
            bytes = bytes[start as usize..end].to_vec();
            ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{total}", end - 1))
        }
    };
    let length = format!("Content-Length: {}", bytes.len());
    let cut =
        if is_cdn && method == "GET" && !state.cuts.is_empty() { Some(state.cuts.remove(0)) } else { None };
    // Without the lock, so that answers are sent side by side.
    drop(state);
    head(connection, status, &[&length, &content_range, &etag, &commit])?;
    if method == "HEAD" {
        return Ok(());
    }
    let sent = cut.unwrap_or(bytes.len()).min(bytes.len());
    (&*connection).write_all(&bytes[..sent])
}

fn head(mut connection: &TcpStream, status: &str, headers: &[&str]) -> std::io::Result<()> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    write!(connection, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n")
}
