//! The requests that wait for an engine.
//!
//! Pure bookkeeping: it is told what time it is, so that tests can say.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::job::Job;

/// How requests wait, in the terms of Triton's queue policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// Levels of priority, of which 1 is served first; 0 if all requests are alike.
    pub priority_levels: u32,
    /// How long a request may wait for its batch, if it does not say so itself. Zero for as long as it takes.
    pub default_timeout: Duration,
    /// Whether a request may say so itself, with the parameter `timeout`.
    pub allow_timeout_override: bool,
}

impl QueuePolicy {
    /// The level of requests that ask for none: the middle one.
    pub fn default_priority_level(&self) -> u32 {
        self.priority_levels.div_ceil(2)
    }

    /// The level of a request that asks for `priority`, counted from 0.
    pub(super) fn level(&self, priority: u64) -> usize {
        let asked = u32::try_from(priority).ok().filter(|asked| (1..=self.priority_levels).contains(asked));
        asked.unwrap_or(self.default_priority_level()).saturating_sub(1) as usize
    }

    /// How long a request waits that asks for a `timeout`; `None` for as long as it takes.
    pub(super) fn timeout(&self, timeout: Duration) -> Option<Duration> {
        let own = if self.allow_timeout_override { timeout } else { Duration::ZERO };
        let timeout = if own.is_zero() { self.default_timeout } else { own };
        (!timeout.is_zero()).then_some(timeout)
    }
}

/// The requests that wait, first come, first served on each level.
#[derive(Debug)]
pub(super) struct Queue {
    levels: Vec<VecDeque<Job>>,
    rows: usize,
}

/// What came out of the queue.
pub(super) struct Formed {
    pub(super) batch: Vec<Job>,
    /// Requests that nobody waits for any more.
    pub(super) abandoned: Vec<Job>,
}

impl Queue {
    pub(super) fn new(policy: &QueuePolicy) -> Self {
        let levels = policy.priority_levels.max(1) as usize;
        Queue { levels: std::iter::repeat_with(VecDeque::new).take(levels).collect(), rows: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.levels.iter().all(VecDeque::is_empty)
    }

    /// Rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Since when the request has waited that has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.levels.iter().filter_map(VecDeque::front).map(Job::queued).min()
    }

    pub(super) fn push(&mut self, job: Job) {
        self.rows += job.rows();
        self.level(&job).push_back(job);
    }

    /// Puts a request back that is to be in the next batch.
    pub(super) fn push_front(&mut self, job: Job) {
        self.rows += job.rows();
        self.level(&job).push_front(job);
    }

