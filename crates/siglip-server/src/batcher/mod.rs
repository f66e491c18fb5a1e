//! Dynamic batching: requests that arrive one by one are computed together.
//!
//! One plain thread per tower owns the engine and the queue; nothing of theirs is shared, so nothing is locked. A
//! request is sent to that thread over a channel together with the sender of a one-shot channel for its answer. While
//! the engine computes a batch, arrivals pile up in the channel, and they are the next batch: an idle engine never
//! waits, unless the options say that it should, and a busy one finds ever larger batches.
//!
//! - **Order.** First come, first served. A request whose rows do not all fit into a batch is split over two.
//! - **Admission** is one rule for every door, counted in rows: a request that would make the queue longer than its
//!   bound is refused at once. What was taken in is never dropped.
//! - **Cancellation.** Whoever stops waiting for an answer drops the receiver. Before every batch the queue is cleared
//!   of such requests.
//! - **Failure.** If a batch fails or panics, the request at fault fails alone: the others are computed without it.

mod job;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use siglip::engine::{Engine, EngineError, EngineInfo};
use siglip_protocol::Code;
use tokio::sync::oneshot;

pub(crate) use job::Rows;
use job::{Job, Reply};
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
            BatchError::QueueFull | BatchError::Stopped => Code::Unavailable,
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
    pub(crate) panics: AtomicU64,
}

impl Gauges {
    /// Takes `rows` into the queue's account, or does not. A queue that is empty takes any request.
    fn admit(&self, rows: usize) -> bool {
        let admitted = self.queued_rows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
            let fits = queued.checked_add(rows).filter(|&sum| sum <= self.max_queue_size);
            fits.or((queued == 0).then_some(rows))
        });
        admitted.is_ok()
    }

    fn release(&self, rows: usize) {
        self.queued_rows.fetch_sub(rows, Ordering::Relaxed);
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
            panics: AtomicU64::new(0),
        });
        let (jobs, arrivals) = mpsc::channel();
        let worker = Worker::new(engine, arrivals, gauges.clone(), options.max_queue_delay);
        std::thread::Builder::new().name(format!("siglip-{}", info.tower)).spawn(|| worker.run())?;
        Ok(Batcher { jobs, info, gauges })
    }

    pub(crate) fn info(&self) -> &EngineInfo {
        &self.info
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Whether `rows` more rows would be taken in now. To be asked before anything costly is done for them.
    pub(crate) fn check_room(&self, rows: usize) -> Result<(), BatchError> {
        let queued = self.gauges.queued_rows();
        if queued == 0 || queued.saturating_add(rows) <= self.gauges.max_queue_size {
            return Ok(());
        }
        self.gauges.refused.fetch_add(1, Ordering::Relaxed);
        Err(BatchError::QueueFull)
    }

    /// Queues a request and waits for its answer. Dropping the future cancels the request.
    ///
    /// `counters` are those of the model that was asked, `received` is when the request arrived.
    pub(crate) async fn embed(
        &self,
        rows: Rows,
        counters: Arc<ModelCounters>,
        received: Instant,
    ) -> Result<Answer, BatchError> {
        let count = rows.count();
        if !self.gauges.admit(count) {
            self.gauges.refused.fetch_add(1, Ordering::Relaxed);
            counters.record_failure(Failure::Rejected, received.elapsed());
            return Err(BatchError::QueueFull);
        }
        counters.pending.fetch_add(1, Ordering::Relaxed);
        let (reply, answer): (Reply, _) = oneshot::channel();
        // Without its thread, which ends only after all batchers are gone, the answer fails right below.
        let _ = self.jobs.send(Job::new(rows, counters, received, reply));
        answer.await.unwrap_or(Err(BatchError::Stopped))
    }
}
