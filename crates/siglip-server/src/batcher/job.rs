//! A request in the queue.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use siglip::engine::{EngineInfo, Input, Tower};
use tokio::sync::oneshot;

use super::repeats::Places;
use super::{Answer, BatchError};
use crate::statistics::{Answered, Failure, ModelCounters, StepTimes, Timing};

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

/// A request that was taken in. Its rows may be spread over several batches, which may be computed at once.
#[derive(Debug)]
pub(super) struct Request {
    /// If its wait is limited.
    ticket: Option<Arc<Ticket>>,
    rows: Rows,
    counters: Arc<ModelCounters>,
    received: Instant,
    queued: Instant,
    progress: Mutex<Progress>,
}

/// What has become of a request so far.
#[derive(Debug, Default)]
struct Progress {
    /// Whether rows of it went into a batch.
    begun: bool,
    queue_time: Duration,
    /// Of all its rows, once the first of them are there.
    embeddings: Vec<f32>,
    computed: usize,
    steps: StepTimes,
    /// Until it is answered.
    reply: Option<Reply>,
}

/// Why a request is not computed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// It waited too long, and its caller was told so.
    TimedOut,
    /// Its caller went away.
    Cancelled,
    /// It was answered already, since others of its rows failed.
    Answered,
}

/// Rows of a request: all that wait, or those in one batch.
#[derive(Debug)]
pub(super) struct Job {
    request: Arc<Request>,
    /// Its level in the queue, 0 for the first that is served.
    level: usize,
    first: usize,
    count: usize,
}

impl Job {
    /// All rows of a new request.
    pub(super) fn new(
        rows: Rows,
        level: usize,
        ticket: Option<Arc<Ticket>>,
        counters: Arc<ModelCounters>,
        (received, queued): (Instant, Instant),
        reply: Reply,
    ) -> Self {
        let count = rows.count;
        let progress = Mutex::new(Progress { reply: Some(reply), ..Progress::default() });
        let request = Arc::new(Request { ticket, rows, counters, received, queued, progress });
        Job { request, level, first: 0, count }
    }

    pub(super) fn level(&self) -> usize {
        self.level
    }

    pub(super) fn queued(&self) -> Instant {
        self.request.queued
    }

    pub(super) fn counters(&self) -> &Arc<ModelCounters> {
        &self.request.counters
    }

    /// How many rows these are.
    pub(super) fn rows(&self) -> usize {
        self.count
    }

    /// The first of them in its request.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_expired() || self.progress().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Whether it waited too long for its first batch, and its caller was told so.
    fn is_expired(&self) -> bool {
        self.request.ticket.as_ref().is_some_and(|ticket| ticket.is_expired())
    }

    /// Its first token id: what tests know it by.
    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        match &self.request.rows.data {
            RowData::TokenIds(ids) => ids.first().copied().unwrap_or_default(),
            _ => 0,
        }
    }

    /// Whether no rows of its request come after these.
    #[cfg(test)]
    pub(super) fn is_last(&self) -> bool {
        self.first + self.count == self.request.rows.count
    }

    /// Takes down that rows of it go into the batch that starts `now`; false if its caller has given up.
    pub(super) fn begin(&self, now: Instant) -> bool {
        let mut progress = self.progress();
        if !progress.begun {
            if self.request.ticket.as_ref().is_some_and(|ticket| !ticket.take()) {
                return false;
            }
            progress.begun = true;
            progress.queue_time = now.saturating_duration_since(self.request.queued);
            self.request.counters.pending.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    /// Leaves up to `room` rows here and returns the others, if there are any.
    pub(super) fn split(&mut self, room: usize) -> Option<Job> {
        let rest = self.count.checked_sub(room).filter(|rest| *rest > 0)?;
        self.count = room;
        Some(Job {
            request: Arc::clone(&self.request),
            level: self.level,
            first: self.first + room,
            count: rest,
        })
    }

    /// Appends the rows to a batch.
    pub(super) fn gather(&self, batch: &mut Gathered, row_len: usize) {
        batch.append(&self.request.rows, self.first, self.count, row_len);
    }

    /// Keeps the rows' embeddings.
    pub(super) fn scatter<'a>(&self, embeddings: impl Iterator<Item = &'a [f32]>) {
        let mut progress = self.progress();
        for (row, embedding) in embeddings.take(self.count).enumerate() {
            if progress.embeddings.is_empty() {
                progress.embeddings.resize(embedding.len() * self.request.rows.count, 0.0);
            }
            let start = (self.first + row) * embedding.len();
            if let Some(place) = progress.embeddings.get_mut(start..start + embedding.len()) {
                place.copy_from_slice(embedding);
            }
        }
    }

    /// Adds the times of the batch that computed the rows. If that completes the request, it is to be counted as
    /// answered, and to be [answered](Job::answer).
    pub(super) fn finish(&self, steps: StepTimes) -> Option<Answered> {
        let mut progress = self.progress();
        progress.steps += steps;
        progress.computed += self.count;
        (progress.computed == self.request.rows.count).then(|| Answered {
            rows: self.request.rows.count,
            total: self.request.received.elapsed(),
            queue: progress.queue_time,
            steps: progress.steps,
        })
    }

    /// Answers the request, which was completed by a batch of `batch_rows`.
    pub(super) fn answer(self, batch_rows: usize) {
        let mut progress = self.progress();
        let timing =
            Timing { queued: self.request.queued, queue: progress.queue_time, steps: progress.steps };
        let embeddings = std::mem::take(&mut progress.embeddings);
        if let Some(reply) = progress.reply.take() {
            // Whoever went away meanwhile does not miss it.
            let _ = reply.send(Ok(Answer { embeddings, batch_rows, timing }));
        }
    }

    /// Answers the request with an error, unless it was answered already.
    pub(super) fn fail(self, error: BatchError) {
        if let Some(reply) = self.progress().reply.take() {
            self.request.counters.record_failure(Failure::Backend, self.request.received.elapsed());
            let _ = reply.send(Err(error));
        }
    }

    /// Counts the request as one that its caller gave up, or that waited too long, unless it was answered already.
    pub(super) fn abandon(&self) -> Abandoned {
        let mut progress = self.progress();
        if progress.reply.take().is_none() {
            return Abandoned::Answered;
        }
        if !progress.begun {
            self.request.counters.pending.fetch_sub(1, Ordering::Relaxed);
        }
        let (how, failure) = if self.is_expired() {
            (Abandoned::TimedOut, Failure::Rejected)
        } else {
            (Abandoned::Cancelled, Failure::Canceled)
        };
        self.request.counters.record_failure(failure, self.request.received.elapsed());
        how
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.request.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