    /// Drops all requests.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
        self.levels.iter_mut().for_each(VecDeque::clear);
    }

    /// Takes a batch of up to `room` rows that starts `now`. Of the last request only a part may be taken; the rest of it
    /// goes on with the next batch.
    pub(super) fn form(&mut self, mut room: usize, now: Instant) -> Formed {
        let mut formed = Formed { batch: Vec::new(), abandoned: Vec::new() };
        for level in &mut self.levels {
            if level.iter().any(Job::is_abandoned) {
                let (gone, kept): (VecDeque<Job>, VecDeque<Job>) =
                    std::mem::take(level).into_iter().partition(Job::is_abandoned);
                *level = kept;
                formed.abandoned.extend(gone);
            }
            while room > 0
                && let Some(mut job) = level.pop_front()
            {
                if job.begin(now) {
                    if let Some(rest) = job.split(room) {
                        level.push_front(rest);
                    }
                    room -= job.rows();
                    formed.batch.push(job);
                } else {
                    formed.abandoned.push(job);
                }
            }
        }
        self.rows -= formed.batch.iter().chain(&formed.abandoned).map(Job::rows).sum::<usize>();
        formed
    }

    fn level(&mut self, job: &Job) -> &mut VecDeque<Job> {
        // A policy's levels are as many as the queue's, of which there is one at least.
        let last = self.levels.len() - 1;
        &mut self.levels[job.level().min(last)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::super::job::{Reply, Rows, Ticket};
    use super::*;
    use crate::statistics::ModelCounters;

    /// The queue with an engine and a clock that are only numbers.
    struct Simulation {
        queue: Queue,
        policy: QueuePolicy,
        start: Instant,
        now: Duration,
        counters: Arc<ModelCounters>,
        /// Callers that wait, by their request's first token id.
        callers: BTreeMap<u32, oneshot::Receiver<Result<super::super::Answer, super::super::BatchError>>>,
    }

    const MAX_BATCH: usize = 8;
    /// What a batch takes: a part for itself and a part for each row.
    const BATCH: Duration = Duration::from_millis(10);
    const ROW: Duration = Duration::from_millis(2);

    impl Simulation {
        fn new(policy: QueuePolicy) -> Self {
            let (start, counters) = (Instant::now(), Arc::new(ModelCounters::new()));
            Simulation {
                queue: Queue::new(&policy),
                policy,
                start,
                now: Duration::ZERO,
                counters,
                callers: BTreeMap::new(),
            }
        }

        fn clock(&self) -> Instant {
            self.start + self.now
        }

        fn arrive(&mut self, id: u32, rows: usize, priority: u64, ticket: Option<Arc<Ticket>>) {
            let (reply, answer): (Reply, _) = oneshot::channel();
            self.callers.insert(id, answer);
            let (level, now) = (self.policy.level(priority), self.clock());
            let rows = Rows::token_ids(rows, vec![id; rows]);
            self.counters.pending.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.queue.push(Job::new(rows, level, ticket, self.counters.clone(), (now, now), reply));
        }

        /// Computes one batch; gives the ids of the requests in it with their rows, and those that were completed.
        fn run(&mut self) -> (Vec<(u32, usize)>, Vec<u32>) {
            let Formed { batch, abandoned } = self.queue.form(MAX_BATCH, self.clock());
            for job in &abandoned {
                job.abandon();
            }
            let rows: usize = batch.iter().map(Job::rows).sum();
            assert!(rows <= MAX_BATCH);
            self.now += BATCH + ROW * rows as u32;
            let (mut members, mut done) = (Vec::new(), Vec::new());
            for job in batch {
                members.push((job.id(), job.rows()));
                if job.is_last() {
                    done.push(job.id());
                }
            }
            (members, done)
        }

        fn run_all(&mut self) -> Vec<u32> {
            let mut order = Vec::new();
            while !self.queue.is_empty() {
                order.extend(self.run().1);
            }
            order
        }
    }

    #[test]
    fn first_come_first_served_whatever_the_sizes() {
        let mut simulation = Simulation::new(QueuePolicy::default());
        let sizes = [3, 8, 1, 20, 1, 1, 5];
        sizes.iter().zip(1..).for_each(|(&rows, id)| simulation.arrive(id, rows, 0, None));
        assert_eq!(simulation.queue.rows(), 39);
        assert_eq!(simulation.run().0, [(1, 3), (2, 5)]);
        assert_eq!(simulation.run(), (vec![(2, 3), (3, 1), (4, 4)], vec![2, 3]));
        assert_eq!(simulation.run_all(), [4, 5, 6, 7]);
    }

    /// Small requests beside large ones that never end: whoever comes is served within the work that was there before.
    #[test]
    fn nobody_starves_beside_large_requests() {
        let mut simulation = Simulation::new(QueuePolicy::default());
        let mut arrived = BTreeMap::new();
        for id in 1..2000 {
            // A large one every time, and a small one in between: 130 % of what the engine can do.
            simulation.arrive(id, if id % 2 == 0 { 1 } else { 12 }, 0, None);
            arrived.insert(id, (simulation.now, simulation.queue.rows()));
            for done in simulation.run().1 {
                let (since, before) = arrived.remove(&done).unwrap();
                let batches = before.div_ceil(MAX_BATCH) as u32 + 1;
                assert!(
                    simulation.now - since <= (BATCH + ROW * MAX_BATCH as u32) * batches,
                    "request {done}"
                );
            }
        }
        assert_eq!(simulation.run_all().len(), arrived.len());
    }

    #[test]
    fn higher_levels_first_and_the_usual_one_in_the_middle() {
        let policy = QueuePolicy { priority_levels: 3, ..QueuePolicy::default() };
        assert_eq!(policy.default_priority_level(), 2);
        let mut simulation = Simulation::new(policy);
        // 0 and what does not exist are the usual level.
        for (id, priority) in [(1, 3), (2, 0), (3, 1), (4, 2), (5, 99), (6, 1)] {
            simulation.arrive(id, 4, priority, None);
        }
        assert_eq!(simulation.run_all(), [3, 6, 2, 4, 5, 1]);

        // One level stands for all without levels, whatever a request asks for.
        let mut simulation = Simulation::new(QueuePolicy::default());
        [(1, 3), (2, 1), (3, 0)].iter().for_each(|&(id, priority)| simulation.arrive(id, 4, priority, None));
        assert_eq!(simulation.run_all(), [1, 2, 3]);
    }

    #[test]
    fn a_request_begun_goes_on_before_others_of_its_level_and_after_higher_ones() {
        let mut simulation = Simulation::new(QueuePolicy { priority_levels: 2, ..QueuePolicy::default() });
        simulation.arrive(1, 20, 2, None);
        simulation.run();
        simulation.arrive(2, 1, 2, None);
        simulation.arrive(3, 4, 1, None);
        assert_eq!(simulation.run(), (vec![(3, 4), (1, 4)], vec![3]));
        assert_eq!(simulation.run_all(), [1, 2]);
    }

    #[test]
    fn the_abandoned_cost_nothing_and_the_begun_do_not_expire() {
        let mut simulation = Simulation::new(QueuePolicy::default());
        let ticket = || Some(Arc::new(Ticket::default()));
        let (first, second, third) = (ticket(), ticket(), ticket());
        simulation.arrive(1, 12, 0, first.clone());
        simulation.arrive(2, 1, 0, second.clone());
        simulation.arrive(3, 1, 0, third.clone());
        simulation.arrive(4, 1, 0, None);
        simulation.run();
        assert!(!first.unwrap().expire(), "half of it is computed");
        assert!(second.unwrap().expire());
        simulation.callers.remove(&4);
        assert_eq!(simulation.run(), (vec![(1, 4), (3, 1)], vec![1, 3]));
        assert!(!third.unwrap().expire());
        assert!(simulation.queue.is_empty());
    }

    #[test]
    fn whose_timeout_counts() {
        let (short, long) = (Duration::from_millis(5), Duration::from_secs(5));
        let policy = |default_timeout, allow_timeout_override| QueuePolicy {
            default_timeout,
            allow_timeout_override,
            ..QueuePolicy::default()
        };
        assert_eq!(policy(Duration::ZERO, false).timeout(short), None);
        assert_eq!(policy(long, false).timeout(short), Some(long));
        assert_eq!(policy(long, true).timeout(short), Some(short));
        assert_eq!(policy(long, true).timeout(Duration::ZERO), Some(long));
        assert_eq!(policy(Duration::ZERO, true).timeout(Duration::ZERO), None);
    }
}
