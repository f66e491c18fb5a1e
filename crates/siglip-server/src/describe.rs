//! What the server says of itself and its models, for every door to put into its own form.

use siglip_protocol::config::{ConfigDetails, ModelConfig};
use siglip_protocol::metadata::{EXTENSIONS, ModelMetadata, ServerMetadata};
use siglip_protocol::repository::IndexEntry;
use siglip_protocol::statistics::ModelStatistics;

use crate::batcher::DeviceState;
use crate::endpoint::Endpoint;
use crate::registry::{Listed, VERSION};
use crate::state::ServerState;

/// What runs the models, and the server's name.
const NAME: &str = "siglip";

pub(crate) fn server() -> ServerMetadata<'static> {
    ServerMetadata { name: NAME, version: env!("CARGO_PKG_VERSION"), extensions: &EXTENSIONS }
}

pub(crate) fn metadata(endpoint: &Endpoint) -> ModelMetadata<'_> {
    ModelMetadata::of(endpoint.spec(), &[VERSION], NAME)
}

pub(crate) fn config<'a>(state: &ServerState, endpoint: &'a Endpoint) -> ModelConfig<'a> {
    let policy = state.options.queue_policy;
    let delay = state.options.max_queue_delay.as_micros();
    let devices = endpoint.batcher().map(|batcher| batcher.gauges().fleet.devices()).unwrap_or_default();
    let card = |state: &DeviceState| state.device.strip_prefix("cuda:")?.parse().ok();
    let details = ConfigDetails {
        backend: NAME,
        gpus: devices.iter().filter_map(card).collect(),
        instances: devices.first().map_or(1, |state| u32::try_from(state.engines).unwrap_or(u32::MAX)),
        max_queue_delay_us: u64::try_from(delay).unwrap_or(u64::MAX),
        max_queue_size: state.options.max_queue_size,
        priority_levels: policy.priority_levels,
        default_priority_level: policy.default_priority_level(),
        default_timeout_us: u64::try_from(policy.default_timeout.as_micros()).unwrap_or(u64::MAX),
        allow_timeout_override: policy.allow_timeout_override,
    };
    ModelConfig::of(endpoint.spec(), &details)
}

pub(crate) fn statistics(endpoint: &Endpoint) -> ModelStatistics {
    endpoint.counters().snapshot(&endpoint.spec().name, VERSION).statistics
}

/// The repository's index, or its part that is ready.
pub(crate) fn index(state: &ServerState, ready_only: bool) -> impl Iterator<Item = IndexEntry<'static>> {
    let listed = state.registry.list().into_iter();
    listed.filter(move |listed| listed.reason.is_none() || !ready_only).map(|Listed { name, reason }| {
        let state = if reason.is_none() { "READY" } else { "UNAVAILABLE" };
        IndexEntry { name, version: VERSION, state, reason: reason.unwrap_or_default() }
    })
}
