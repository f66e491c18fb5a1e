//! Dynamic batching: requests that arrive one by one are computed together.
//!
//! A tower has one engine, or several: one for each of its cards, and one for each batch that a card is to have at once.
//! Each is owned by a plain thread, and all fetch their batches from one queue, which is locked while a batch is formed and
//! never while one is computed. A request goes there together with the sender of a one-shot channel for its answer. While
//! the engines compute, arrivals pile up, and they are the next batch: an idle device never waits, unless the options say
//! that it should, and a busy one finds ever larger batches.
//!
//! - **Order.** First come, first served, on each level of priority. A request whose rows do not all fit into a batch is
//!   split, and its parts may be computed at once.
//! - **Admission** is one rule for every door, counted in rows: a request that would make the queue longer than its
//!   bound is refused at once. What was taken in is never dropped.
//! - **Time.** A request whose wait is limited and over is answered at that moment, whatever the engine does.
//! - **Cancellation.** Whoever stops waiting for an answer drops the receiver. Before every batch the queue is cleared
//!   of such requests.
//! - **Failure.** If a batch fails or panics, the request at fault fails alone: the others are computed without it. If a
//!   card is lost, its batch goes to another one, as long as there is one.

mod canary;
mod device;
mod intake;
mod job;
mod queue;
mod repeats;
mod standing;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use siglip::engine::{Engine, EngineError, EngineInfo};
use siglip_protocol::Code;
use tokio::sync::oneshot;

use intake::Intake;
pub(crate) use job::Rows;
use job::{Job, Reply, Ticket};
pub use queue::QueuePolicy;
pub(crate) use standing::DeviceState;
use standing::Fleet;
use worker::Worker;

use crate::histogram::{self, Histogram};
use crate::statistics::{Failure, ModelCounters, Timing};

/// Embeddings, and how they came about.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// One row after the other.
    pub(crate) embeddings: Vec<f32>,
    /// The rows of the batch that completed the request.
    pub(crate) batch_rows: usize,
    pub(crate) timing: Timing,
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

    /// What a request counts as that it ends.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            BatchError::QueueFull | BatchError::TimedOut => Failure::Rejected,
            BatchError::Engine(_) | BatchError::Panicked(_) | BatchError::Stopped => Failure::Backend,
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
    /// Over all devices, the time during which a device had a batch.
    pub(crate) busy_us: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) fleet: Fleet,
    /// Of the cards among its devices.
    pub(crate) card_uuids: BTreeSet<String>,
    /// When a batch ended last, or, if that is later, since when rows wait; in milliseconds since `started`.
    last_progress_ms: AtomicU64,
    started: Instant,
}

impl Gauges {
    /// Takes `rows` into the queue's account, or does not.
    fn admit(&self, rows: usize) -> bool {
        let with = |queued| {
            let sum = self.with(queued, rows)?;
            self.begin_wait(queued);
            Some(sum)
        };
        self.queued_rows.fetch_update(Ordering::Release, Ordering::Relaxed, with).is_ok()
    }

    /// The length of a queue of `queued` rows with `rows` more, if it may have them. An empty one takes any request.
    fn with(&self, queued: usize, rows: usize) -> Option<usize> {
        let fits = queued.checked_add(rows).filter(|&sum| sum <= self.max_queue_size);
        fits.or((queued == 0).then_some(rows))
    }

    fn release(&self, rows: usize) {
        self.queued_rows.fetch_sub(rows, Ordering::Relaxed);
    }

    /// Takes rows into account again that were in a batch already, whatever the bound.
    fn put_back(&self, rows: usize) {
        let with = |queued| {
            self.begin_wait(queued);
            Some(queued + rows)
        };
        let _ = self.queued_rows.fetch_update(Ordering::Release, Ordering::Relaxed, with);
    }

    /// Takes down, before rows are added to a queue of `queued`, since when rows wait.
    fn begin_wait(&self, queued: usize) {
        if queued == 0 {
            self.progress();
        }
    }

    /// What is wrong, if no engine is sound.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fleet.fault()
    }

    /// Takes down that an engine has answered, or that nothing has waited for it until now.
    fn progress(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_progress_ms.store(since, Ordering::Relaxed);
    }

    /// Whether rows have waited for `time` and no batch has ended meanwhile.
    pub(crate) fn is_stuck(&self, time: Duration) -> bool {
        // In this order: whoever sees that rows wait sees since when.
        self.queued_rows() > 0 && {
            let last = Duration::from_millis(self.last_progress_ms.load(Ordering::Relaxed));
            self.started.elapsed().saturating_sub(last) > time
        }
    }

    pub(crate) fn queued_rows(&self) -> usize {
        self.queued_rows.load(Ordering::Acquire)
    }

    pub(crate) fn max_queue_size(&self) -> usize {
        self.max_queue_size
    }
}

/// The way to a tower's engines. When it is dropped, their threads finish the queue and end.
#[derive(Debug)]
pub(crate) struct Batcher {
    intake: Arc<Intake>,
    info: EngineInfo,
    gauges: Arc<Gauges>,
    policy: QueuePolicy,
    peak_flops: f64,
}

impl Batcher {
    /// Starts a thread for each of `engines`, of which there is one at least; all compute the same, to the bit where they
    /// are of one kind.
    pub(crate) fn start(engines: Vec<Box<dyn Engine>>, options: BatcherOptions) -> std::io::Result<Batcher> {
        let infos: Vec<EngineInfo> = engines.iter().map(|engine| engine.info().clone()).collect();
        let Some(info) = infos.first().cloned() else {
            return Err(std::io::Error::other("there is no engine to start a thread for"));
        };
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
            card_uuids: infos.iter().filter_map(|info| info.card_uuid.clone()).collect(),
            fleet: Fleet::new(infos.iter().map(|info| info.device.clone()).collect()),
            last_progress_ms: AtomicU64::new(0),
            started: Instant::now(),
        });
        let devices = device_numbers(&infos);
        let largest = infos.iter().map(|info| info.max_batch_size).min().unwrap_or(1);
        let intake = Arc::new(Intake::new(gauges.clone(), &options, largest, &devices));
        let batcher =
            Batcher { intake, info, gauges, policy: options.policy, peak_flops: options.peak_flops };
        for (engine, seat) in engines.into_iter().zip(batcher.intake.seats(&devices)) {
            let name = format!("siglip-{}-{}", batcher.info.tower, seat.engine);
            let worker = Worker::new(engine, seat, batcher.gauges.clone(), &options);
            std::thread::Builder::new().name(name).spawn(|| worker.run())?;
        }
        Ok(batcher)
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

    /// How long a request may wait for something that asks for a `timeout`; `None` for as long as it takes.
    pub(crate) fn patience(&self, timeout: Duration) -> Option<Duration> {
        self.policy.timeout(timeout)
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
        let job = Job::new(rows, level, ticket, counters, (received, queued), reply);
        if let Some(arrival) = self.intake.push(job) {
            // Waking an engine's thread costs more than reading a request. What other sockets hold already comes along.
            tokio::task::yield_now().await;
            drop(arrival);
        }
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

impl Drop for Batcher {
    fn drop(&mut self) {
        self.intake.close();
    }
}

/// A number for each engine's device, the same for those on the same one.
fn device_numbers(infos: &[EngineInfo]) -> Vec<usize> {
    let mut known: Vec<&str> = Vec::new();
    let mut numbers = Vec::with_capacity(infos.len());
    for info in infos {
        let number = known.iter().position(|device| *device == info.device).unwrap_or_else(|| {
            known.push(&info.device);
            known.len() - 1
        });
        numbers.push(number);
    }
    numbers
}
