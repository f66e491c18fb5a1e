//! The `generate` extension: inference in one flat JSON object, and the same as a stream of server-sent events, which
//! for these models has one event.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use siglip_protocol::{Code, InferRequest};

use super::reply::{self, JSON_TYPE, Reply};
use crate::endpoint::Endpoint;
use crate::error::InferError;
use crate::state::ServerState;

const EVENTS_TYPE: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

pub(super) async fn answer(
    state: &ServerState,
    model: &str,
    version: Option<&str>,
    stream: bool,
    headers: &HeaderMap,
    body: Bytes,
    received: Instant,
) -> Reply {
    let endpoint = match state.registry.find(model, version) {
        Ok(endpoint) => endpoint,
        Err(error) => return reply::lookup_error(&error),
    };
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let message = "Unsupported content-encoding, only 'identity' is supported.";
        return reply::protocol_error(Code::InvalidArgument, message);
    }
    match generate(state, &endpoint, &body, received).await {
        Ok(document) if stream => {
            let event = [b"data: ", document.as_slice(), b"\n\n"].concat();
            chunked(EVENTS_TYPE, event)
        }
        Ok(document) => chunked(JSON_TYPE, document),
        Err(error) => reply::infer_error(&error),
    }
}

async fn generate(
    state: &ServerState,
    endpoint: &Endpoint,
    body: &Bytes,
    received: Instant,
) -> Result<Vec<u8>, InferError> {
    let mut request = InferRequest::from_generate(body, |name| endpoint.input(name))?;
    let outcome = crate::infer::infer(state, endpoint, &mut request, received).await?;
    Ok(crate::infer::response(endpoint, &request, &outcome).encode_generate())
}

/// A reply whose length is not announced, as Triton sends it.
fn chunked(content_type: HeaderValue, body: Vec<u8>) -> Reply {
    let mut reply = reply::empty(http::StatusCode::OK);
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    *reply.body_mut() = reply::Body::Chunked(Some(body.into()));
    reply
}
