//! What goes on on a device, and when it will be over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long before the end of a batch the next one is begun, where that end can be foreseen: about what it takes to wake a
/// thread, to gather the rows, and to give a card its copies and launches.
const LEAD: Duration = Duration::from_micros(500);

/// A device and the batches that its engines have.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// Their rows, in the order in which they were begun.
    running: VecDeque<usize>,
    /// Since when the device has been computing the first of them, or up to when its time is accounted for.
    since: Instant,
    /// What batches of each number of rows took of late.
    times: Vec<Option<Duration>>,
}

impl Device {
    /// An idle device for batches of at most `max_batch_size` rows.
    pub(super) fn new(max_batch_size: usize) -> Self {
        Device { running: VecDeque::new(), since: Instant::now(), times: vec![None; max_batch_size + 1] }
    }

    /// From when on a batch that could still grow may be begun. None as long as that cannot be said.
    ///
    /// Earlier, such a batch would merely be queued behind the one that is computed. Only after it, the device would have
    /// nothing to do while the next one is gathered and launched.
    pub(super) fn room(&self) -> Option<Instant> {
        match self.running.front() {
            None => Some(self.since),
            Some(&rows) if self.running.len() == 1 => {
                let time = (*self.times.get(rows)?)?;
                Some(self.since + (time - LEAD.min(time / 4)))
            }
            Some(_) => None,
        }
    }

    /// Takes down that an engine has a batch of `rows` rows.
    pub(super) fn begin(&mut self, rows: usize, now: Instant) {
        if self.running.is_empty() {
            self.since = now;
        }
        self.running.push_back(rows);
    }

    /// Takes down that the device is done with the first batch. Returns how long that took it.
    pub(super) fn end(&mut self, now: Instant) -> Duration {
        let busy = now.saturating_duration_since(self.since);
        self.since = now;
        if let Some(time) = self.running.pop_front().and_then(|rows| self.times.get_mut(rows)) {
            *time = Some(time.map_or(busy, |time| (3 * time + busy) / 4));
        }
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_batch_is_foreseen_once_one_of_its_size_was_seen() {
        let ms = Duration::from_millis;
        let mut device = Device::new(8);
        let start = Instant::now();
        assert!(device.room().unwrap() <= start, "it is idle");
        device.begin(3, start);
        assert_eq!(device.room(), None, "nobody knows how long three rows take");
        assert_eq!(device.end(start + ms(10)), ms(10));
        assert_eq!(device.room(), Some(start + ms(10)));

        device.begin(3, start + ms(20));
        assert_eq!(device.room(), Some(start + ms(30) - LEAD));
        // The next one has the device to itself from the end of this one on.
        device.begin(2, start + ms(29));
        assert_eq!(device.room(), None, "two are enough");
        assert_eq!(device.end(start + ms(34)), ms(14));
        assert_eq!(device.room(), None, "nobody knows how long two rows take");
        assert_eq!(device.end(start + ms(40)), ms(6));

        device.begin(3, start + ms(50));
        device.begin(2, start + ms(60));
        assert_eq!(device.end(start + ms(61)), ms(11));
        assert_eq!(device.room(), Some(start + ms(67) - LEAD));
        device.end(start + ms(67));
        device.begin(3, start + ms(70));
        assert_eq!(device.room(), Some(start + ms(81) - LEAD), "10 ms, then 14, then 11");
    }

    #[test]
    fn a_quick_batch_is_not_followed_at_once() {
        let mut device = Device::new(1);
        let start = Instant::now();
        let time = Duration::from_micros(400);
        device.begin(1, start);
        device.end(start + time);
        device.begin(1, start);
        assert_eq!(device.room(), Some(start + time * 3 / 4));
    }
}
