//! How fast the machine multiplies, measured with the instruction that a precision uses: the yardstick for
//! everything else.

use std::time::{Duration, Instant};

use crate::kernels::Kernels;
use crate::path::{ColumnScales, Path, RowScale, lanes};
use crate::simd::Simd;
use crate::threads::Pool;

/// Independent sums: enough to hide the latency of the multiply-add on every known core, and no more than stay in
/// registers, as in the kernels.
const fn chains<P: Path>() -> usize {
    if P::MAX_VECTORS > 1 { 12 } else { 6 }
}

/// Operations of one round of [`steps`].
pub(crate) const fn flop<P: Path>() -> usize {
    chains::<P>() * 2 * P::ROWS * lanes::<P>() * P::STEP
}

/// `rounds` rounds of independent steps, one for each of the [`chains`]. The result only keeps the work from being
/// optimised away.
///
/// # Safety
///
/// The path's instructions must be enabled in the calling function.
#[inline(always)]
pub(crate) unsafe fn steps<P: Path>(rounds: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe { if chains::<P>() == 12 { steps_of::<P, 12>(rounds) } else { steps_of::<P, 6>(rounds) } }
}

#[inline(always)]
unsafe fn steps_of<P: Path, const CHAINS: usize>(rounds: usize) -> f32 {
    // Ordinary values: a multiplier of zeroes draws less power and may be clocked higher.
    let mut weights = [P::Weight::default(); 64];
    P::convert(&[0.37; 64], &mut weights);
    // The bits of the weights serve as activations: any value will do.
    let ones = weights;
    // SAFETY: both arrays hold at least one vector of operands; nothing else is read.
    unsafe {
        let mut sums = [P::zero_sum(); CHAINS];
        for _ in 0..rounds {
            let mut a = P::broadcast(std::hint::black_box(ones.as_ptr()).cast(), 0);
            let b = P::load_weights(std::hint::black_box(weights.as_ptr()));
            for sum in &mut sums {
                if !P::FUSED {
                    // Read anew, as kernels must for each row: else the part of a step that does not touch the sum
                    // (the product, where it is an instruction of its own) would be done once for all sums.
                    a = P::broadcast(std::hint::black_box(ones.as_ptr()).cast(), 0);
                }
                *sum = P::step(a, b, *sum);
            }
        }
        let mut total = P::Simd::zero();
        let columns = ColumnScales { scale: P::Simd::splat(1.0), sum: P::Simd::zero() };
        for sum in sums {
            total = P::Simd::add(total, P::value(sum, 0, RowScale { scale: 1.0, offset: 0.0 }, &columns));
        }
        P::Simd::sum(total)
    }
}

/// The rate of this thread over `rounds` rounds, in GFLOP/s.
///
/// # Safety
///
/// The machine must have the path's instructions, and this thread have [entered](Kernels::enter) them.
pub(crate) unsafe fn burst<P: Kernels>(rounds: usize) -> f64 {
    let started = Instant::now();
    // SAFETY: the caller's.
    std::hint::black_box(unsafe { P::peak_steps(rounds) });
    (rounds * P::PEAK_FLOP) as f64 / started.elapsed().as_secs_f64() / 1e9
}

/// The matrix peak of `pool`'s threads in GFLOP/s (a multiply and an add are two operations): the best of a few runs
/// of about `duration` in all.
pub(crate) fn measure<P: Kernels>(pool: &Pool, duration: Duration) -> f64 {
    const ROUNDS: usize = 40_000;
    let flop_per_thread = (ROUNDS * P::PEAK_FLOP) as f64;
    let started = Instant::now();
    let mut best = 0.0_f64;
    while started.elapsed() < duration || best == 0.0 {
        let run = Instant::now();
        pool.run(|_| {
            // SAFETY: an engine exists only for instructions that the machine has, and so does its measurement.
            unsafe {
                P::enter();
                std::hint::black_box(P::peak_steps(ROUNDS));
                P::leave();
            }
        });
        best = best.max(flop_per_thread * pool.threads() as f64 / run.elapsed().as_secs_f64() / 1e9);
    }
    best
}
