//! Work that runs ahead of whoever needs its results: on several threads, by a bounded number of results, in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The results of a function over `0..count`, in this order, computed on threads of their own. Dropping it ends them.
pub(crate) struct Ahead<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Told when the next result is there, or none is to come.
    ready: Condvar,
    /// Told when a result was taken, or the threads are to end.
    room: Condvar,
    count: usize,
    /// The most results that wait to be taken or are being computed.
    ahead: usize,
}

struct State<T> {
    /// The next item that a thread begins.
    begun: usize,
    /// The next result that is taken.
    taken: usize,
    done: BTreeMap<usize, T>,
    /// Threads that still run.
    running: usize,
    stop: bool,
}

impl<T: Send + 'static> Ahead<T> {
    /// Starts `threads` threads that call `work`, never more than `ahead` results before the one that is taken next.
    pub(crate) fn start(
        count: usize,
        threads: usize,
        ahead: usize,
        work: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> std::io::Result<Ahead<T>> {
        let threads = threads.clamp(1, count.max(1));
        let state = State { begun: 0, taken: 0, done: BTreeMap::new(), running: threads, stop: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
            count,
            ahead: ahead.max(1),
        });
        let work = Arc::new(work);
        let mut started = Ahead { shared, threads: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let (shared, work) = (Arc::clone(&started.shared), Arc::clone(&work));
            let thread = std::thread::Builder::new().name("siglip-prepare".into()).spawn(move || {
                let _leaving = Leaving(&shared);
                while let Some(index) = shared.begin() {
                    let result = work(index);
                    shared.lock().done.insert(index, result);
                    shared.ready.notify_one();
                }
            })?;
            started.threads.push(thread);
        }
        Ok(started)
    }
}

impl<T> Iterator for Ahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        while state.taken < shared.count {
            let next = state.taken;
            if let Some(result) = state.done.remove(&next) {
                state.taken += 1;
                shared.room.notify_one();
                return Some(result);
            }
            // A thread that panicked took its result with it.
            assert!(state.running > 0, "a thread that works ahead panicked");
            state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // Its panic was told by `next`, or nobody wanted the result.
            let _ = thread.join();
        }
    }
}

impl<T> Shared<T> {
    /// The next item, once there is room for its result.
    fn begin(&self) -> Option<usize> {
        let mut state = self.lock();
        while !state.stop && state.begun < self.count {
            if state.begun < state.taken + self.ahead {
                state.begun += 1;
                return Some(state.begun - 1);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a thread out, however it leaves.
struct Leaving<'a, T>(&'a Shared<T>);

impl<T> Drop for Leaving<'_, T> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.ready.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn results_come_in_order_whoever_is_first() {
        let work = |index| {
            std::thread::sleep(Duration::from_micros(if index % 3 == 0 { 900 } else { 10 }));
            index * 10
        };
        let results: Vec<usize> = Ahead::start(200, 4, 7, work).unwrap().collect();
        assert_eq!(results, (0..200).map(|index| index * 10).collect::<Vec<_>>());
        assert_eq!(Ahead::start(0, 4, 7, work).unwrap().count(), 0);
    }

    #[test]
    fn no_more_is_begun_than_there_is_room_for() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let mut results = Ahead::start(100, 3, 5, move |_| counter.fetch_add(1, Ordering::SeqCst)).unwrap();
        for taken in 1..=50 {
            results.next();
            assert!(begun.load(Ordering::SeqCst) <= taken + 5);
        }
        drop(results);
        assert!(begun.load(Ordering::SeqCst) <= 55, "dropping ends the work");
    }

    #[test]
    #[should_panic(expected = "works ahead panicked")]
    fn a_panic_is_not_waited_for() {
        for _ in Ahead::start(3, 1, 2, |index| assert_ne!(index, 1)).unwrap() {}
    }
}
