//! GELU in its tanh form (Hendrycks and Gimpel, 2016; `gelu_pytorch_tanh`).

use crate::ops::{LEAST_EXPONENT, exp2};
use crate::path::{Path, Vector};
use crate::simd::Simd;

/// `x/2 · (1 + tanh u)` with `u = sqrt(2/π) (x + 0.044715 x³)`, as exact as a path [needs](Path::SHORT) it.
#[inline(always)]
pub(crate) unsafe fn gelu<P: Path>(x: Vector<P>) -> Vector<P> {
    // SAFETY: the caller enables the instructions.
    unsafe { if P::SHORT && P::Simd::TABLES { of_table::<P::Simd>(x) } else { with_exponential::<P>(x) } }
}

/// As `x · sigmoid(2u)`, which is the same function, with one exponential.
#[inline(always)]
unsafe fn with_exponential<P: Path>(x: Vector<P>) -> Vector<P> {
    const A: f32 = -2.0 * 0.797_884_6 * std::f32::consts::LOG2_E;
    const B: f32 = A * 0.044715;
    // SAFETY: the caller enables the instructions.
    unsafe {
        let inner = P::Simd::mul_add(P::Simd::mul(x, x), P::Simd::splat(B), P::Simd::splat(A));
        // Beyond ±120 the sigmoid is 0 or 1 to the last bit. The clamp keeps exp2 within its range.
        let exponent = P::Simd::max(P::Simd::splat(LEAST_EXPONENT), P::Simd::mul(x, inner));
        let exponent = P::Simd::min(exponent, P::Simd::splat(-LEAST_EXPONENT));
        let sum = P::Simd::add(exp2::<P>(exponent), P::Simd::splat(1.0));
        P::Simd::mul(x, P::Simd::reciprocal(sum))
    }
}

/// As `(x + |x|)/2 + h(|x|)`: what GELU differs from a rectifier by is even, `h(a) = -a · sigmoid(-2u(a))`. That is a
/// cubic for each of sixteen intervals, and zero but for 3e-6 beyond them. Within 4e-6, and within 2e-5 of the result where
/// that is small. A third fewer instructions than an exponential and a reciprocal.
#[inline(always)]
unsafe fn of_table<S: Simd>(x: S::V) -> S::V {
    // Its unit is one, so a sum with it ends in the integer that was nearest.
    const ROUND: f32 = (1 << 23) as f32;
    let [constant, coefficients @ ..] = &CUBICS;
    // SAFETY: the caller enables the instructions.
    unsafe {
        let magnitude = S::abs(x);
        // Of minus infinity not a number, as in the formula: that something went wrong must not vanish in a zero.
        let twice = S::add(x, magnitude);
        let a = S::min(S::splat(END), magnitude);
        let interval = S::mul_add(a, S::splat(1.0 / WIDTH), S::splat(ROUND));
        let mut h = S::table(&coefficients[2], interval);
        h = S::mul_add(h, a, S::table(&coefficients[1], interval));
        h = S::mul_add(h, a, S::table(&coefficients[0], interval));
        h = S::mul_add(h, a, S::table(constant, interval));
        S::mul_add(twice, S::splat(0.5), h)
    }
}

/// From the middle of one interval to that of the next; the first one's is zero.
const WIDTH: f32 = 0.3;
/// Where the last one ends.
const END: f32 = 4.6;

