//! Reading bodies.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::options::ServerOptions;
use crate::pace::{Late, Pace};

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request body is larger than {limit} bytes; the limit is set by --max-body-mb")]
    TooLarge { limit: usize },
    #[error(transparent)]
    Late(#[from] Late),
    #[error("the request body is broken: {0}")]
    Broken(hyper::Error),
}

/// Reads a body to its end. One that arrives in one piece, as most do, is not copied.
pub(super) async fn read(
    mut body: Incoming,
    headers: &HeaderMap,
    options: &ServerOptions,
) -> Result<Bytes, BodyError> {
    let limit = options.max_body_bytes;
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(BodyError::TooLarge { limit });
    }
    let mut pace = Pace::new(options.body_timeout);
    let Some(first) = next_data(&mut body, &mut pace).await? else { return Ok(Bytes::new()) };
    let Some(second) = next_data(&mut body, &mut pace).await? else { return Ok(first) };
    // What was announced is allocated as it arrives, not at once: announcing costs nothing.
    let mut whole = BytesMut::with_capacity((first.len() + second.len()) * 2);
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(data) = next {
        if whole.len() + data.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        whole.extend_from_slice(&data);
        next = next_data(&mut body, &mut pace).await?;
    }
    Ok(whole.freeze())
}

/// The next piece of data that is not empty; `None` at the end.
async fn next_data(body: &mut Incoming, pace: &mut Pace) -> Result<Option<Bytes>, BodyError> {
    if body.is_end_stream() {
        return Ok(None);
    }
    while let Some(frame) = next_frame(body, pace).await? {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                pace.passed(data.len());
                return Ok(Some(data));
            }
            // Trailers say nothing that matters here.
            Err(_) => {}
        }
    }
    Ok(None)
}

/// The next frame. A timer is only set if it is not there yet.
async fn next_frame(body: &mut Incoming, pace: &mut Pace) -> Result<Option<Frame<Bytes>>, BodyError> {
    let ready = poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await;
    let frame = match ready {
        Poll::Ready(frame) => frame,
        Poll::Pending => {
            let (deadline, late) = pace.deadline();
            tokio::time::timeout_at(deadline, body.frame()).await.map_err(|_| late)?
        }
    };
    frame.transpose().map_err(BodyError::Broken)
}
