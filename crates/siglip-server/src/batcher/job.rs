//! A request in the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use siglip::engine::{EngineInfo, Input, Tower};
use tokio::sync::oneshot;

use super::repeats::Places;
use super::{Answer, BatchError};
use crate::statistics::{Answered, Failure, ModelCounters, StepTimes};

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<Answer, BatchError>>;

/// The rows of a request, checked: all there, every id within the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    count: usize,
    data: RowData,
}

#[derive(Clone, Debug)]
enum RowData {
    TokenIds(Vec<u32>),
    Pixels(Vec<f32>),
    /// Little-endian, a slice of the request's body: copied only once, into the batch.
    PixelBytes(Bytes),
    /// Each row by itself, as images are prepared.
    PixelRows(Vec<Vec<f32>>),
}

impl Rows {
    pub(crate) fn token_ids(count: usize, ids: Vec<u32>) -> Self {
        Rows { count, data: RowData::TokenIds(ids) }
    }

    pub(crate) fn pixels(count: usize, pixels: Vec<f32>) -> Self {
        Rows { count, data: RowData::Pixels(pixels) }
    }

    pub(crate) fn pixel_bytes(count: usize, bytes: Bytes) -> Self {
        Rows { count, data: RowData::PixelBytes(bytes) }
    }

    pub(crate) fn pixel_rows(rows: Vec<Vec<f32>>) -> Self {
        Rows { count: rows.len(), data: RowData::PixelRows(rows) }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// The rows of a batch, one after the other; allocated once for the largest batch.
pub(super) enum Gathered {
    TokenIds(Vec<u32>),
    Pixels(Vec<f32>),
}

impl Gathered {
    pub(super) fn new(info: &EngineInfo) -> Self {
        let capacity = info.max_batch_size * info.input_len;
        match info.tower {
            Tower::Text => Gathered::TokenIds(Vec::with_capacity(capacity)),
            Tower::Vision => Gathered::Pixels(Vec::with_capacity(capacity)),
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Gathered::TokenIds(ids) => ids.clear(),
            Gathered::Pixels(pixels) => pixels.clear(),
        }
    }

    pub(super) fn as_input(&self) -> Input<'_> {
        match self {
            Gathered::TokenIds(ids) => Input::TokenIds(ids),
            Gathered::Pixels(pixels) => Input::PixelValues(pixels),
        }
    }

    /// Leaves one of each row. Images are not compared: nobody sends the same one twice within a batch.
    pub(super) fn compact(&mut self, places: &mut Places, rows: usize, row_len: usize) {
        match self {
            Gathered::TokenIds(ids) if rows > 1 => places.compact(ids, row_len),
            _ => places.all_distinct(rows),
        }
    }

    /// Appends `count` rows of `rows`, from row `first` on. Rows of the other tower append nothing, which the engine
    /// then reports.
    fn append(&mut self, rows: &Rows, first: usize, count: usize, row_len: usize) {
        let (start, end) = (first * row_len, (first + count) * row_len);
        match (self, &rows.data) {
            (Gathered::TokenIds(out), RowData::TokenIds(ids)) => {
                out.extend_from_slice(ids.get(start..end).unwrap_or_default());
            }
            (Gathered::Pixels(out), RowData::Pixels(pixels)) => {
                out.extend_from_slice(pixels.get(start..end).unwrap_or_default());
            }
            (Gathered::Pixels(out), RowData::PixelBytes(bytes)) => {
                let (values, _) = bytes.get(start * 4..end * 4).unwrap_or_default().as_chunks::<4>();
                out.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
            }
            (Gathered::Pixels(out), RowData::PixelRows(rows)) => {
                let rows = rows.get(first..first + count).unwrap_or_default();
                rows.iter().for_each(|row| out.extend_from_slice(row));
            }
            _ => {}
        }
    }
}

/// What a caller that waits for a limited time and the engine's thread agree on: whether the request went into a batch
/// in time. Whoever is first decides.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    const WAITING: u8 = 0;
    const TAKEN: u8 = 1;
    const EXPIRED: u8 = 2;

    /// Gives the wait up; false if the request is in a batch already.
    pub(super) fn expire(&self) -> bool {
        self.decide(Self::EXPIRED)
    }

    fn take(&self) -> bool {
        self.decide(Self::TAKEN)
    }

    fn is_expired(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::EXPIRED
    }

