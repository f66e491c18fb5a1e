//! The thread that owns an engine.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use siglip::engine::{Engine, EngineError};

use super::canary::Canary;
use super::intake::{Next, Seat};
use super::job::{Gathered, Job};
use super::repeats::Places;
use super::{BatchError, BatcherOptions, Gauges};
use crate::statistics::{Answered, StepTimes};

pub(super) struct Worker {
    engine: Box<dyn Engine>,
    seat: Seat,
    gauges: Arc<Gauges>,
    row_len: usize,
    embedding_size: usize,
    canary: Option<Canary>,
    gathered: Gathered,
    places: Places,
    output: Vec<f32>,
}

impl Worker {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        seat: Seat,
        gauges: Arc<Gauges>,
        options: &BatcherOptions,
    ) -> Self {
        let info = engine.info();
        Worker {
            row_len: info.input_len,
            embedding_size: info.embedding_size,
            gathered: Gathered::new(info),
            output: vec![0.0; info.max_batch_size * info.embedding_size],
            places: Places::default(),
            canary: Canary::new(info, options.canary_interval),
            engine,
            seat,
            gauges,
        }
    }

    /// Computes batches until nobody can send any more requests and none is left, or until the engine is lost and
    /// another one goes on.
    pub(super) fn run(mut self) {
        // Before anything can have gone wrong.
        self.ask_canary();
        loop {
            match self.seat.next(self.canary.as_ref().map(Canary::wait)) {
                Next::Batch(batch) => self.compute(batch),
                Next::Idle => self.ask_canary(),
                Next::End => return,
            }
        }
    }

    fn ask_canary(&mut self) {
        if self.gauges.fleet.lost(self.seat.engine).is_some() {
            return;
        }
        let Some(canary) = &mut self.canary else { return };
        let answer = canary.ask(self.engine.as_mut()).err();
        if let Some(fault) = &answer {
            tracing::error!(device = self.engine.info().device, "not ready any more: {fault}");
        } else {
            self.gauges.progress();
        }
        self.gauges.fleet.set_fault(self.seat.engine, answer);
    }

    /// Computes a batch. If it fails, the request at fault, or else each, is computed apart from the others; if it is the
    /// engine that is at fault, by another one.
    fn compute(&mut self, batch: Vec<Job>) {
        if let Some(reason) = self.gauges.fleet.lost(self.seat.engine) {
            self.end_flight();
            return self.give_up(vec![batch], &reason);
        }
        let mut groups = vec![batch];
        let mut again = false;
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            if std::mem::replace(&mut again, true) {
                self.seat.again(&group);
            }
            let (result, steps) = self.run_engine(&group);
            self.end_flight();
            match result {
                Ok(()) => self.settle(group, steps),
                Err(Failed::Engine(EngineError::Lost(reason))) => {
                    self.gauges.fleet.lose(self.seat.engine, &reason);
                    groups.push(group);
                    return self.give_up(groups, &reason);
                }
                Err(error) => {
                    record(&group, steps, &[]);
                    if let Some((index, row)) = self.row_at_fault(&group, &error) {
                        group.remove(index).fail(error_for(&error, row));
                        groups.push(group);
                    } else if self.is_at_fault() {
                        groups.push(group);
                        return self.seat.put_back(groups.into_iter().rev().flatten().collect());
                    } else if group.len() == 1 {
                        group.into_iter().for_each(|job| job.fail(error_for(&error, 0)));
                    } else {
                        // The last first, so that they are computed in order.
                        groups.extend(group.into_iter().rev().map(|job| vec![job]));
                    }
                }
            }
        }
    }

    /// After a failure: whether the engine fails at a known input, too, and another one does not. An engine that fails
    /// at everything is done quickly, and would fetch the others' requests as well.
    fn is_at_fault(&mut self) -> bool {
        self.ask_canary();
        !self.gauges.fleet.is_wanted(self.seat.engine)
    }

    /// Leaves groups, of which the last is to be computed first, to another engine, or answers them where there is none.
    fn give_up(&self, groups: Vec<Vec<Job>>, reason: &str) {
        let jobs = groups.into_iter().rev().flatten();
        if !self.gauges.fleet.is_wanted(self.seat.engine) {
            return self.seat.put_back(jobs.collect());
        }
        jobs.for_each(|job| job.fail(BatchError::Engine(EngineError::Lost(reason.to_owned()))));
    }

    /// Lets the next batch begin, and counts the time of this one.
    fn end_flight(&self) {
        let busy = u64::try_from(self.seat.computed().as_micros()).unwrap_or(u64::MAX);
        self.gauges.busy_us.fetch_add(busy, Ordering::Relaxed);
    }

    /// The request whose row the error names, and which of its rows that is.
    fn row_at_fault(&self, group: &[Job], failed: &Failed) -> Option<(usize, usize)> {
        let Failed::Engine(EngineError::NotFinite { row } | EngineError::TokenId { row, .. }) = failed else {
            return None;
        };
        let row = self.places.first_row(*row);
        let mut start = 0;
        for (index, job) in group.iter().enumerate() {
            if (start..start + job.rows()).contains(&row) {
                return Some((index, job.first() + row - start));
            }
            start += job.rows();
        }
        None
    }

    /// Gathers the rows of a group and calls the engine; the embeddings are then in `self.output`.
    fn run_engine(&mut self, group: &[Job]) -> (Result<(), Failed>, StepTimes) {
        let start = Instant::now();
        let rows: usize = group.iter().map(Job::rows).sum();
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
        let result = match result {
            Ok(result) => result.map_err(Failed::Engine),
            Err(panic) => {
                self.gauges.panics.fetch_add(1, Ordering::Relaxed);
                Err(Failed::Panic(panic_message(&*panic)))
            }
        };
        if let Err(error) = &result {
            tracing::error!(%error, rows, device = self.engine.info().device, "a batch failed");
        }
        (result, steps)
    }

    /// Hands out the embeddings of a group and answers the requests that are complete.
    fn settle(&self, group: Vec<Job>, mut steps: StepTimes) {
        let start = Instant::now();
        let mut rows = 0;
        for job in &group {
            let embedding = |row| {
                let start = self.places.of(row) * self.embedding_size;
                self.output.get(start..start + self.embedding_size).unwrap_or_default()
            };
            job.scatter((rows..rows + job.rows()).map(embedding));
            rows += job.rows();
        }
        steps.output = start.elapsed();
        // Counted before they are answered: whoever has an answer finds it in the statistics.
        let answered: Vec<_> = group.iter().map(|job| job.finish(steps)).collect();
        record(&group, steps, &answered);
        for (job, answered) in group.into_iter().zip(answered) {
            if answered.is_some() {
                job.answer(rows);
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
        let same = |other: &&Job| Arc::ptr_eq(other.counters(), job.counters());
        if group.iter().take(index).any(|other| same(&other)) {
            continue;
        }
        let rows = group.iter().filter(same).map(Job::rows).sum();
        let theirs = group.iter().zip(answered).filter(|(other, _)| same(other));
        let theirs: Vec<Answered> = theirs.filter_map(|(_, answered)| *answered).collect();
        job.counters().record_batch(rows, steps, &theirs);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
