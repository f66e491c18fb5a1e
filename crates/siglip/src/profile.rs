//! Where forward passes spend their time, by kind of operation. Engines add to it; `siglip bench --profile` prints it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Times of one engine's passes by kind of operation. On a processor, as its first thread sees them: a phase's time ends
/// when all threads have ended it, and what each thread waits for the others is counted too. On a card, between events
/// around each launch.
#[derive(Debug, Default)]
pub struct Profile {
    kinds: [Totals; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct Totals {
    nanoseconds: AtomicU64,
    /// Of all threads.
    waiting: AtomicU64,
    calls: AtomicU64,
    /// Floating-point operations of matrix products.
    flop: AtomicU64,
}

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Token or patch embedding.
    Embedding,
    /// Layer norms with the conversion of their results.
    LayerNorm,
    /// Rows of results turned into integers for the next product.
    Quantize,
    /// The products that give q, k and v.
    Projections,
    /// Scores, softmax, mixing.
    Attention,
    /// The product after attention, and its residual.
    Output,
    /// The MLP's first product, and GELU.
    Fc1,
    /// The MLP's second product, and its residual.
    Fc2,
    /// Everything after the last block.
    Head,
}

impl Kind {
    /// All kinds, in the order of a pass.
    pub const ALL: [Kind; 9] = [
        Kind::Embedding,
        Kind::LayerNorm,
        Kind::Quantize,
        Kind::Projections,
        Kind::Attention,
        Kind::Output,
        Kind::Fc1,
        Kind::Fc2,
        Kind::Head,
    ];

    /// The kind's name for a table.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Embedding => "embedding",
            Kind::LayerNorm => "layer norm",
            Kind::Quantize => "quantize",
            Kind::Projections => "q, k, v",
            Kind::Attention => "attention",
            Kind::Output => "attention out",
            Kind::Fc1 => "fc1 + GELU",
            Kind::Fc2 => "fc2",
            Kind::Head => "head",
        }
    }
}

/// One line of a profile.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The kind of operation.
    pub kind: Kind,
    /// Time over all passes.
    pub seconds: f64,
    /// Time over all passes and threads between a thread's end of a phase and the last one's.
    pub waiting_seconds: f64,
    /// Phases over all passes.
    pub calls: u64,
    /// Floating-point operations of matrix products over all passes.
    pub flop: f64,
}

impl Profile {
    /// The totals so far.
    pub fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        Kind::ALL.into_iter().zip(&self.kinds).map(|(kind, totals)| Line {
            kind,
            seconds: totals.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9,
            waiting_seconds: totals.waiting.load(Ordering::Relaxed) as f64 / 1e9,
            calls: totals.calls.load(Ordering::Relaxed),
            flop: totals.flop.load(Ordering::Relaxed) as f64,
        })
    }

    /// Forgets what was measured.
    pub fn reset(&self) {
        for totals in &self.kinds {
            let Totals { nanoseconds, waiting, calls, flop } = totals;
            for total in [nanoseconds, waiting, calls, flop] {
                total.store(0, Ordering::Relaxed);
            }
        }
    }

    /// An operation of a kind took `time`, for `flop` floating-point operations.
    pub fn add(&self, kind: Kind, time: Duration, flop: u64) {
        let totals = self.of(kind);
        totals.nanoseconds.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        totals.calls.fetch_add(1, Ordering::Relaxed);
        totals.flop.fetch_add(flop, Ordering::Relaxed);
    }

    /// A thread waited for the others at the end of an operation of a kind.
    pub fn add_waiting(&self, kind: Kind, time: Duration) {
        self.of(kind).waiting.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    fn of(&self, kind: Kind) -> &Totals {
        &self.kinds[kind as usize]
    }
}
