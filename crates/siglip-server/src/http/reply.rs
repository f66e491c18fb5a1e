//! Replies, and the table from errors to them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use siglip_protocol::compression::DecompressError;
use siglip_protocol::{Code, RequestError, error_body};

use super::body::BodyError;
use crate::batcher::BatchError;
use crate::error::{InferError, LookupError};

pub(super) type Reply = Response<Body>;

/// The body of a reply: there as a whole, whether its length is announced or not.
#[derive(Debug)]
pub(crate) enum Body {
    /// `Content-Length`.
    Whole(Full<Bytes>),
    /// `Transfer-Encoding: chunked`.
    Chunked(Option<Bytes>),
}

impl Default for Body {
    fn default() -> Self {
        Body::Whole(Full::default())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Whole(Full::from(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Whole(whole) => Pin::new(whole).poll_frame(context),
            Body::Chunked(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(whole) => whole.is_end_stream(),
            Body::Chunked(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(whole) => whole.size_hint(),
            Body::Chunked(_) => SizeHint::default(),
        }
    }
}

pub(super) const JSON_TYPE: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const PLAIN_TYPE: HeaderValue = HeaderValue::from_static("text/plain");
pub(super) const BINARY_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The two looks of Triton's errors, JSON in both: what it notices while it reads a request is `application/json`; what
/// it notices before or after is `text/plain`, with the headers the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorForm {
    Json,
    Plain,
}

/// The status for a class of errors.
fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::AlreadyExists | Code::Cancelled => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
    }
}

/// The form of an error of an inference request.
fn form(error: &InferError) -> ErrorForm {
    match error {
        error if error.is_of_model() => ErrorForm::Plain,
        // Noticed before the body is looked at.
        InferError::Request(RequestError::HeaderLength { .. }) => ErrorForm::Plain,
        InferError::Lookup(LookupError::VersionFormat(_) | LookupError::NegativeVersion(_))
        | InferError::GrpcRequest(_)
        | InferError::Region(_)
        | InferError::Request(_)
        | InferError::Check(_)
        | InferError::Refused { error: BatchError::QueueFull, .. } => ErrorForm::Json,
        _ => ErrorForm::Plain,
    }
}

/// The reply to an inference request that was not answered.
pub(super) fn infer_error(error: &InferError) -> Reply {
    let status = match error {
        InferError::Decompress(DecompressError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        error => status(error.code()),
    };
    let mut reply = error_reply(status, form(error), &error.to_string());
    if let InferError::Encoding(_) = error {
        reply.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
    }
    reply
}

/// The reply to a request about a model that is not there.
pub(super) fn lookup_error(error: &LookupError) -> Reply {
    error_reply(status(error.code()), ErrorForm::Json, &error.to_string())
}

pub(super) fn protocol_error(code: Code, message: &str) -> Reply {
    error_reply(status(code), ErrorForm::Json, message)
}

pub(super) fn not_found() -> Reply {
    error_reply(StatusCode::NOT_FOUND, ErrorForm::Plain, "Not Found")
}

pub(super) fn method_not_allowed(form: ErrorForm) -> Reply {
    let mut reply = error_reply(StatusCode::METHOD_NOT_ALLOWED, form, "Method Not Allowed");
    reply.extensions_mut().insert(ReasonPhrase::from_static(b"Not Allowed"));
    reply
}

/// The reply to a request whose body was not read to its end. The connection cannot be used any further.
pub(super) fn body_error(error: &BodyError) -> Reply {
    let status = match error {
        BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::Late(_) => StatusCode::REQUEST_TIMEOUT,
        BodyError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    let mut reply = error_reply(status, ErrorForm::Json, &error.to_string());
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

pub(super) fn plain_error(status: StatusCode, message: &str) -> Reply {
    error_reply(status, ErrorForm::Plain, message)
}

fn error_reply(status: StatusCode, form: ErrorForm, message: &str) -> Reply {
    let body = error_body(message);
    match form {
        ErrorForm::Json => with_body(status, JSON_TYPE, body),
        ErrorForm::Plain => {
            let mut reply = empty(status);
            set_plain(&mut reply, body);
            reply
        }
    }
}

/// Health: no body, and `text/plain` nevertheless.
pub(super) fn health(ok: bool) -> Reply {
    let mut reply = empty(if ok { StatusCode::OK } else { StatusCode::BAD_REQUEST });
    set_plain(&mut reply, Vec::new());
    reply
}

/// Done, and nothing to say.
pub(super) fn done() -> Reply {
    json(Vec::new())
}

/// A JSON document.
pub(super) fn json(body: Vec<u8>) -> Reply {
    with_body(StatusCode::OK, JSON_TYPE, body)
}

pub(super) fn with_body(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Reply {
    let mut reply = empty(status);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, body.len().into());
    *reply.body_mut() = Body::from(body);
    reply
}

pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::default());
    *reply.status_mut() = status;
    reply
}

fn set_plain(reply: &mut Reply, body: Vec<u8>) {
    let headers = reply.headers_mut();
    headers.insert(CONTENT_LENGTH, body.len().into());
    headers.insert(CONTENT_TYPE, PLAIN_TYPE);
    *reply.body_mut() = Body::from(body);
}
