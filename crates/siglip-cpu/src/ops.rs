//! Everything between the matrix products: exponential, GELU, softmax, layer norm. Written once over [`Simd`].

use crate::path::{Path, lanes};
use crate::simd::Simd;

/// `2^x` for |x| < 126, to about one unit in the last place: 2^round(x) times a polynomial over [-0.5, 0.5].
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // Minimax coefficients of 2^f on [-0.5, 0.5], relative error 2e-9 before rounding.
    const C: [f32; 7] = [
        1.0,
        0.693_147_2,
        0.240_226_48,
        0.055_503_32,
        0.009_618_416,
        0.001_339_905_2,
        0.000_153_592_18,
    ];
    // SAFETY: the caller enables the instructions.
    unsafe {
        let n = S::round(x);
        let f = S::sub(x, n);
        let mut p = S::splat(C[6]);
        let mut i = 6;
        while i > 0 {
            i -= 1;
            p = S::mul_add(p, f, S::splat(C[i]));
        }
        S::scale_by_power_of_two(p, n)
    }
}

/// GELU in its tanh form (Hendrycks and Gimpel, 2016; `gelu_pytorch_tanh`), as `x · sigmoid(2u)` with
/// `u = sqrt(2/π) (x + 0.044715 x³)`: the same function as `x/2 · (1 + tanh u)`, with one exponential.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    const A: f32 = -2.0 * 0.797_884_6 * std::f32::consts::LOG2_E;
    const B: f32 = A * 0.044715;
    // SAFETY: the caller enables the instructions.
    unsafe {
        let inner = S::mul_add(S::mul(x, x), S::splat(B), S::splat(A));
        // Beyond ±120 the sigmoid is 0 or 1 to the last bit; the clamp keeps exp2 within its range.
        let exponent = S::max(S::min(S::mul(x, inner), S::splat(120.0)), S::splat(-120.0));
        S::mul(x, S::reciprocal(S::add(exp2::<S>(exponent), S::splat(1.0))))
    }
}

/// One row's layer norm: `(x - mean) / sqrt(var + eps) · weight + bias`, stored as activations.
///
/// Two passes for the moments, as `transformers` computes them: the variance of values far from zero would lose its
/// bits otherwise.
#[derive(Clone, Copy)]
pub(crate) struct LayerNorm<P: Path> {
    /// The row, `size` values.
    pub(crate) x: *const f32,
    pub(crate) size: usize,
    /// `weight` and `bias`, `size` values padded with zeros to whole vectors: the padding of the output becomes zero.
    pub(crate) weight: *const f32,
    pub(crate) bias: *const f32,
    pub(crate) epsilon: f32,
    /// The output, `size` values and its padding to whole vectors.
    pub(crate) out: *mut P::Activation,
}

/// # Safety
///
/// The pointers must be valid as the fields say, and the path's instructions enabled in the calling function.
#[inline(always)]
pub(crate) unsafe fn layer_norm<P: Path>(norm: &LayerNorm<P>) {
    let lanes = lanes::<P>();
    let (whole, rest) = (norm.size / lanes * lanes, norm.size % lanes);
    let size = norm.size as f32;
    // Loops and not closures: see `gemm::step`.
    // SAFETY: the loops stay below `size`, the last partial vector below its padding.
    unsafe {
        let mut sum = P::Simd::zero();
        let mut at = 0;
        while at < whole {
            sum = P::Simd::add(sum, P::Simd::load(norm.x.add(at)));
            at += lanes;
        }
        if rest > 0 {
            sum = P::Simd::add(sum, P::Simd::load_first(norm.x.add(whole), rest));
        }
        let mean = P::Simd::sum(sum) / size;

        let means = P::Simd::splat(mean);
        let mut squares = P::Simd::zero();
        let mut at = 0;
        while at < whole {
            let d = P::Simd::sub(P::Simd::load(norm.x.add(at)), means);
            squares = P::Simd::mul_add(d, d, squares);
            at += lanes;
        }
        let mut total = P::Simd::sum(squares);
        for at in whole..norm.size {
            let d = *norm.x.add(at) - mean;
            total += d * d;
        }
        let scale = P::Simd::splat(1.0 / (total / size + norm.epsilon).sqrt());

        let mut at = 0;
        while at < norm.size {
            let x = if at < whole {
                P::Simd::load(norm.x.add(at))
            } else {
                P::Simd::load_first(norm.x.add(at), rest)
            };
            let d = P::Simd::mul(P::Simd::sub(x, means), scale);
            let y = P::Simd::mul_add(d, P::Simd::load(norm.weight.add(at)), P::Simd::load(norm.bias.add(at)));
            P::store(norm.out.add(at), y);
            at += lanes;
        }
    }
}

/// One row of attention's weights: `softmax(scale · scores)` over `keys` values, stored as activations.
#[derive(Clone, Copy)]
pub(crate) struct Softmax<P: Path> {
    /// The row of scores, overwritten; room for `keys` padded to whole vectors.
    pub(crate) scores: *mut f32,
    pub(crate) keys: usize,
    /// `log2(e) / sqrt(head_dim)`.
    pub(crate) scale_log2e: f32,
    /// The output, `keys` values padded to whole vectors; the padding becomes zero.
    pub(crate) out: *mut P::Activation,
}

/// # Safety
///
/// As for [`layer_norm`].
#[inline(always)]
pub(crate) unsafe fn softmax<P: Path>(row: &Softmax<P>) {
    let lanes = lanes::<P>();
    let (whole, rest) = (row.keys / lanes * lanes, row.keys % lanes);
    // SAFETY: whole vectors lie below `keys`, the partial one within its padding.
    unsafe {
        let mut largest = P::Simd::splat(f32::NEG_INFINITY);
        let mut at = 0;
        while at < whole {
            largest = P::Simd::max(largest, P::Simd::load(row.scores.add(at)));
            at += lanes;
        }
        let mut maximum = P::Simd::maximum(largest);
        for at in whole..row.keys {
            maximum = maximum.max(*row.scores.add(at));
        }

        let scale = P::Simd::splat(row.scale_log2e);
        let offset = P::Simd::splat(-maximum * row.scale_log2e);
        // Far below the largest score a weight is zero in any format; the clamp keeps exp2 within its range.
        let lowest = P::Simd::splat(-120.0);
        let mut sum = P::Simd::zero();
        let mut at = 0;
        while at < whole {
            let x = P::Simd::mul_add(P::Simd::load(row.scores.add(at)), scale, offset);
            let e = exp2::<P::Simd>(P::Simd::max(x, lowest));
            P::Simd::store(row.scores.add(at), e);
            sum = P::Simd::add(sum, e);
            at += lanes;
        }
        if rest > 0 {
            let x = P::Simd::mul_add(P::Simd::load_first(row.scores.add(whole), rest), scale, offset);
            let e = exp2::<P::Simd>(P::Simd::max(x, lowest));
            P::Simd::store(row.scores.add(whole), P::Simd::zero());
            P::Simd::store_first(row.scores.add(whole), rest, e);
            sum = P::Simd::add(sum, P::Simd::load(row.scores.add(whole)));
        }

        let inverse = P::Simd::splat(1.0 / P::Simd::sum(sum));
        let mut at = 0;
        while at < row.keys {
            P::store(row.out.add(at), P::Simd::mul(P::Simd::load(row.scores.add(at)), inverse));
            at += lanes;
        }
    }
}
