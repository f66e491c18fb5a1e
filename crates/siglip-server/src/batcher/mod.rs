//! Dynamic batching: requests that arrive one by one are computed together.
//!
//! One plain thread per tower owns the engine and the queue; nothing of theirs is shared, so nothing is locked. A
//! request is sent to that thread over a channel together with the sender of a one-shot channel for its answer. While
//! the engine computes a batch, arrivals pile up in the channel, and they are the next batch: an idle engine never
//! waits, unless the options say that it should, and a busy one finds ever larger batches.
//!
//! - **Order.** First come, first served, on each level of priority. A request whose rows do not all fit into a batch is split over two.
//! - **Admission** is one rule for every door, counted in rows: a request that would make the queue longer than its
//!   bound is refused at once. What was taken in is never dropped.
//! - **Time.** A request whose wait is limited and over is answered at that moment, whatever the engine does.
//! - **Cancellation.** Whoever stops waiting for an answer drops the receiver. Before every batch the queue is cleared
//!   of such requests.
//! - **Failure.** If a batch fails or panics, the request at fault fails alone: the others are computed without it.

mod canary;
mod job;
mod queue;
mod repeats;
mod worker;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use siglip::engine::{Engine, EngineError, EngineInfo};
use siglip_protocol::Code;
use tokio::sync::oneshot;

pub(crate) use job::Rows;
use job::{Job, Reply, Ticket};
pub use queue::QueuePolicy;
use worker::Worker;

use crate::histogram::{self, Histogram};
use crate::statistics::{Failure, ModelCounters};

/// Embeddings, and how they came about.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// One row after the other.
    pub(crate) embeddings: Vec<f32>,
    /// The rows of the batch that completed the request.
    pub(crate) batch_rows: usize,
    /// From admission to the first batch.
    pub(crate) queue: Duration,
    /// Over all batches that the request was part of.
    pub(crate) compute: Duration,
}

/// Why there are no embeddings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("Exceeds maximum queue size")]
    QueueFull,
    #[error("Request timeout expired")]
    TimedOut,
    #[error(transparent)]
    Engine(EngineError),
    #[error("the engine panicked while it computed this request: {0}")]
    Panicked(String),
    #[error("the server stopped before it computed this request")]
    Stopped,
}

impl BatchError {
    pub(crate) fn code(&self) -> Code {
        match self {
            BatchError::QueueFull | BatchError::TimedOut | BatchError::Stopped => Code::Unavailable,
            BatchError::Engine(EngineError::TokenId { .. }) => Code::InvalidArgument,
            BatchError::Engine(_) | BatchError::Panicked(_) => Code::Internal,
        }
    }
}

/// How a batcher is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatcherOptions {
    pub(crate) max_queue_delay: Duration,
    pub(crate) max_queue_size: usize,
    pub(crate) policy: QueuePolicy,
    /// How often an idle engine is asked something whose answer is known; zero for never.
    pub(crate) canary_interval: Duration,
    /// For the metrics; 0 if unknown.
    pub(crate) peak_flops: f64,
}

/// What is to become of a request beside being computed.
pub(crate) struct Admission {
    /// The counters of the model that was asked.
    pub(crate) counters: Arc<ModelCounters>,
    /// When the request arrived.
    pub(crate) received: Instant,
    /// As the request has it; 0 if it has none.
    pub(crate) priority: u64,
    /// As the request has it; zero if it has none.
    pub(crate) timeout: Duration,
}

/// What the doors and the metrics see of a batcher.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// Rows that wait.
    queued_rows: AtomicUsize,
    max_queue_size: usize,
    pub(crate) batch_rows: Histogram,
    pub(crate) refused: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    /// Rows that were not computed because the same ones were, in the same batch.
    pub(crate) repeated_rows: AtomicU64,
    pub(crate) computed_rows: AtomicU64,
    pub(crate) busy_us: AtomicU64,
    pub(crate) panics: AtomicU64,
    /// What is wrong with the engine.
    fault: Mutex<Option<String>>,
    /// When the last batch ended, in milliseconds since `started`.
    last_batch_ms: AtomicU64,
    started: Instant,
}