/// The coefficients of each power, constant first: interpolation at Chebyshev's nodes, of `h(a) / a` in the first interval so
/// that zero stays zero, of `h` in the others.
#[rustfmt::skip] // It would give each number a line of its own.
const CUBICS: [[f32; 16]; 4] = [
    [
        0.0, 3.548_196_7e-4, 4.282_972_3e-3, 5.132_436e-3, -2.920_198_3e-2, -1.332_956_4e-1,
        -3.014_734_4e-1, -4.773_349_5e-1, -5.883_111_4e-1, -5.915_266e-1, -4.955_928_3e-1, -3.485_404_6e-1,
        -2.056_742_8e-1, -1.013_692_1e-1, -4.144_856_7e-2, -1.528_801_5e-2,
    ],
    [
        -5.000_070_3e-1, -5.055_333_4e-1, -5.318_638_7e-1, -5.371_828_7e-1, -4.414_432_6e-1, -2.113_911_8e-1,
        9.474_183e-2, 3.667_493_8e-1, 5.163_674e-1, 5.213_368e-1, 4.208_611_2e-1, 2.807_788_6e-1,
        1.562_616_4e-1, 7.251_949e-2, 2.793_348_6e-2, 9.768_135e-3,
    ],
    [
        3.997_833e-1, 4.298_907_8e-1, 4.898_428_6e-1, 4.995_749_6e-1, 4.103_480_6e-1, 2.405_342_5e-1,
        5.452_937_6e-2, -8.584_493_4e-2, -1.531_26e-1, -1.555_425_1e-1, -1.204_502_36e-1, -7.595_280_6e-2,
        -3.976_663e-2, -1.734_985_6e-2, -6.288_911_7e-3, -2.083_752e-3,
    ],
    [
        -1.497_535_6e-2, -7.446_930_6e-2, -1.207_940_4e-1, -1.263_317_3e-1, -9.853_390_6e-2, -5.666_675e-2,
        -1.894_361_5e-2, 5.226_813_3e-3, 1.531_815_6e-2, 1.569_550_9e-2, 1.160_831_5e-2, 6.894_990_3e-3,
        3.388_534_5e-3, 1.387_791_2e-3, 4.729_275_8e-4, 1.483_923_7e-4,
    ],
];

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

    use super::*;
    use crate::simd::Avx512;

    fn u(x: f64) -> f64 {
        (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)
    }

    fn h(a: f64) -> f64 {
        -a / (1.0 + (2.0 * u(a)).exp())
    }

    /// The polynomial through `f` at Chebyshev's nodes of an interval, constant first.
    fn interpolated<const N: usize>(f: impl Fn(f64) -> f64, low: f64, high: f64) -> [f64; N] {
        let node = |i: usize| {
            let angle = std::f64::consts::PI * (2 * i + 1) as f64 / (2 * N) as f64;
            (low + high) / 2.0 + (high - low) / 2.0 * angle.cos()
        };
        let mut polynomial = [0.0; N];
        for i in 0..N {
            // Lagrange's: one at this node, zero at the others.
            let mut term = [0.0; N];
            term[0] = f(node(i));
            for j in (0..N).filter(|&j| j != i) {
                let scale = 1.0 / (node(i) - node(j));
                for power in (0..N).rev() {
                    let below = if power > 0 { term[power - 1] } else { 0.0 };
                    term[power] = scale * (below - node(j) * term[power]);
                }
            }
            for (sum, term) in polynomial.iter_mut().zip(term) {
                *sum += term;
            }
        }
        polynomial
    }

    #[test]
    fn the_table_is_what_it_says() {
        let (width, end) = (f64::from(WIDTH), f64::from(END));
        for interval in 0..16 {
            let (low, high) = ((interval as f64 - 0.5) * width, ((interval as f64 + 0.5) * width).min(end));
            let expected = if interval == 0 {
                let [a, b, c] = interpolated(|a| h(a) / a, 0.0, high);
                [0.0, a, b, c]
            } else {
                interpolated(h, low, high)
            };
            let got = CUBICS.map(|coefficients| f64::from(coefficients[interval]));
            let close = got.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() <= 1e-7);
            assert!(close, "interval {interval}: {got:?} for {expected:?}");
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn gelus(x: &mut [f32; 16]) {
        // SAFETY: an array of one vector; the features are enabled.
        unsafe { Avx512::store(x.as_mut_ptr(), of_table::<Avx512>(Avx512::load(x.as_ptr()))) }
    }

    fn gelu_of_table(x: f32) -> f32 {
        let mut lanes = [x; 16];
        // SAFETY: the tests below ask for the features.
        unsafe { gelus(&mut lanes) };
        assert!(lanes.iter().all(|lane| lane.to_bits() == lanes[0].to_bits()));
        lanes[0]
    }

    fn is_available() -> bool {
        let available = crate::Isa::Avx512.is_available();
        if !available {
            eprintln!("skipped: this machine has no AVX-512");
        }
        available
    }

    #[test]
    fn it_is_close_everywhere() {
        if !is_available() {
            return;
        }
        for step in -80_000..=80_000 {
            let x = step as f32 * 1e-4;
            let expected = 0.5 * f64::from(x) * (1.0 + u(f64::from(x)).tanh());
            let error = (f64::from(gelu_of_table(x)) - expected).abs();
            assert!(error <= 4e-6, "{x}: off by {error}");
            assert!(x.abs() > 0.15 || error <= 2e-5 * expected.abs(), "{x}: off by {error} of {expected}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        if !is_available() {
            return;
        }
        assert!(gelu_of_table(f32::NAN).is_nan());
        assert_eq!(gelu_of_table(f32::INFINITY), f32::INFINITY);
        // As in the formula: infinitely much of nothing.
        assert!(gelu_of_table(f32::NEG_INFINITY).is_nan());
        assert_eq!(gelu_of_table(1e30), 1e30);
        assert!(gelu_of_table(-1e30).abs() <= 4e-6);
        assert_eq!(gelu_of_table(0.0), 0.0);
    }
}
