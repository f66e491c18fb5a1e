//! The Hub's HTTP interface: what a repository holds, what a file is, and ranges of its bytes.
//!
//! The Hub keeps large files elsewhere and answers with a redirect there, whose headers describe the file
//! (`X-Linked-Etag`, `X-Linked-Size`). The user's token is sent to the Hub only and never to where it redirects.

use std::io::Read;
use std::thread;

use serde::Deserialize;
use ureq::Agent;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE,
};
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use super::repo::is_part;
use super::settings::{Patience, Token};
use super::{HubError, Repo, Settings};

/// The client of one Hub. It can be used from many threads at once.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    patience: Patience,
}

/// What a repository holds at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// A file of a repository.
#[derive(Debug)]
pub(super) struct FileInfo {
    /// Where its bytes can be asked for.
    pub(super) url: String,
    /// The name of its content: SHA-256 of large files, Git's SHA-1 of small ones.
    pub(super) etag: String,
    pub(super) size: u64,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The next attempt may succeed.
    Passing(String),
    /// It will not.
    Lasting(HubError),
}

/// The most redirects that are followed for one request.
const REDIRECTS: usize = 8;

/// The longest listing that is read.
const LONGEST_LISTING: u64 = 64 << 20;

impl Client {
    pub(super) fn new(settings: &Settings) -> Client {
        let Settings { endpoint, token, patience, .. } = settings;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, to read their headers and to send the token to the right host only.
            .max_redirects(0)
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .user_agent(concat!("siglip/", env!("CARGO_PKG_VERSION")))
            .build();
        Client {
            agent: config.into(),
            endpoint: endpoint.clone(),
            token: token.clone(),
            patience: patience.clone(),
        }
    }

