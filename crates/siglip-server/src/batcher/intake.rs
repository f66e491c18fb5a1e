//! Where requests wait and the threads of the engines fetch them.
//!
//! Whoever has nothing to do forms the next batch, under a lock that is held for that only. Engines on one device take
//! turns on it, so beside a batch that is computed there only a full one is begun, or one shortly before that batch ends: a
//! smaller one would merely be queued behind it, and can still grow where it is. Under load the next batch is so on the
//! device before the one before it ends, and its results are handed out while the device computes on.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::device::Device;
use super::job::{Abandoned, Job};
use super::queue::{Formed, Queue};
use super::{BatcherOptions, Gauges};

/// The queue that all engines of a tower share.
#[derive(Debug)]
pub(super) struct Intake {
    state: Mutex<State>,
    /// Something arrived, a device has room, or it is over.
    changed: Condvar,
    max_queue_delay: Duration,
    max_batch_size: usize,
    gauges: Arc<Gauges>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Whether more may come.
    open: bool,
    /// Threads that fetch batches.
    seats: usize,
    /// Those among them that wait for a change.
    waiting: usize,
    /// Whether there is an [`Arrival`] that they are not told of yet.
    arrival: bool,
    devices: Vec<Device>,
}

/// What an engine's thread is to do next.
pub(super) enum Next {
    Batch(Vec<Job>),
    /// Nothing came for a while.
    Idle,
    /// Nothing will come any more, or the engine is not needed.
    End,
}

/// Word for the engines that wait that something has arrived. They are told when it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Arrival<'a>(&'a Intake);

/// An engine's place at the intake, given back when its thread ends, however it does.
#[derive(Debug)]
pub(super) struct Seat {
    intake: Arc<Intake>,
    /// The engine's number.
    pub(super) engine: usize,
    device: usize,
}

impl Intake {
    /// An intake for engines of which each has the device of that number.
    pub(super) fn new(
        gauges: Arc<Gauges>,
        options: &BatcherOptions,
        max_batch_size: usize,
        devices: &[usize],
    ) -> Self {
        let state = State {
            queue: Queue::new(&options.policy),
            open: true,
            seats: devices.len(),
            waiting: 0,
            arrival: false,
            devices: vec![Device::new(max_batch_size); devices.iter().max().map_or(0, |last| last + 1)],
        };
        Intake {
            state: Mutex::new(state),
            changed: Condvar::new(),
            max_queue_delay: options.max_queue_delay,
            max_batch_size,
            gauges,
        }
    }

    /// The places of its engines, in their order.
    pub(super) fn seats(self: &Arc<Self>, devices: &[usize]) -> Vec<Seat> {
        let seat = |(engine, &device)| Seat { intake: Arc::clone(self), engine, device };
        devices.iter().enumerate().map(seat).collect()
    }

    /// Takes a request in. If nobody is there to compute it, it is dropped, and its caller sees that.
    ///
    /// If an engine waits for it, the engine is told by the [`Arrival`]: the caller may first let others arrive that are
    /// on their way.
    pub(super) fn push(&self, job: Job) -> Option<Arrival<'_>> {
        let mut state = self.lock();
        if state.seats == 0 {
            return None;
        }
        state.queue.push(job);
        let first = state.waiting > 0 && !std::mem::replace(&mut state.arrival, true);
        first.then(|| Arrival(self))
    }

    /// Nothing more will come: what is here is finished.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        self.tell(state);
    }

    /// Wakes those who wait for a change, after the lock is free: they need it. If nobody waits, that is no system call.
    fn tell(&self, state: MutexGuard<'_, State>) {
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.changed.notify_all();
        }
    }

    /// Whether an engine of a device may begin a batch: now, or from some moment on.
    fn when(&self, state: &State, device: usize) -> Option<Instant> {
        let oldest = state.queue.oldest()?;
        if state.queue.rows() >= self.max_batch_size {
            return Some(oldest);
        }
        let room = state.devices.get(device)?.room()?;
        let delay = if state.open { self.max_queue_delay } else { Duration::ZERO };
        Some(room.max(oldest + delay))
    }

    /// Takes the next batch from the queue, which is cleared of requests that nobody waits for.
    fn form(&self, state: &mut State) -> Vec<Job> {
        let Formed { batch, abandoned } = state.queue.form(self.max_batch_size, Instant::now());
        for job in &abandoned {
            self.gauges.release(job.rows());
            self.gauges.count_abandoned(job.abandon());
        }
        self.gauges.release(batch.iter().map(Job::rows).sum());
        batch
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.arrival = false;
        self.0.tell(state);
    }
}

