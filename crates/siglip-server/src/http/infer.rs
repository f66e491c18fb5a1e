//! Inference over HTTP.

use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{HeaderName, HeaderValue, StatusCode};
use siglip_protocol::InferRequest;
use siglip_protocol::compression::{self, Encoding};

use super::reply::{self, BINARY_TYPE, Body, JSON_TYPE, Reply};
use crate::endpoint::{Endpoint, Outcome};
use crate::error::InferError;
use crate::state::ServerState;

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
const BATCH_SIZE: HeaderName = HeaderName::from_static("x-siglip-batch-size");
const QUEUE_US: HeaderName = HeaderName::from_static("x-siglip-queue-us");
const COMPUTE_US: HeaderName = HeaderName::from_static("x-siglip-compute-us");

/// Bodies from this size on are not parsed on a thread that others wait for.
const LARGE_BODY: usize = 1 << 20;
/// The same for compressed ones, which may become a thousand times larger.
const LARGE_COMPRESSED_BODY: usize = 16 << 10;

pub(super) async fn answer(
    state: &ServerState,
    model: &str,
    version: Option<&str>,
    headers: &HeaderMap,
    body: Bytes,
    received: Instant,
) -> Reply {
    let endpoint = match state.registry.find(model, version) {
        Ok(endpoint) => endpoint,
        Err(error) => return reply::infer_error(&error.into()),
    };
    match infer(state, &endpoint, headers, body, received).await {
        Ok((request, outcome)) => success(&endpoint, &request, &outcome, headers),
        Err(error) => reply::infer_error(&error),
    }
}

async fn infer(
    state: &ServerState,
    endpoint: &Endpoint,
    headers: &HeaderMap,
    body: Bytes,
    received: Instant,
) -> Result<(InferRequest, Outcome), InferError> {
    let large = if headers.contains_key(CONTENT_ENCODING) { LARGE_COMPRESSED_BODY } else { LARGE_BODY };
    let mut request = if body.len() < large {
        parse(state, endpoint, headers, body)?
    } else {
        // This takes milliseconds and more: the thread's other connections are handed to another thread.
        tokio::task::block_in_place(|| parse(state, endpoint, headers, body))?
    };
    let outcome = crate::infer::infer(state, endpoint, &mut request, received).await?;
    Ok((request, outcome))
}

fn parse(
    state: &ServerState,
    endpoint: &Endpoint,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<InferRequest, InferError> {
    let body = match Encoding::of_request(headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes))? {
        Encoding::Identity => body,
        Encoding::Gzip | Encoding::Deflate => {
            compression::decompress(&body, state.options.max_body_bytes)?.into()
        }
    };
    let header = headers.get(HEADER_LENGTH).map(HeaderValue::as_bytes);
    let header_length = InferRequest::header_length(header, body.len())?;
    Ok(InferRequest::from_body(&body, header_length, &endpoint.spec().name)?)
}

fn success(endpoint: &Endpoint, request: &InferRequest, outcome: &Outcome, headers: &HeaderMap) -> Reply {
    let response = crate::infer::response(endpoint, request, outcome);
    let encoded = response.encode(&request.outputs, request.default_form);
    let encoding = Encoding::of_response(headers.get(ACCEPT_ENCODING).map(HeaderValue::as_bytes));
    let body = compression::compress(encoded.body, encoding);

    let mut reply = reply::empty(StatusCode::OK);
    let headers = reply.headers_mut();
    match encoded.header_length {
        None => drop(headers.insert(CONTENT_TYPE, JSON_TYPE)),
        Some(length) => {
            headers.insert(CONTENT_TYPE, BINARY_TYPE);
            headers.insert(HEADER_LENGTH, length.into());
        }
    }
    if encoding != Encoding::Identity {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    headers.insert(CONTENT_LENGTH, body.len().into());
    headers.insert(BATCH_SIZE, outcome.batch_rows.into());
    headers.insert(QUEUE_US, micros(outcome.queue()));
    headers.insert(COMPUTE_US, micros(outcome.compute()));
    *reply.body_mut() = Body::from(body);
    reply
}

fn micros(duration: std::time::Duration) -> HeaderValue {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).into()
}