    /// The commit of a revision and the files there.
    pub(super) fn listing(&self, repo: &Repo) -> Result<Listing, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, repo.id, encode(&repo.revision));
        let body = self.persist(&url, || {
            let response = self.send(&Method::GET, &url, None, repo, "model")?;
            let mut body = Vec::new();
            let mut reader = response.into_body().into_reader().take(LONGEST_LISTING);
            reader.read_to_end(&mut body).map_err(|error| Failure::Passing(error.to_string()))?;
            Ok(body)
        })?;
        let reply = |reason: String| HubError::Reply { url: url.clone(), reason };
        let info: Info = serde_json::from_slice(&body).map_err(|error| reply(error.to_string()))?;
        // It becomes the name of a folder.
        if !is_part(&info.sha) {
            return Err(reply(format!("its commit is `{}`", info.sha)));
        }
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Listing { commit: info.sha, files })
    }

    /// What a file is, without its bytes.
    pub(super) fn file_info(&self, repo: &Repo, commit: &str, file: &str) -> Result<FileInfo, HubError> {
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, repo.id, encode(file));
        let response = self.persist(&url, || self.send(&Method::HEAD, &url, None, repo, file))?;
        let headers = response.headers();
        let reply = |reason: &str| HubError::Reply { url: url.clone(), reason: reason.to_owned() };
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
        let etag = etag.map(plain_etag).filter(|etag| is_part(etag));
        // The length of a redirect's own body says nothing about the file.
        let own = || {
            (!response.status().is_redirection()).then(|| text(headers, CONTENT_LENGTH.as_str())).flatten()
        };
        let size = text(headers, "x-linked-size").or_else(own).and_then(|size| size.parse().ok());
        Ok(FileInfo {
            etag: etag.ok_or_else(|| reply("it names no ETag that can be a file's name"))?.to_owned(),
            size: size.ok_or_else(|| reply("it does not say how long the file is"))?,
            url,
        })
    }

    /// One attempt at the bytes `start..end` of a file of `size` bytes.
    pub(super) fn range(
        &self,
        repo: &Repo,
        file: &str,
        info: &FileInfo,
        (start, end): (u64, u64),
    ) -> Result<impl Read + use<>, Failure> {
        let range = format!("bytes={start}-{}", end - 1);
        let response = self.send(&Method::GET, &info.url, Some(&range), repo, file)?;
        let headers = response.headers();
        let wrong =
            |got| Failure::Lasting(HubError::Length { file: file.to_owned(), expected: info.size, got });
        let number = |text: &str| text.trim().parse::<u64>().ok();
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let told = text(headers, CONTENT_RANGE.as_str()).and_then(|told| told.strip_prefix("bytes "));
            let Some((offered, total)) = told.and_then(|told| told.split_once('/')) else {
                return Err(self.reply(&info.url, "a partial answer does not say which part it is"));
            };
            if let Some(total) = number(total).filter(|total| *total != info.size) {
                return Err(wrong(total));
            }
            if offered != format!("{start}-{}", end - 1) {
                return Err(
                    self.reply(&info.url, &format!("{range} was asked for, and bytes {offered} came"))
                );
            }
        } else if (start, end) != (0, info.size) {
            return Err(self.reply(&info.url, "the server does not answer range requests"));
        }
        if let Some(length) = text(headers, CONTENT_LENGTH.as_str()).and_then(number)
            && length != end - start
        {
            return Err(wrong(info.size - (end - start) + length));
        }
        Ok(response.into_body().into_reader().take(end - start))
    }

    /// Tries until there is a result, a lasting failure, or too many passing ones.
    pub(super) fn persist<T>(
        &self,
        url: &str,
        attempt: impl Fn() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            match attempt() {
                Ok(result) => return Ok(result),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(reason)) => {
                    failed += 1;
                    if failed >= self.patience.attempts {
                        return Err(HubError::Unreachable { url: url.to_owned(), attempts: failed, reason });
                    }
                    self.pause(failed);
                }
            }
        }
    }

    /// Waits after the `failed`th failure in a row.
    pub(super) fn pause(&self, failed: u32) {
        thread::sleep(self.patience.pause * 2_u32.pow(failed.saturating_sub(1).min(5)));
    }

    /// One request. A GET follows redirects to wherever the bytes are; a HEAD follows them on the Hub only, since the
    /// redirect to elsewhere is what describes the file.
    fn send(
        &self,
        method: &Method,
        url: &str,
        range: Option<&str>,
        repo: &Repo,
        file: &str,
    ) -> Result<Response<ureq::Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let at_home = origin(&url) == origin(&self.endpoint);
            let mut request = Request::builder().method(method).uri(&url).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| at_home) {
                request = request.header(AUTHORIZATION, token.bearer());
            }
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            let request = request.body(()).map_err(|error| self.reply(&url, &error.to_string()))?;
            let response = self.agent.run(request).map_err(|error| Failure::Passing(error.to_string()))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(self.refused(&response, at_home, &url, repo, file));
            }
            let next =
                text(response.headers(), LOCATION.as_str()).and_then(|location| resolve(&url, location));
            let next = next.ok_or_else(|| self.reply(&url, "it redirects to nowhere"))?;
            let describes = text(response.headers(), "x-linked-etag").is_some();
            if method == Method::HEAD && (describes || origin(&next) != origin(&self.endpoint)) {
                return Ok(response);
            }
            url = next;
        }
        Err(self.reply(&url, "it redirects in circles"))
    }

    /// What a status that is neither success nor redirect means.
    fn refused(
        &self,
        response: &Response<ureq::Body>,
        at_home: bool,
        url: &str,
        repo: &Repo,
        file: &str,
    ) -> Failure {
        let status = response.status().as_u16();
        let code = text(response.headers(), "x-error-code");
        Failure::Lasting(match (status, code) {
            (408 | 425 | 429 | 500..=599, _) => return Failure::Passing(format!("status {status}")),
            // Elsewhere it is a signed address that has expired; the Hub gives a new one.
            (401 | 403, _) if !at_home => return Failure::Passing(format!("status {status}")),
            (401 | 403, _) => {
                HubError::Denied { repo: repo.to_string(), status, with_token: self.token.is_some() }
            }
            (404, Some("RevisionNotFound")) => {
                HubError::NoRevision { id: repo.id.clone(), revision: repo.revision.clone() }
            }
            (404, code) if code == Some("EntryNotFound") || url.contains("/resolve/") => {
                HubError::NoFile { repo: repo.to_string(), file: file.to_owned() }
            }
            (404, _) => HubError::NoRepo { repo: repo.id.clone(), endpoint: self.endpoint.clone() },
            _ => return self.reply(url, &format!("status {status}")),
        })
    }

    fn reply(&self, url: &str, reason: &str) -> Failure {
        Failure::Lasting(HubError::Reply { url: url.to_owned(), reason: reason.to_owned() })
    }

    /// Failed attempts in a row that are too many.
    pub(super) fn attempts(&self) -> u32 {
        self.patience.attempts
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An ETag without its quotes and its mark of weakness, as the cache uses it for a name.
fn plain_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((uri.scheme_str()?.to_ascii_lowercase(), uri.authority()?.as_str().to_ascii_lowercase()))
}

/// Where a redirect from `base` leads.
fn resolve(base: &str, location: &str) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        let (scheme, authority) = origin(base)?;
        return Some(format!("{scheme}://{authority}{location}"));
    }
    origin(location).map(|_| location.to_owned())
}

/// One segment of a URL's path.
fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let base = "https://hub.example/a/b/resolve/main/c";
        assert_eq!(resolve(base, "/x?y=1").as_deref(), Some("https://hub.example/x?y=1"));
        assert_eq!(resolve(base, "http://cdn.example/x").as_deref(), Some("http://cdn.example/x"));
        assert_eq!((resolve(base, "x"), resolve(base, "//cdn/x")), (None, None));
    }

    #[test]
    fn names_in_urls_and_etags() {
        assert_eq!(encode("refs/pr/1 ä"), "refs%2Fpr%2F1%20%C3%A4");
        assert_eq!((plain_etag("W/\"ab\""), plain_etag("\"ab\""), plain_etag("ab")), ("ab", "ab", "ab"));
    }
}