    fn decide(&self, state: u8) -> bool {
        self.0.compare_exchange(Self::WAITING, state, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A request in the queue, or in a batch.
pub(super) struct Job {
    /// Its level in the queue, 0 for the first that is served.
    level: usize,
    /// If its wait is limited.
    ticket: Option<Arc<Ticket>>,
    rows: Rows,
    /// Rows that went into a batch, this one or an earlier one.
    taken: usize,
    /// Rows of the batch that is being computed.
    in_batch: usize,
    embeddings: Vec<f32>,
    pub(super) counters: Arc<ModelCounters>,
    received: Instant,
    queued: Instant,
    queue_time: Duration,
    steps: StepTimes,
    reply: Reply,
}

impl Job {
    pub(super) fn new(
        rows: Rows,
        level: usize,
        ticket: Option<Arc<Ticket>>,
        counters: Arc<ModelCounters>,
        (received, queued): (Instant, Instant),
        reply: Reply,
    ) -> Self {
        Job {
            level,
            ticket,
            rows,
            taken: 0,
            in_batch: 0,
            embeddings: Vec::new(),
            counters,
            received,
            queued,
            queue_time: Duration::ZERO,
            steps: StepTimes::default(),
            reply,
        }
    }

    pub(super) fn level(&self) -> usize {
        self.level
    }

    pub(super) fn queued(&self) -> Instant {
        self.queued
    }

    /// Rows that still wait.
    pub(super) fn waiting(&self) -> usize {
        self.rows.count - self.taken
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed() || self.is_expired()
    }

    /// Whether it waited too long for its first batch, and its caller was told so.
    pub(super) fn is_expired(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.is_expired())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.waiting() == 0
    }

    /// Its first token id: what tests know it by.
    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        match &self.rows.data {
            RowData::TokenIds(ids) => ids.first().copied().unwrap_or_default(),
            _ => 0,
        }
    }

    pub(super) fn in_batch(&self) -> usize {
        self.in_batch
    }

    /// The first of its rows that is in the batch.
    pub(super) fn first_in_batch(&self) -> usize {
        self.taken - self.in_batch
    }

    /// Takes up to `room` rows for the batch that starts `now`; false if its caller has given up.
    pub(super) fn take(&mut self, room: usize, now: Instant) -> bool {
        if self.taken == 0 {
            if self.ticket.as_ref().is_some_and(|ticket| !ticket.take()) {
                return false;
            }
            self.queue_time = now.saturating_duration_since(self.queued);
            self.counters.pending.fetch_sub(1, Ordering::Relaxed);
        }
        self.in_batch = self.waiting().min(room);
        self.taken += self.in_batch;
        true
    }

    /// Appends the rows taken for the batch to it.
    pub(super) fn gather(&self, batch: &mut Gathered, row_len: usize) {
        batch.append(&self.rows, self.first_in_batch(), self.in_batch, row_len);
    }

    /// Keeps the embedding of the next row taken for the batch.
    pub(super) fn scatter(&mut self, embedding: &[f32]) {
        if self.embeddings.capacity() == 0 {
            self.embeddings.reserve_exact(embedding.len() * self.rows.count);
        }
        self.embeddings.extend_from_slice(embedding);
    }

    /// Adds the times of the batch. If that completes the request, it is to be counted as answered.
    pub(super) fn add_times(&mut self, steps: StepTimes) -> Option<Answered> {
        self.steps += steps;
        self.is_complete().then(|| Answered {
            rows: self.rows.count,
            total: self.received.elapsed(),
            queue: self.queue_time,
            steps: self.steps,
        })
    }

    /// Answers the request, which was completed by a batch of `batch_rows`.
    pub(super) fn answer(self, batch_rows: usize) {
        let compute = self.steps.input + self.steps.infer + self.steps.output;
        let answer = Answer { embeddings: self.embeddings, batch_rows, queue: self.queue_time, compute };
        // Whoever went away meanwhile does not miss it.
        let _ = self.reply.send(Ok(answer));
    }

    /// Answers the request with an error.
    pub(super) fn fail(self, error: BatchError) {
        self.counters.record_failure(Failure::Backend, self.received.elapsed());
        let _ = self.reply.send(Err(error));
    }

    /// Counts the request as one that its caller gave up, or that waited too long.
    pub(super) fn abandon(&self) {
        if self.taken == 0 {
            self.counters.pending.fetch_sub(1, Ordering::Relaxed);
        }
        let failure = if self.is_expired() { Failure::Rejected } else { Failure::Canceled };
        self.counters.record_failure(failure, self.received.elapsed());
    }
}
