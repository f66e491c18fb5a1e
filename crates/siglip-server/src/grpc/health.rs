//! gRPC's health service. As Triton's, it answers for every service alike.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use siglip_protocol::grpc::health::health_check_response::ServingStatus;
use siglip_protocol::grpc::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::health_generated::health_server;
use crate::state::ServerState;

/// How long a change of health may take to be noticed by those who watch it.
const WATCH: Duration = Duration::from_secs(1);

pub(super) struct Health(pub(super) Arc<ServerState>);

fn status(state: &ServerState) -> ServingStatus {
    if state.registry.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: status(&self.0).into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // The first at once, and then every change.
        let changes = stream::unfold((self.0.clone(), None), |(state, told)| async move {
            loop {
                let now = status(&state);
                if told != Some(now) {
                    return Some((Ok(HealthCheckResponse { status: now.into() }), (state, Some(now))));
                }
                tokio::time::sleep(WATCH).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
