//! What each model has done: Triton's statistics and the metrics made from them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use siglip_protocol::statistics::{
    BatchStatistics, DurationStatistics, InferenceStatistics, ModelStatistics,
};

use crate::histogram::{Histogram, SECONDS};

/// The counters of one model.
///
/// All that belongs together is under one lock and changes together, so that a reader never sees a request that is
/// counted here and not there: clients of Triton check that. The batcher's thread takes the lock once a batch.
#[derive(Debug)]
pub(crate) struct ModelCounters {
    counters: Mutex<Counters>,
    /// Requests that wait for their first batch.
    pub(crate) pending: AtomicU64,
    /// From reception to answer.
    pub(crate) latency: Histogram,
}

#[derive(Clone, Debug, Default)]
struct Counters {
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    times: InferenceStatistics,
    batches: BTreeMap<u64, BatchStatistics>,
    failures: [u64; Failure::ALL.len()],
}

/// Why a request failed, as Triton's metrics tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Rejected,
    Backend,
    Canceled,
    Other,
}

impl Failure {
    pub(crate) const ALL: [Failure; 4] =
        [Failure::Rejected, Failure::Backend, Failure::Canceled, Failure::Other];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Failure::Rejected => "REJECTED",
            Failure::Backend => "BACKEND",
            Failure::Canceled => "CANCELED",
            Failure::Other => "OTHER",
        }
    }
}

/// The three steps of a batch, or of a request over all its batches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepTimes {
    pub(crate) input: Duration,
    pub(crate) infer: Duration,
    pub(crate) output: Duration,
}

impl StepTimes {
    pub(crate) fn total(&self) -> Duration {
        self.input + self.infer + self.output
    }
}

/// When a request went through its steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Its admission to the queue.
    pub(crate) queued: Instant,
    /// From there to its first batch.
    pub(crate) queue: Duration,
    /// Over all batches that it was part of.
    pub(crate) steps: StepTimes,
}

impl Timing {
    /// The start of computing, the ends of the input and infer steps, and the end; of a request that was part of several
    /// batches, as if they had followed one another at once.
    pub(crate) fn steps(&self) -> [Instant; 4] {
        let StepTimes { input, infer, output } = self.steps;
        let start = self.queued + self.queue;
        [start, start + input, start + input + infer, start + input + infer + output]
    }
}

impl std::ops::AddAssign for StepTimes {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.infer += other.infer;
        self.output += other.output;
    }
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) rows: usize,
    pub(crate) total: Duration,
    pub(crate) queue: Duration,
    pub(crate) steps: StepTimes,
}

/// A consistent copy of a model's counters.
pub(crate) struct Snapshot {
    pub(crate) statistics: ModelStatistics,
    pub(crate) failures: [(Failure, u64); Failure::ALL.len()],
}

impl ModelCounters {
    pub(crate) fn new() -> Self {
        ModelCounters {
            counters: Mutex::default(),
            pending: AtomicU64::new(0),
            latency: Histogram::new(SECONDS),
        }
    }

    /// Counts a batch with `rows` rows of this model, and the requests that it completed.
    pub(crate) fn record_batch(&self, rows: usize, steps: StepTimes, answered: &[Answered]) {
        let mut counters = self.lock();
        counters.execution_count += 1;
        let batch = counters.batches.entry(rows as u64).or_default();
        batch.batch_size = rows as u64;
        batch.compute_input.add(steps.input);
        batch.compute_infer.add(steps.infer);
        batch.compute_output.add(steps.output);
        if !answered.is_empty() {
            counters.last_inference = now_ms();
        }
        for request in answered {
            counters.inference_count += request.rows as u64;
            counters.times.success.add(request.total);
            counters.times.queue.add(request.queue);
            counters.times.compute_input.add(request.steps.input);
            counters.times.compute_infer.add(request.steps.infer);
            counters.times.compute_output.add(request.steps.output);
            self.latency.record(request.total.as_secs_f64());
        }
    }

    /// Counts a request that was answered from the cache, which was asked for as long as `lookup`.
    pub(crate) fn record_cache_hit(&self, total: Duration, lookup: Duration) {
        let mut counters = self.lock();
        counters.last_inference = now_ms();
        counters.times.success.add(total);
        counters.times.cache_hit.add(lookup);
        self.latency.record(total.as_secs_f64());
    }

    /// Counts a request that the cache could not answer, or not all of it.
    pub(crate) fn record_cache_miss(&self, lookup: Duration) {
        self.lock().times.cache_miss.add(lookup);
    }

    /// Counts a request that failed. Requests that are not what the model takes by their types and shapes are not
    /// counted, as by Triton.
    pub(crate) fn record_failure(&self, failure: Failure, total: Duration) {
        let mut counters = self.lock();
        counters.times.fail.add(total);
        let index = Failure::ALL.iter().position(|&kind| kind == failure);
        if let Some(count) = index.and_then(|index| counters.failures.get_mut(index)) {
            *count += 1;
        }
    }

    pub(crate) fn snapshot(&self, name: &str, version: &str) -> Snapshot {
        let counters = self.lock().clone();
        let mut failures = Failure::ALL.map(|failure| (failure, 0));
        for ((_, count), counted) in failures.iter_mut().zip(counters.failures) {
            *count = counted;
        }
        let statistics = ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: counters.last_inference,
            inference_count: counters.inference_count,
            execution_count: counters.execution_count,
            inference_stats: counters.times,
            batch_stats: counters.batches.into_values().collect(),
            ..ModelStatistics::default()
        };
        Snapshot { statistics, failures }
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        // Counters are whole whatever happened to a thread that held them.
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A duration in whole microseconds, as metrics show it.
pub(crate) fn micros(times: &DurationStatistics) -> u64 {
    times.ns / 1000
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