impl Gauges {
    fn count_abandoned(&self, how: Abandoned) {
        let count = match how {
            Abandoned::TimedOut => &self.timed_out,
            Abandoned::Cancelled => &self.cancelled,
            Abandoned::Answered => return,
        };
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Seat {
    /// Waits for a batch, or until nothing came for `patience`.
    ///
    /// The batch counts as being computed until [`Seat::computed`].
    pub(super) fn next(&self, patience: Option<Duration>) -> Next {
        let Intake { gauges, changed, .. } = &*self.intake;
        let mut idle_from = Instant::now();
        let mut state = self.intake.lock();
        loop {
            let wanted = gauges.fleet.is_wanted(self.engine);
            if !wanted && gauges.fleet.lost(self.engine).is_some() {
                return Next::End;
            }
            let now = Instant::now();
            let begin = wanted.then(|| self.intake.when(&state, self.device)).flatten();
            if begin.is_some_and(|begin| begin <= now) {
                let batch = self.intake.form(&mut state);
                if batch.is_empty() {
                    continue;
                }
                state.begin(self.device, &batch);
                // What is left may make another batch for another engine.
                self.intake.tell(state);
                return Next::Batch(batch);
            }
            if !state.open && state.queue.is_empty() {
                return Next::End;
            }
            if let Some(patience) = patience
                && now.saturating_duration_since(idle_from) >= patience
            {
                if state.queue.is_empty() || !wanted {
                    return Next::Idle;
                }
                idle_from = now;
            }
            let wake = begin.into_iter().chain(patience.map(|patience| idle_from + patience)).min();
            state.waiting += 1;
            state = match wake {
                Some(wake) => {
                    let left = wake.saturating_duration_since(now);
                    changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.waiting -= 1;
        }
    }

    /// Takes down that a part of a batch is computed once more.
    pub(super) fn again(&self, group: &[Job]) {
        self.intake.lock().begin(self.device, group);
    }

    /// Takes down that the device is done with a batch, so that the next one may begin. Returns the time since it began,
    /// less what was counted for batches beside it.
    pub(super) fn computed(&self) -> Duration {
        let mut state = self.intake.lock();
        let busy = state.devices.get_mut(self.device).map(|device| device.end(Instant::now()));
        self.intake.tell(state);
        busy.unwrap_or_default()
    }

    /// Puts a batch back that this engine cannot compute, for another one.
    pub(super) fn put_back(&self, batch: Vec<Job>) {
        let mut state = self.intake.lock();
        for job in batch.into_iter().rev() {
            self.intake.gauges.put_back(job.rows());
            state.queue.push_front(job);
        }
        self.intake.tell(state);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.intake.lock();
        state.seats -= 1;
        if state.seats == 0 {
            // Only after a bug is anything left; whoever waits for it is told so by its being dropped.
            let rows = state.queue.rows();
            state.queue.clear();
            self.intake.gauges.release(rows);
        }
    }
}

impl State {
    fn begin(&mut self, device: usize, batch: &[Job]) {
        if let Some(device) = self.devices.get_mut(device) {
            device.begin(batch.iter().map(Job::rows).sum(), Instant::now());
        }
    }
}
