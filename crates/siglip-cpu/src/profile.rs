//! The clocks that a pass's threads add to a [`Profile`] with.

use std::time::Instant;

use siglip::profile::{Kind, Profile};

/// One thread's clock during a pass; without a profile it does nothing.
pub(crate) struct Clock<'a> {
    profile: Option<&'a Profile>,
    /// The first thread's clock is the one that phases are timed by.
    first: bool,
    phase: Instant,
    done: Instant,
}

impl<'a> Clock<'a> {
    pub(crate) fn start(profile: Option<&'a Profile>, thread: usize) -> Self {
        let now = Instant::now();
        Clock { profile, first: thread == 0, phase: now, done: now }
    }

    /// This thread's part of a phase is done: from here on it waits.
    pub(crate) fn done(&mut self) {
        if self.profile.is_some() {
            self.done = Instant::now();
        }
    }

    /// A phase of a kind ends here for all threads, which did `flop` operations in it.
    pub(crate) fn lap(&mut self, kind: Kind, flop: usize) {
        let Some(profile) = self.profile else { return };
        let now = Instant::now();
        profile.add_waiting(kind, now - self.done);
        if self.first {
            profile.add(kind, now - self.phase, flop as u64);
        }
        self.phase = now;
    }
}
