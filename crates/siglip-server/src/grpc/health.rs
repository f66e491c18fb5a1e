//! gRPC's health service. As Triton's, it answers for every service alike.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use siglip_protocol::grpc::health::health_check_response::ServingStatus;
use siglip_protocol::grpc::health::{HealthCheckRequest, HealthCheckResponse};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::health_generated::health_server;
use crate::state::ServerState;

/// How long a change of health may take to be noticed by those who watch it.
const WATCH: Duration = Duration::from_secs(1);

pub(super) struct Health {
    state: Arc<ServerState>,
    /// Changes when the server is to stop.
    stop: watch::Receiver<bool>,
}

impl Health {
    pub(super) fn new(state: Arc<ServerState>, stop: watch::Receiver<bool>) -> Self {
        Health { state, stop }
    }
}

fn status(state: &ServerState) -> ServingStatus {
    if state.registry.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: status(&self.state).into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // The first at once, and then every change; the last is that the server stops.
        let watch = (self.state.clone(), self.stop.clone(), None);
        let changes = stream::unfold(watch, |(state, mut stop, told)| async move {
            loop {
                // Without the sender the server is gone.
                let stopped = *stop.borrow() || stop.has_changed().is_err();
                let now = if stopped { ServingStatus::NotServing } else { status(&state) };
                if told != Some(now) {
                    return Some((Ok(HealthCheckResponse { status: now.into() }), (state, stop, Some(now))));
                }
                if stopped {
                    return None;
                }
                // However that ends, the loop looks again.
                let _ = tokio::time::timeout(WATCH, stop.wait_for(|stop| *stop)).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
