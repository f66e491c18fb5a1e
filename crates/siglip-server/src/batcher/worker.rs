//! The thread that owns an engine and its queue.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use siglip::engine::{Engine, EngineError};

use super::canary::Canary;
use super::job::{Gathered, Job};
use super::queue::{Formed, Queue};
use super::repeats::Places;
use super::{BatchError, BatcherOptions, Gauges};
use crate::statistics::{Answered, StepTimes};

pub(super) struct Worker {
    engine: Box<dyn Engine>,
    arrivals: Receiver<Job>,
    gauges: Arc<Gauges>,
    max_queue_delay: Duration,
    max_batch_size: usize,
    row_len: usize,
    embedding_size: usize,
    queue: Queue,
    canary: Canary,
    gathered: Gathered,
    places: Places,
    output: Vec<f32>,
}

impl Worker {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        arrivals: Receiver<Job>,
        gauges: Arc<Gauges>,
        options: &BatcherOptions,
    ) -> Self {
        let info = engine.info();
        Worker {
            max_batch_size: info.max_batch_size,
            row_len: info.input_len,
            embedding_size: info.embedding_size,
            gathered: Gathered::new(info),
            output: vec![0.0; info.max_batch_size * info.embedding_size],
            places: Places::default(),
            canary: Canary::new(info, options.canary_interval),
            queue: Queue::new(&options.policy),
            engine,
            arrivals,
            gauges,
            max_queue_delay: options.max_queue_delay,
        }
    }

    /// Computes batches until nobody can send any more requests and none is left.
    pub(super) fn run(mut self) {
        while self.wait() {
            let batch = self.form();
            self.compute(batch);
        }
    }

    /// Waits for a request, and for more if the options say so; false at the end.
    fn wait(&mut self) -> bool {
        while self.queue.is_empty() {
            let arrival = match self.canary.wait() {
                Some(time) => self.arrivals.recv_timeout(time),
                None => self.arrivals.recv().map_err(RecvTimeoutError::from),
            };
            match arrival {
                Ok(job) => self.queue.push(job),
                Err(RecvTimeoutError::Timeout) => self.ask_canary(),
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        self.arrivals.try_iter().for_each(|job| self.queue.push(job));
        if self.max_queue_delay > Duration::ZERO {
            self.wait_for_company();
        }
        true
    }

    fn ask_canary(&mut self) {
        let answer = self.canary.ask(self.engine.as_mut()).err();
        if let Some(fault) = &answer {
            tracing::error!("not ready any more: {fault}");
        }
        self.gauges.set_fault(answer);
    }

    /// Waits until a batch is full or the first request has waited long enough.
    fn wait_for_company(&mut self) {
        let Some(oldest) = self.queue.oldest() else { return };
        let deadline = oldest + self.max_queue_delay;
        let mut waiting = self.queue.rows();
        while waiting < self.max_batch_size {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals.recv_timeout(left) {
                Ok(job) => {
                    waiting += job.waiting();
                    self.queue.push(job);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes the next batch from the queue, which is cleared of requests that nobody waits for.
    fn form(&mut self) -> Vec<Job> {
        let Formed { batch, abandoned } = self.queue.form(self.max_batch_size, Instant::now());
        for job in abandoned {
            self.gauges.release(job.waiting());
            let count = if job.is_expired() { &self.gauges.timed_out } else { &self.gauges.cancelled };
            count.fetch_add(1, Ordering::Relaxed);
            job.abandon();
        }
        self.gauges.release(batch.iter().map(Job::in_batch).sum());
        batch
    }

    /// Computes a batch. If it fails, the request at fault, or else each, is computed apart from the others.
    fn compute(&mut self, batch: Vec<Job>) {
        let mut groups = vec![batch];
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            let (result, steps) = self.run_engine(&group);
            match result {
                Ok(()) => self.settle(group, steps),
                Err(error) => {
                    record(&group, steps, &[]);
                    if let Some((index, row)) = self.row_at_fault(&group, &error) {
                        self.fail(group.remove(index), error_for(&error, row));
                        groups.push(group);
                    } else if group.len() == 1 {
                        group.into_iter().for_each(|job| self.fail(job, error_for(&error, 0)));
                    } else {
                        // The last first, so that they are computed in order.
                        groups.extend(group.into_iter().rev().map(|job| vec![job]));
                    }
                }
            }
        }
    }

    /// The request whose row the error names, and which of its rows that is.
    fn row_at_fault(&self, group: &[Job], failed: &Failed) -> Option<(usize, usize)> {
        let Failed::Engine(EngineError::NotFinite { row } | EngineError::TokenId { row, .. }) = failed else {
            return None;
        };
        let row = self.places.first_row(*row);
        let mut start = 0;
        for (index, job) in group.iter().enumerate() {
            if (start..start + job.in_batch()).contains(&row) {
                return Some((index, job.first_in_batch() + row - start));
            }
            start += job.in_batch();
        }
        None
    }

    /// Answers a request with an error. Rows of it that still wait are not computed.
    fn fail(&self, job: Job, error: BatchError) {
        self.gauges.release(job.waiting());
        job.fail(error);
    }

    /// Gathers the rows of a group and calls the engine; the embeddings are then in `self.output`.
    fn run_engine(&mut self, group: &[Job]) -> (Result<(), Failed>, StepTimes) {
        let start = Instant::now();
        let rows: usize = group.iter().map(Job::in_batch).sum();
        self.gathered.clear();
        for job in group {
            job.gather(&mut self.gathered, self.row_len);
        }
        self.gathered.compact(&mut self.places, rows, self.row_len);
        let computed = self.places.computed();
        let gathered = Instant::now();
        let output = self.output.get_mut(..computed * self.embedding_size).unwrap_or_default();
        let engine = &mut self.engine;
        let input = self.gathered.as_input();
        // The engine says of itself that it can be used again after an error. After a panic it is used again because
        // its next answer is either right or an error; its scratch memory is overwritten by every batch.
        let result = catch_unwind(AssertUnwindSafe(|| engine.embed(input, output)));
        let steps = StepTimes { input: gathered - start, infer: gathered.elapsed(), ..StepTimes::default() };
        self.gauges.batch_rows.record(rows as f64);
        self.gauges.progress();
        self.gauges.computed_rows.fetch_add(computed as u64, Ordering::Relaxed);
        self.gauges.repeated_rows.fetch_add((rows - computed) as u64, Ordering::Relaxed);
        let busy = u64::try_from(steps.infer.as_micros()).unwrap_or(u64::MAX);
        self.gauges.busy_us.fetch_add(busy, Ordering::Relaxed);
        let result = match result {
            Ok(result) => result.map_err(Failed::Engine),
            Err(panic) => {
                self.gauges.panics.fetch_add(1, Ordering::Relaxed);
                Err(Failed::Panic(panic_message(&*panic)))
            }
        };
        if let Err(error) = &result {
            tracing::error!(%error, rows, "a batch failed");
        }
        (result, steps)
    }

    /// Hands out the embeddings of a group and answers the requests that are complete.
    fn settle(&mut self, mut group: Vec<Job>, mut steps: StepTimes) {
        let start = Instant::now();
        let mut rows = 0;
        for job in &mut group {
            for row in rows..rows + job.in_batch() {
                let start = self.places.of(row) * self.embedding_size;
                job.scatter(self.output.get(start..start + self.embedding_size).unwrap_or_default());
            }
            rows += job.in_batch();
        }
        steps.output = start.elapsed();
        // Counted before they are answered: whoever has an answer finds it in the statistics.
        let answered: Vec<_> = group.iter_mut().map(|job| job.add_times(steps)).collect();
        record(&group, steps, &answered);
        for job in group {
            if job.is_complete() {
                job.answer(rows);
            } else {
                // At most the last of a batch was split; it goes on with the next one.
                self.queue.push_front(job);
            }
        }
    }
}

/// Why the engine gave no embeddings.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Engine(EngineError),
    #[error("panic: {0}")]
    Panic(String),
}

/// The error as the answer to one request, of which `row` is at fault if the error names a row.
fn error_for(failed: &Failed, row: usize) -> BatchError {
    match failed {
        Failed::Engine(error) => BatchError::Engine(match error {
            EngineError::TokenId { id, position, vocab_size, .. } => {
                EngineError::TokenId { id: *id, row, position: *position, vocab_size: *vocab_size }
            }
            EngineError::NotFinite { .. } => EngineError::NotFinite { row },
            other => EngineError::Device(other.to_string()),
        }),
        Failed::Panic(message) => BatchError::Panicked(message.clone()),
    }
}

/// Counts a batch for every model that has rows in it.
fn record(group: &[Job], steps: StepTimes, answered: &[Option<Answered>]) {
    for (index, job) in group.iter().enumerate() {
        let same = |other: &&Job| Arc::ptr_eq(&other.counters, &job.counters);
        if group.iter().take(index).any(|other| same(&other)) {
            continue;
        }
        let rows = group.iter().filter(same).map(Job::in_batch).sum();
        let theirs = group.iter().zip(answered).filter(|(other, _)| same(other));
        let theirs: Vec<Answered> = theirs.filter_map(|(_, answered)| *answered).collect();
        job.counters.record_batch(rows, steps, &theirs);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
