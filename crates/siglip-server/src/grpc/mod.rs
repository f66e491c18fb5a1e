//! The gRPC door.

mod error;
mod health;
mod infer;
mod manage;
mod service;
mod settings;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::state::ServerState;
use generated::grpc_inference_service_server::GrpcInferenceServiceServer;
use health_generated::health_server::HealthServer;
use service::Service;

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
pub(crate) async fn serve(listener: TcpListener, state: Arc<ServerState>, mut stop: watch::Receiver<bool>) {
    let limit = state.options.max_body_bytes;
    let health = health::Health(state.clone());
    let inference = GrpcInferenceServiceServer::new(Service::new(state))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate);
    let mut server = Server::builder().add_service(inference).add_service(HealthServer::new(health));
    // The descriptors are those of this build; if they were not, only reflection would be missing.
    match tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1alpha()
    {
        Ok(reflection) => server = server.add_service(reflection),
        Err(error) => tracing::warn!(%error, "gRPC reflection is not available"),
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
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
