//! How fast a request must arrive, and an answer be taken.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second below which a request or an answer is given up, whatever the line: a text's request takes a second at
/// this rate.
const SLOWEST: f64 = 1024.0;

/// Why the rest of a request is not waited for.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum Late {
    #[error("nothing of the request body arrived for {} seconds", .0.as_secs_f32())]
    Standstill(Duration),
    #[error("the request body arrives at less than {SLOWEST} bytes a second")]
    TooSlow,
}

/// Looks after the passage of one body. Nothing is measured before something has to be waited for.
pub(crate) struct Pace {
    patience: Duration,
    began: Option<Instant>,
    passed: usize,
}

impl Pace {
    /// A body that may stand still for as long as `patience`.
    pub(crate) fn new(patience: Duration) -> Self {
        Pace { patience, began: None, passed: 0 }
    }

    /// Notes that so many bytes have passed.
    pub(crate) fn passed(&mut self, bytes: usize) {
        self.passed += bytes;
    }

    /// When the next bytes must pass, and what to say of a request if they do not.
    pub(crate) fn deadline(&mut self) -> (Instant, Late) {
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        let still = now + self.patience;
        let slow = began + self.patience + Duration::from_secs_f64(self.passed as f64 / SLOWEST);
        if slow < still { (slow, Late::TooSlow) } else { (still, Late::Standstill(self.patience)) }
    }
}
