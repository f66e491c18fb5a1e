//! Histograms that threads fill without waiting for each other.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of values by upper bound, as Prometheus wants them.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last is for what lies above all of them.
    counts: Vec<AtomicU64>,
    /// In millionths, so that an integer can hold it.
    sum_millionths: AtomicU64,
}

/// The bounds for numbers of rows.
pub(crate) const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The bounds for seconds, from the cost of the protocol to a long queue.
pub(crate) const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Histogram { bounds, counts, sum_millionths: AtomicU64::new(0) }
    }

    pub(crate) fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_millionths.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// The bounds with the number of values up to each, and the number and the sum of all.
    pub(crate) fn snapshot(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut total = 0;
        let mut up_to = |count: &AtomicU64| {
            total += count.load(Ordering::Relaxed);
            total
        };
        let buckets = self.bounds.iter().copied().zip(self.counts.iter().map(&mut up_to)).collect();
        self.counts.last().map(&mut up_to);
        (buckets, total, self.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_cumulative() {
        let histogram = Histogram::new(&[1.0, 2.0, 4.0]);
        for value in [1.0, 1.5, 2.0, 3.0, 100.0] {
            histogram.record(value);
        }
        assert_eq!(histogram.snapshot(), (vec![(1.0, 1), (2.0, 3), (4.0, 4)], 5, 107.5));
    }
}