impl Gauges {
    /// Takes `rows` into the queue's account, or does not.
    fn admit(&self, rows: usize) -> bool {
        let with = |queued| self.with(queued, rows);
        self.queued_rows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).is_ok()
    }

    /// The length of a queue of `queued` rows with `rows` more, if it may have them. An empty one takes any request.
    fn with(&self, queued: usize, rows: usize) -> Option<usize> {
        let fits = queued.checked_add(rows).filter(|&sum| sum <= self.max_queue_size);
        fits.or((queued == 0).then_some(rows))
    }

    fn release(&self, rows: usize) {
        self.queued_rows.fetch_sub(rows, Ordering::Relaxed);
    }

    fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// What is wrong with the engine, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes down that a batch has ended.
    fn progress(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_batch_ms.store(since, Ordering::Relaxed);
    }

    /// Whether rows wait although no batch has ended for `time`.
    pub(crate) fn is_stuck(&self, time: Duration) -> bool {
        let last = Duration::from_millis(self.last_batch_ms.load(Ordering::Relaxed));
        self.queued_rows() > 0 && self.started.elapsed().saturating_sub(last) > time
    }

    pub(crate) fn queued_rows(&self) -> usize {
        self.queued_rows.load(Ordering::Relaxed)
    }

    pub(crate) fn max_queue_size(&self) -> usize {
        self.max_queue_size
    }
}

/// The way to a tower's engine. When the last one is dropped, the thread finishes its queue and ends.
#[derive(Debug)]
pub(crate) struct Batcher {
    jobs: mpsc::Sender<Job>,
    info: EngineInfo,
    gauges: Arc<Gauges>,
    policy: QueuePolicy,
    peak_flops: f64,
}

impl Batcher {
    /// Starts the thread that owns `engine`.
    pub(crate) fn start(engine: Box<dyn Engine>, options: BatcherOptions) -> std::io::Result<Batcher> {
        let info = engine.info().clone();
        let gauges = Arc::new(Gauges {
            queued_rows: AtomicUsize::new(0),
            max_queue_size: options.max_queue_size,
            batch_rows: Histogram::new(histogram::ROWS),
            refused: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            repeated_rows: AtomicU64::new(0),
            computed_rows: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            fault: Mutex::default(),
            last_batch_ms: AtomicU64::new(0),
            started: Instant::now(),
        });
        let (jobs, arrivals) = mpsc::channel();
        let worker = Worker::new(engine, arrivals, gauges.clone(), &options);
        std::thread::Builder::new().name(format!("siglip-{}", info.tower)).spawn(|| worker.run())?;
        Ok(Batcher { jobs, info, gauges, policy: options.policy, peak_flops: options.peak_flops })
    }

    pub(crate) fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// What the machine could do, in floating-point operations a second; 0 if unknown.
    pub(crate) fn peak_flops(&self) -> f64 {
        self.peak_flops
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Whether `rows` more rows would be taken in now. To be asked before anything costly is done for them.
    pub(crate) fn check_room(
        &self,
        rows: usize,
        counters: &ModelCounters,
        received: Instant,
    ) -> Result<(), BatchError> {
        match self.gauges.with(self.gauges.queued_rows(), rows) {
            Some(_) => Ok(()),
            None => Err(self.refuse(counters, received)),
        }
    }

    /// Counts a request as refused.
    fn refuse(&self, counters: &ModelCounters, received: Instant) -> BatchError {
        self.gauges.refused.fetch_add(1, Ordering::Relaxed);
        counters.record_failure(Failure::Rejected, received.elapsed());
        BatchError::QueueFull
    }

    /// Queues a request and waits for its answer. Dropping the future cancels the request.
    pub(crate) async fn embed(&self, rows: Rows, admission: Admission) -> Result<Answer, BatchError> {
        let Admission { counters, received, priority, timeout } = admission;
        let count = rows.count();
        if !self.gauges.admit(count) {
            return Err(self.refuse(&counters, received));
        }
        counters.pending.fetch_add(1, Ordering::Relaxed);
        let (reply, mut answer): (Reply, _) = oneshot::channel();
        let queued = Instant::now();
        let limit = self.policy.timeout(timeout).map(|timeout| (timeout, Arc::new(Ticket::default())));
        let ticket = limit.as_ref().map(|(_, ticket)| ticket.clone());
        let level = self.policy.level(priority);
        // Without its thread, which ends only after all batchers are gone, the answer fails right below.
        let _ = self.jobs.send(Job::new(rows, level, ticket, counters, (received, queued), reply));
        if let Some((timeout, ticket)) = limit {
            match tokio::time::timeout(timeout, &mut answer).await {
                Ok(answer) => return answer.unwrap_or(Err(BatchError::Stopped)),
                Err(_) if ticket.expire() => return Err(BatchError::TimedOut),
                // It is being computed.
                Err(_) => {}
            }
        }
        answer.await.unwrap_or(Err(BatchError::Stopped))
    }
}
