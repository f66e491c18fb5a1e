//! The HTTP door.

mod body;
mod connection;
mod generate;
mod infer;
mod manage;
mod memory;
mod metrics_door;
mod reply;
mod route;
mod settings;
mod socket;

pub(crate) use connection::Acceptor;

use std::time::Instant;

use http::Request;
use hyper::body::Incoming;

use crate::state::ServerState;
use reply::Reply;
use route::{ModelAction, Route};

/// Answers a request on the protocol's port.
pub(crate) async fn answer(state: &ServerState, request: Request<Incoming>) -> Reply {
    let received = Instant::now();
    let (head, body) = request.into_parts();
    // The body is read whatever becomes of the request: the connection is used again.
    let body = match body::read(body, &head.headers, &state.options).await {
        Ok(body) => body,
        Err(error) => return reply::body_error(&error),
    };
    let route = Route::of(head.uri.path());
    let Some((methods, form)) = route.methods() else { return reply::not_found() };
    if !methods.contains(&head.method) {
        return reply::method_not_allowed(form);
    }
    match route {
        Route::Model { name, version, action: ModelAction::Infer } => {
            infer::answer(state, name, version, &head.headers, body, received).await
        }
        Route::Model { name, version, action: ModelAction::Generate { stream } } => {
            generate::answer(state, name, version, stream, &head.headers, body, received).await
        }
        route => manage::answer(state, &route, &head.method, &body).await,
    }
}

/// Answers a request on the metrics' port.
pub(crate) fn answer_metrics(state: &ServerState, request: &Request<Incoming>) -> Reply {
    metrics_door::answer(state, request.method(), request.uri().path())
}
