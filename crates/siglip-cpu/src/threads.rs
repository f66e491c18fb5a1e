//! The threads of the CPU engines.
//!
//! One closure runs on all threads for a whole forward pass, and the threads meet at a [`Worker::barrier`] between
//! its phases: a few hundred times a pass, each costing well under a microsecond because nobody sleeps in between.
//! Between passes the threads wait in the kernel, so that an idle server costs no processor time.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A group of threads that run one job at a time together with the thread that calls [`Pool::run`].
///
/// Engines of one process share a pool, so that two towers never compete for the same cores: their passes take turns.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held during a job: the next caller waits its turn here.
    turn: Mutex<()>,
}

/// The number of threads that this process may keep busy: the affinity mask and the container's CPU quota, not the
/// machine's bare core count.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Pool {
    /// Starts `threads - 1` helpers; the caller of [`Pool::run`] is the last one.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            threads,
            job: UnsafeCell::new(None),
            epoch: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
            barrier: Barrier::default(),
        });
        let mut pool = Pool { shared, helpers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let helper = std::thread::Builder::new()
                .name(format!("siglip-cpu-{index}"))
                .spawn(move || help(&shared, index))?;
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// The number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `job` once on every thread and returns when all are done.
    ///
    /// # Panics
    ///
    /// When `job` panicked on any thread: the others leave at their next barrier, and the pool can be used again.
    pub fn run(&self, job: impl Fn(&Worker<'_>) + Sync) {
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        shared.barrier.reset();
        let job: &(dyn Fn(&Worker<'_>) + Sync) = &job;
        // SAFETY: only the lifetime is erased. Helpers use the job between the epoch's change and their leaving
        // `running`, and this function does not return before all have left.
        let erased: Job = unsafe { std::mem::transmute::<&(dyn Fn(&Worker<'_>) + Sync), Job>(job) };
        // SAFETY: no helper reads the cell before the epoch changes, and none is left from the job before.
        unsafe { *shared.job.get() = Some(erased) };
        shared.running.store(shared.threads - 1, Ordering::Relaxed);
        {
            // Under the lock, so that a helper on its way to sleep either sees the new epoch or gets the signal.
            let _asleep = lock(&shared.asleep);
            shared.epoch.fetch_add(1, Ordering::Release);
        }
        shared.wake.notify_all();

        let mine = catch_unwind(AssertUnwindSafe(|| job(&Worker { index: 0, shared })));
        if mine.is_err() {
            shared.barrier.abandon();
        }
        let mut wait = Backoff::default();
        while shared.running.load(Ordering::Acquire) > 0 {
            wait.pause();
        }
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!shared.barrier.is_abandoned(), "a thread of the CPU engine panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _asleep = lock(&self.shared.asleep);
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.epoch.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches every panic of a job; there is nothing left that its end could tell.
            let _ = helper.join();
        }
    }
}

/// One thread's view of a running job.
pub struct Worker<'a> {
    index: usize,
    shared: &'a Shared,
}

impl Worker<'_> {
    /// This thread's number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many threads run the job.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Returns once every thread has come here; what they wrote before is visible to all after.
    pub fn barrier(&self) {
        self.shared.barrier.wait(self.shared.threads);
    }

    /// This thread's part when `len` items are divided evenly in order.
    pub fn share(&self, len: usize) -> std::ops::Range<usize> {
        let at = |index: usize| len * index / self.shared.threads;
        at(self.index)..at(self.index + 1)
    }
}

type Job = &'static (dyn Fn(&Worker<'_>) + Sync);

struct Shared {
    threads: usize,
    job: UnsafeCell<Option<Job>>,
    /// Counts jobs; a change is the signal to start.
    epoch: AtomicUsize,
    /// Helpers that have not finished the job.
    running: AtomicUsize,
    stop: AtomicBool,
    asleep: Mutex<()>,
    wake: Condvar,
    barrier: Barrier,
}

// SAFETY: `job` is written by the thread that holds the pool's `turn` while no helper runs, and read by helpers after
// they saw the epoch change (release and acquire).
unsafe impl Sync for Shared {}

fn help(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = shared.next_epoch(seen);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the epoch changed, so the cell holds this job, and it stays until `running` is left.
        if let Some(job) = unsafe { *shared.job.get() } {
            let worker = Worker { index, shared };
            if catch_unwind(AssertUnwindSafe(|| job(&worker))).is_err() {
                shared.barrier.abandon();
            }
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

impl Shared {
    /// Waits for a job after number `seen`: spinning for some microseconds, as batches often follow one another
    /// closely, then asleep.
    fn next_epoch(&self, seen: usize) -> usize {
        for _ in 0..SPINS_BEFORE_SLEEP {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.asleep);
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// About 50 µs on current processors.
const SPINS_BEFORE_SLEEP: usize = 2_000;

/// All threads meet; the last to come opens the gate for the others.
#[derive(Default)]
struct Barrier {
    arrived: AtomicUsize,
    generation: AtomicUsize,
    abandoned: AtomicBool,
}

impl Barrier {
    fn wait(&self, threads: usize) {
        let generation = self.generation.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut wait = Backoff::default();
        while self.generation.load(Ordering::Acquire) == generation {
            assert!(!self.is_abandoned(), "another thread of the CPU engine panicked");
            wait.pause();
        }
    }

    /// Sends everybody home who waits or will wait: a thread that panicked will not come.
    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn reset(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.abandoned.store(false, Ordering::Relaxed);
    }
}

/// Spins at first; then gives the core away at every look, for whoever keeps the others from coming.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    fn pause(&mut self) {
        if self.0 < 4_000 {
            self.0 += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// A lock whose data a panic cannot have left inconsistent: there is none.
fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_phase_together() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..=20 {
                pool.run(|worker| {
                    for count in &counts {
                        count.fetch_add(1, Ordering::Relaxed);
                        worker.barrier();
                        assert_eq!(count.load(Ordering::Relaxed), round * threads);
                        worker.barrier();
                    }
                });
            }
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        let pool = Pool::new(3).unwrap();
        for len in [0, 1, 2, 3, 7, 64] {
            let seen: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            pool.run(|worker| {
                for count in &seen[worker.share(len)] {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_on_any_thread_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for victim in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|worker| {
                    assert_ne!(worker.index(), victim);
                    worker.barrier();
                });
            }));
            assert!(result.is_err());
            let ran = AtomicUsize::new(0);
            pool.run(|worker| {
                worker.barrier();
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 3);
        }
    }
}
