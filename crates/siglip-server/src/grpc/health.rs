//! gRPC's health service. As Triton's, it answers for every service alike.

use std::pin::Pin;

use futures_util::stream::{self, Stream, StreamExt};
use siglip_protocol::grpc::health::health_check_response::ServingStatus;
use siglip_protocol::grpc::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::health_generated::health_server;

#[derive(Clone, Copy, Debug)]
pub(super) struct Health;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // Nothing changes while the connection lasts; it ends with the server.
        let once = stream::once(async { Ok(serving()) });
        Ok(Response::new(Box::pin(once.chain(stream::pending()))))
    }
}
