//! Who does which part of a phase.
//!
//! Where there are rows enough, each thread has its own and works on the same ones in every phase: what it reads is what
//! it wrote, and lies in its own caches. A core that reads what another wrote waits several times as long, most of all
//! where the two share no cache; in return every thread reads all of the weights, which costs little beside the
//! multiplication by many rows. With few rows the threads share them and divide the columns. In between, with many
//! threads, teams of threads have rows together.
//!
//! Whoever is done early goes on with what other teams have left, so that a thread that the machine disturbs delays
//! nobody. None of this changes a result: an element is computed alike by every thread.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::path::{Layout, Path};
use crate::threads::Worker;

/// Rows that make a team worth while: fewer, and reading the weights once more costs more than it saves.
const ROWS_OF_A_TEAM: usize = 96;
/// The same for a tile unit: beside its speed, reading them takes longer.
const ROWS_OF_A_TILED_TEAM: usize = 128;

/// The threads of a pass, divided into teams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Teams {
    count: usize,
    threads: usize,
}

impl Teams {
    /// The teams for this many rows.
    pub(crate) fn new<P: Path>(rows: usize, threads: usize) -> Self {
        let rows_of_a_team = match P::LAYOUT {
            Layout::Rows => ROWS_OF_A_TEAM,
            Layout::Blocks => ROWS_OF_A_TILED_TEAM,
        };
        Teams { count: (rows / rows_of_a_team).clamp(1, threads), threads }
    }

    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// The threads of a team.
    pub(crate) fn members(self, team: usize) -> Range<usize> {
        let at = |team: usize| self.threads * team / self.count;
        at(team)..at(team + 1)
    }

    /// A team's part of `len` things in order, which begins at a multiple of `grain`.
    pub(crate) fn part(self, team: usize, len: usize, grain: usize) -> Range<usize> {
        let at = |thread: usize| match thread {
            thread if thread == self.threads => len,
            thread => ((len * thread / self.threads + grain / 2) / grain * grain).min(len),
        };
        let Range { start, end } = self.members(team);
        at(start)..at(end)
    }

    /// The team of a thread.
    fn of(self, thread: usize) -> usize {
        ((thread + 1) * self.count - 1) / self.threads
    }

    /// All teams in the order in which a thread works for them, its own first; `counters` are the phase's, one a team.
    pub(crate) fn in_turn<'a>(
        self,
        worker: &Worker<'_>,
        counters: &'a [Counter],
    ) -> impl Iterator<Item = Claims<'a>> {
        let (thread, own) = (worker.index(), self.of(worker.index()));
        let (before, after) = counters[..self.count].split_at(own);
        (own..self.count).zip(after).chain((0..own).zip(before)).map(move |(team, counter)| {
            let members = self.members(team);
            let guest = !members.contains(&thread);
            let member = if guest { 0 } else { thread - members.start };
            Claims { team, members: members.len(), member, guest, counter }
        })
    }
}

/// Counts the units of a team's part of a phase that have been claimed.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Counter(AtomicUsize);

impl Counter {
    /// Back to the state before the first claim. Only between passes.
    pub(crate) fn reset(&mut self) {
        *self.0.get_mut() = 0;
    }
}

/// Hands out the units of one team's part to one thread: the members' first units are fixed by their numbers, the rest
/// go to whoever comes next.
pub(crate) struct Claims<'a> {
    /// Whose part it is.
    pub(crate) team: usize,
    /// Threads of that team.
    pub(crate) members: usize,
    /// The thread's number in the team; a guest's is 0.
    pub(crate) member: usize,
    /// Whether the thread is of another team.
    guest: bool,
    counter: &'a Counter,
}

impl Claims<'_> {
    pub(crate) fn first(&self) -> usize {
        if self.guest { self.next() } else { self.member }
    }

    pub(crate) fn next(&self) -> usize {
        self.members + self.counter.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::F32;
    use crate::simd::Portable;
    use crate::threads::Pool;

    #[test]
    fn teams_have_all_threads_and_all_rows_once() {
        for threads in [1, 2, 3, 5, 8, 64] {
            for rows in [1, 2, 95, 96, 192, 300, 512, 729, 5000] {
                for grain in [1, 6] {
                    let teams = Teams::new::<F32<Portable>>(rows, threads);
                    assert!(teams.count() <= threads && teams.count() <= rows.div_ceil(ROWS_OF_A_TEAM));
                    let (mut thread, mut row) = (0, 0);
                    for team in 0..teams.count() {
                        let members = teams.members(team);
                        assert!(members.start == thread && !members.is_empty());
                        assert!(members.clone().all(|thread| teams.of(thread) == team));
                        let part = teams.part(team, rows, grain);
                        assert!(part.start == row && part.start.is_multiple_of(grain) && part.end >= row);
                        (thread, row) = (members.end, part.end);
                    }
                    assert_eq!((thread, row), (threads, rows));
                }
            }
        }
    }

    #[test]
    fn every_unit_is_claimed_once_by_whomever() {
        const UNITS: usize = 37;
        for (threads, rows) in [(1, 1000), (2, 10), (2, 1000), (3, 200), (5, 450), (5, 10_000)] {
            let (pool, teams) = (Pool::new(threads).unwrap(), Teams::new::<F32<Portable>>(rows, threads));
            let counters: Vec<Counter> = (0..teams.count()).map(|_| Counter::default()).collect();
            let seen: Vec<AtomicUsize> = (0..teams.count() * UNITS).map(|_| AtomicUsize::new(0)).collect();
            pool.run(|worker| {
                for claims in teams.in_turn(worker, &counters) {
                    let mut unit = claims.first();
                    while unit < UNITS {
                        seen[claims.team * UNITS + unit].fetch_add(1, Ordering::Relaxed);
                        unit = claims.next();
                    }
                }
            });
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}
