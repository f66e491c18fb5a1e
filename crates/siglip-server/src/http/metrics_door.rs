//! The metrics' own port.

use http::{HeaderValue, Method, StatusCode};

use super::reply::{self, ErrorForm, Reply};
use crate::metrics;
use crate::state::ServerState;

const TEXT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(super) fn answer(state: &ServerState, method: &Method, path: &str) -> Reply {
    if method != Method::GET {
        return reply::method_not_allowed(ErrorForm::Plain);
    }
    // Any other path is as empty as on Triton.
    let text = if path == "/metrics" { metrics::render(state) } else { String::new() };
    reply::with_body(StatusCode::OK, TEXT_TYPE, text.into_bytes())
}
