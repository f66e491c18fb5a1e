//! A model's statistics.

use serde::Serialize;
use serde_json::{Map, Value};

/// The reply to a request for statistics.
#[derive(Clone, Debug, Serialize)]
pub struct StatisticsReply {
    /// One entry a model.
    pub model_stats: Vec<ModelStatistics>,
}

/// What a model has done so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModelStatistics {
    /// The model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When the last request was answered, in milliseconds since 1970; 0 if none was.
    pub last_inference: u64,
    /// Rows that were computed.
    pub inference_count: u64,
    /// Batches that were computed.
    pub execution_count: u64,
    /// Requests and their times.
    pub inference_stats: InferenceStatistics,
    /// For models that answer with several responses; always empty.
    pub response_stats: Map<String, Value>,
    /// Batches and their times, by size.
    pub batch_stats: Vec<BatchStatistics>,
    /// Memory by device; always empty.
    pub memory_usage: [(); 0],
}

/// Requests and their times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct InferenceStatistics {
    /// Answered, from reception to answer.
    pub success: DurationStatistics,
    /// Failed, from reception to failure.
    pub fail: DurationStatistics,
    /// Waiting for a batch.
    pub queue: DurationStatistics,
    /// Gathering the inputs of a batch.
    pub compute_input: DurationStatistics,
    /// Computing.
    pub compute_infer: DurationStatistics,
    /// Handing out the outputs of a batch.
    pub compute_output: DurationStatistics,
    /// Requests that the cache answered, and the time that it took to look.
    pub cache_hit: DurationStatistics,
    /// Requests that it did not answer, or not all of it.
    pub cache_miss: DurationStatistics,
}

/// Batches of one size and their times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BatchStatistics {
    /// Rows of the model in the batch.
    pub batch_size: u64,
    /// Gathering the inputs.
    pub compute_input: DurationStatistics,
    /// Computing.
    pub compute_infer: DurationStatistics,
    /// Handing out the outputs.
    pub compute_output: DurationStatistics,
}

/// How often, and how long altogether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DurationStatistics {
    /// How often.
    pub count: u64,
    /// How many nanoseconds.
    pub ns: u64,
}

impl DurationStatistics {
    /// Counts one more.
    pub fn add(&mut self, duration: std::time::Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}
