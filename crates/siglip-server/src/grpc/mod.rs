//! The gRPC door.

mod body;
mod connection;
mod error;
mod health;
mod infer;
mod manage;
mod service;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tower::util::MapRequestLayer;

use crate::listener::Listener;
use crate::state::ServerState;
use generated::grpc_inference_service_server::GrpcInferenceServiceServer;
use health_generated::health_server::HealthServer;
use service::Service;

/// How long a client may take to answer a ping, at most: Triton's `--grpc-keepalive-timeout`.
const PONG: Duration = Duration::from_secs(20);

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
    let limit = state.options.max_body_bytes;
    let (header_timeout, body_timeout) = (state.options.header_timeout, state.options.body_timeout);
    let health = health::Health(state.clone());
    let inference = GrpcInferenceServiceServer::new(Service::new(state))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate);
    let watch = MapRequestLayer::new(move |request| body::watch(request, body_timeout));
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(header_timeout))
        .http2_keepalive_timeout(Some(PONG.min(header_timeout)))
        .layer(watch)
        .add_service(inference)
        .add_service(HealthServer::new(health));
    // The descriptors are those of this build; if they were not, only reflection would be missing.
    match tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1alpha()
    {
        Ok(reflection) => server = server.add_service(reflection),
        Err(error) => tracing::warn!(%error, "gRPC reflection is not available"),
    }
    let incoming = connection::incoming(listener, header_timeout);
    let stopped = async {
        // An error means that the sender is gone, and the server with it.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
        tracing::error!(%error, "gRPC ended");
    }
    // Held until here: the server waits for whoever holds one.
    drop(stop);
}
