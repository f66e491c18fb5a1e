//! The gRPC door.

mod body;
mod connection;
mod deadline;
mod error;
mod health;
mod infer;
mod manage;
mod service;
mod settings;
mod socket;

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service as _;
use tonic::service::Routes;

use self::connection::{Connection, Requests, ShutDown};
use self::socket::Socket;
use crate::listener::Listener;
use crate::state::ServerState;
use generated::grpc_inference_service_server::GrpcInferenceServiceServer;
use health_generated::health_server::HealthServer;
use service::Service;

/// How long a client may take to answer a ping, at most: Triton's `--grpc-keepalive-timeout`.
const PONG: Duration = Duration::from_secs(20);

/// Where the paths of the inference service begin.
const INFERENCE: &str = "/inference.GRPCInferenceService/";

/// What the door says of its services to those who ask by reflection.
const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

#[allow(
    clippy::all,
    missing_docs,
    unreachable_pub,
    reason = "generated; how it is made is written beside the .proto files"
)]
#[rustfmt::skip]
mod generated {
    include!("generated/inference.rs");
}

#[allow(clippy::all, missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
mod health_generated {
    include!("generated/health.rs");
}

/// Serves until the server is to stop, and then until the last request that was taken in is answered.
pub(crate) async fn serve(listener: Listener, state: Arc<ServerState>, mut stop: watch::Receiver<bool>) {
    let patience = state.options.header_timeout;
    let services = Services::new(state, stop.clone());
    loop {
        let (stream, permit) = tokio::select! {
            biased;
            // An error means that the sender is gone, and the server with it.
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, output) = Socket::new(stream, patience);
        let requests = Requests::default();
        let services = services.clone();
        let protocol = http2::Builder::new(requests.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(patience))
            .keep_alive_timeout(PONG.min(patience))
            .auto_date_header(false)
            .serve_connection(TokioIo::new(socket), service_fn(move |request| services.answer(request)));
        let connection = Connection::new(Box::pin(protocol), requests, output);
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.serve(stop).await {
                tracing::debug!(%error, "a gRPC connection ended");
            }
            drop(permit);
        });
    }
}

impl<S: HttpService<Incoming, ResBody = Body>> ShutDown for http2::Connection<TokioIo<Socket>, S, Requests>
where
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    Requests: Http2ServerConnExec<S::Future, Body>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What the door serves.
#[derive(Clone)]
struct Services {
    inference: GrpcInferenceServiceServer<Service>,
    others: Routes,
    body_timeout: Duration,
    /// Changes when the server is to stop.
    stop: watch::Receiver<bool>,
}

impl Services {
    fn new(state: Arc<ServerState>, stop: watch::Receiver<bool>) -> Self {
        let (limit, body_timeout) = (state.options.max_body_bytes, state.options.body_timeout);
        let mut others = Routes::new(HealthServer::new(health::Health::new(state.clone(), stop.clone())));
        // The descriptors are those of this build; if they were not, only reflection would be missing.
        match tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1alpha()
        {
            Ok(reflection) => others = others.add_service(reflection),
            Err(error) => tracing::warn!(%error, "gRPC reflection is not available"),
        }
        let inference = GrpcInferenceServiceServer::new(Service::new(state))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Deflate);
        Services { inference, others: others.prepare(), body_timeout, stop }
    }

    /// Answers a request, within the time that its client gives it.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let Services { mut inference, mut others, body_timeout, stop } = self.clone();
        let time = deadline::of(request.headers());
        let request = body::watch(request.map(Body::new), body_timeout, stop);
        let answer = async move {
            let inferred = request.uri().path().starts_with(INFERENCE);
            if inferred { inference.call(request).await } else { others.call(request).await }
        };
        async move {
            match time {
                None => answer.await,
                // Dropping the answer takes its rows out of the queue.
                Some(time) => tokio::time::timeout(time, answer)
                    .await
                    .unwrap_or_else(|_| Ok(Status::deadline_exceeded("Deadline Exceeded").into_http())),
            }
        }
    }
}
