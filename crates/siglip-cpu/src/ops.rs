//! Everything between the matrix products but GELU: exponential, softmax's exponentials, layer norm. Written once over [`Simd`].

use crate::path::{Element, MAX_STEP, Path, RowScale, Vector, lanes};
use crate::simd::{MAX_LANES, Simd};

/// `2^x`, as exact as a path [needs](Path::SHORT) it: 2^round(x) times a polynomial over [-0.5, 0.5]. |x| < 126.
#[inline(always)]
pub(crate) unsafe fn exp2<P: Path>(x: Vector<P>) -> Vector<P> {
    // Minimax coefficients of 2^f over [-0.5, 0.5], constant first: relative errors of 2e-9 before rounding, and 7.5e-5.
    const EXACT: [f32; 7] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_48,
        0.055_503_32,
        0.009_618_416,
        0.001_339_905_2,
        0.000_153_592_18,
    ];
    const SHORT: [f32; 4] = [0.999_928_06, 0.693_261, 0.242_611_13, 0.055_171_67];
    let coefficients = if P::SHORT { SHORT.as_slice() } else { EXACT.as_slice() };
    // SAFETY: the caller enables the instructions.
    unsafe {
        let n = P::Simd::round(x);
        let f = P::Simd::sub(x, n);
        let mut i = coefficients.len() - 1;
        let mut p = P::Simd::splat(coefficients[i]);
        while i > 0 {
            i -= 1;
            p = P::Simd::mul_add(p, f, P::Simd::splat(coefficients[i]));
        }
        P::Simd::scale_by_power_of_two(p, n)
    }
}

/// Where exponents of [`exp2`] are cut off: what is smaller counts for nothing beside one, and from 2^-126 on a result has
/// no full exponent, of which Intel's processors make 160 cycles.
pub(crate) const LEAST_EXPONENT: f32 = -120.0;

/// Softmax's exponential of one score, `2^(score · scale + offset)`, at most one.
#[inline(always)]
pub(crate) unsafe fn weight_of_score<P: Path>(
    score: Vector<P>,
    scale: Vector<P>,
    offset: Vector<P>,
) -> Vector<P> {
    // SAFETY: the caller enables the instructions.
    unsafe {
        let exponent = P::Simd::mul_add(score, scale, offset);
        exp2::<P>(P::Simd::max(P::Simd::splat(LEAST_EXPONENT), exponent))
    }
}

/// Vectors that are summed up at a time, so that one addition need not wait for the one before.
const CHAINS: usize = 4;

/// The sum of all chains.
#[inline(always)]
unsafe fn joined<S: Simd>(chains: [S::V; CHAINS]) -> S::V {
    let [a, b, c, d] = chains;
    // SAFETY: the caller enables the instructions.
    unsafe { S::add(S::add(a, b), S::add(c, d)) }
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
    /// `weight` and `bias`, `size` values padded with zeros to whole vectors or chunks: the padding of the output becomes
    /// zero.
    pub(crate) weight: *const f32,
    pub(crate) bias: *const f32,
    pub(crate) epsilon: f32,
    /// The output in the path's layout, `size` values and zeroes up to whole vectors or chunks.
    pub(crate) out: *mut P::Activation,
    /// For quantised paths: how the output reads, and a row of f32 to compute it in, as long as the padding.
    pub(crate) scale: *mut RowScale,
    pub(crate) row: *mut f32,
}

/// # Safety
///
/// The pointers must be valid as the fields say, and the path's instructions enabled in the calling function.
#[inline(always)]
pub(crate) unsafe fn layer_norm<P: Path>(norm: &LayerNorm<P>) {
    let lanes = lanes::<P>();
    let (whole, rest) = (norm.size / lanes * lanes, norm.size % lanes);
    let in_chains = norm.size / (CHAINS * lanes) * CHAINS * lanes;
    let size = norm.size as f32;
    // Loops and not closures: see `gemm::step`.
    // SAFETY: the loops stay below `size`, the last partial vector below its padding.
    unsafe {
        let mut sums = [P::Simd::zero(); CHAINS];
        let mut at = 0;
        while at < in_chains {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = P::Simd::add(*sum, P::Simd::load(norm.x.add(at + i * lanes)));
            }
            at += CHAINS * lanes;
        }
        let mut sum = joined::<P::Simd>(sums);
        while at < whole {
            sum = P::Simd::add(sum, P::Simd::load(norm.x.add(at)));
            at += lanes;
        }
        if rest > 0 {
            sum = P::Simd::add(sum, P::Simd::load_first(norm.x.add(whole), rest));
        }
        let mean = P::Simd::sum(sum) / size;

        let means = P::Simd::splat(mean);
        let mut squares = [P::Simd::zero(); CHAINS];
        let mut at = 0;
        while at < in_chains {
            for (i, squares) in squares.iter_mut().enumerate() {
                let d = P::Simd::sub(P::Simd::load(norm.x.add(at + i * lanes)), means);
                *squares = P::Simd::mul_add(d, d, *squares);
            }
            at += CHAINS * lanes;
        }
        let mut squares = joined::<P::Simd>(squares);
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

        let filled = P::LAYOUT.filled::<P::Activation>(norm.size, lanes);
        let out = |at: usize| norm.out.add(P::LAYOUT.column::<P::Activation>(at));
        let mut at = 0;
        while at < filled {
            let x = if at < whole {
                P::Simd::load(norm.x.add(at))
            } else if at < norm.size {
                P::Simd::load_first(norm.x.add(at), rest)
            } else {
                P::Simd::zero()
            };
            let d = P::Simd::mul(P::Simd::sub(x, means), scale);
            let y = P::Simd::mul_add(d, P::Simd::load(norm.weight.add(at)), P::Simd::load(norm.bias.add(at)));
            if P::QUANTIZED {
                P::Simd::store(norm.row.add(at), y);
            } else {
                P::store(out(at).cast(), y);
            }
            at += lanes;
        }
        if P::QUANTIZED {
            let (least, greatest) = extremes::<P::Simd, f32>(norm.row, norm.size);
            let (scale, shift) = row_scale(least, greatest);
            *norm.scale = scale;
            let mut at = 0;
            while at < norm.size {
                quantize_vector::<P>(P::Simd::load(norm.row.add(at)), scale, shift, out(at));
                at += lanes;
            }
        }
    }
}

/// The least and the greatest of `size` values; the least is NaN if any value is not finite, so that the row's offset
/// and with it all that is computed from it is not finite either.
#[inline(always)]
unsafe fn extremes<S: Simd, T: Element>(x: *const T, size: usize) -> (f32, f32) {
    let whole = size / (CHAINS * S::LANES) * CHAINS * S::LANES;
    // SAFETY: the caller vouches for `size` values.
    unsafe {
        let mut chains = [Extremes::<S>::new(); CHAINS];
        let mut at = 0;
        while at < whole {
            for (i, chain) in chains.iter_mut().enumerate() {
                chain.add(T::load::<S>(x.add(at + i * S::LANES)));
            }
            at += CHAINS * S::LANES;
        }
        let [mut all, others @ ..] = chains;
        for other in others {
            all.join(other);
        }
        let (mut least, mut greatest, mut zero) = all.of_all_lanes();
        for at in whole..size {
            let x = (*x.add(at)).to_f32();
            least = least.min(x);
            greatest = greatest.max(x);
            zero += x * 0.0;
        }
        (least + zero, greatest)
    }
}

/// The least and the greatest of vectors.
#[derive(Clone, Copy)]
pub(crate) struct Extremes<S: Simd> {
    least: S::V,
    greatest: S::V,
    /// Zero, or NaN where a value is not finite.
    zero: S::V,
}

// SAFETY (all methods): the caller enables the instructions.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl<S: Simd> Extremes<S> {
    /// Of none.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        unsafe {
            Extremes {
                least: S::splat(f32::INFINITY),
                greatest: S::splat(f32::NEG_INFINITY),
                zero: S::zero(),
            }
        }
    }

    #[inline(always)]
    pub(crate) unsafe fn add(&mut self, x: S::V) {
        unsafe {
            self.least = S::min(self.least, x);
            self.greatest = S::max(self.greatest, x);
            self.zero = S::mul_add(x, S::zero(), self.zero);
        }
    }

    #[inline(always)]
    unsafe fn join(&mut self, other: Self) {
        unsafe {
            self.least = S::min(self.least, other.least);
            self.greatest = S::max(self.greatest, other.greatest);
            self.zero = S::add(self.zero, other.zero);
        }
    }

    /// Stores each lane's least value, or NaN where one is not finite, and its greatest.
    #[inline(always)]
    pub(crate) unsafe fn store(self, least: *mut f32, greatest: *mut f32) {
        unsafe {
            S::store(least, S::add(self.least, self.zero));
            S::store(greatest, self.greatest);
        }
    }

    /// How rows that lie in lanes are quantised, from `scales` on: their offsets, and the reciprocals of their scales.
    #[inline(always)]
    pub(crate) unsafe fn row_scales(self, scales: *mut RowScale) -> (S::V, S::V) {
        unsafe {
            let (mut offsets, mut greatest) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            self.store(offsets.as_mut_ptr(), greatest.as_mut_ptr());
            let mut inverses = [0.0; MAX_LANES];
            for (lane, inverse) in inverses.iter_mut().enumerate().take(S::LANES) {
                let (scale, reciprocal) = row_scale(offsets[lane], greatest[lane]);
                *scales.add(lane) = scale;
                *inverse = reciprocal;
            }
            (S::load(offsets.as_ptr()), S::load(inverses.as_ptr()))
        }
    }

    /// The least value, the greatest, and zero or NaN.
    #[inline(always)]
    unsafe fn of_all_lanes(self) -> (f32, f32, f32) {
        unsafe { (-S::maximum(S::sub(S::zero(), self.least)), S::maximum(self.greatest), S::sum(self.zero)) }
    }
}

/// How a row with these extremes is quantised, and the reciprocal of the scale. A row of one value only gets scale 1:
/// all its integers are 0, and the offset says it all.
fn row_scale(least: f32, greatest: f32) -> (RowScale, f32) {
    let range = greatest - least;
    let scale = if range > 0.0 { range / 255.0 } else { 1.0 };
    (RowScale { scale, offset: least }, 1.0 / scale)
}

#[inline(always)]
unsafe fn quantize_vector<P: Path>(
    x: <P::Simd as Simd>::V,
    scale: RowScale,
    inverse: f32,
    out: *mut P::Activation,
) {
    // SAFETY: the caller vouches for a vector of output.
    unsafe {
        let q = P::Simd::mul(P::Simd::sub(x, P::Simd::splat(scale.offset)), P::Simd::splat(inverse));
        P::store_quantized(out, q);
    }
}

/// Quantises one row of results for the next product.
#[derive(Clone, Copy)]
pub(crate) struct Quantize<P: Path> {
    /// The row, `size` values and padding to whole vectors, which is read and does not count.
    pub(crate) x: *const P::Inner,
    pub(crate) size: usize,
    /// The output in the path's layout, padded like the input; its padding is not zero, but the weights there are.
    pub(crate) out: *mut P::Activation,
    pub(crate) scale: *mut RowScale,
}

/// # Safety
///
/// As for [`layer_norm`].
#[inline(always)]
pub(crate) unsafe fn quantize<P: Path>(quantize: &Quantize<P>) {
    let lanes = lanes::<P>();
    // SAFETY: all pointers hold `size` values padded to whole vectors.
    unsafe {
        let (least, greatest) = extremes::<P::Simd, P::Inner>(quantize.x, quantize.size);
        let (scale, inverse) = row_scale(least, greatest);
        *quantize.scale = scale;
        let mut at = 0;
        while at < quantize.size {
            let x = P::Inner::load::<P::Simd>(quantize.x.add(at));
            let out = quantize.out.add(P::LAYOUT.column::<P::Activation>(at));
            quantize_vector::<P>(x, scale, inverse, out);
            at += lanes;
        }
    }
}

/// Attention's weights but for a factor, of `NV` vectors of queries: `exp(scale · (score - the largest))`. The factor, one
/// over their sum, is left to what follows: it has fewer values to multiply.
#[derive(Clone, Copy)]
pub(crate) struct Exponentials {
    /// The scores, `[keys][NV][LANES]`. They become the weights, a right operand `[steps][NV][LANES][STEP]`; keys that
    /// fill up the last step are zero.
    pub(crate) scores: *mut f32,
    pub(crate) keys: usize,
    /// `log2(e) / sqrt(head_dim)`.
    pub(crate) scale_log2e: f32,
    /// `[NV][LANES]`.
    pub(crate) factors: *mut f32,
}

/// # Safety
///
/// As for [`layer_norm`].
#[inline(always)]
pub(crate) unsafe fn exponentials<P: Path, const NV: usize>(columns: &Exponentials) {
    let (lanes, step) = (lanes::<P>(), P::Attention::STEP);
    // SAFETY: keys below `keys` and vectors below NV.
    unsafe {
        let largest = largest_scores::<P::Simd, NV>(columns);
        let scale = P::Simd::splat(columns.scale_log2e);
        let mut powers = Powers::<P, NV> { scale, offsets: largest, sums: [P::Simd::zero(); NV] };
        let negative = P::Simd::splat(-columns.scale_log2e);
        for offset in &mut powers.offsets {
            *offset = P::Simd::mul(*offset, negative);
        }
        let whole = columns.keys / step * step;
        for key in (0..whole).step_by(step) {
            powers.step(columns.scores, key, step);
        }
        if whole < columns.keys {
            powers.step(columns.scores, whole, columns.keys - whole);
        }
        for (v, sum) in powers.sums.into_iter().enumerate() {
            P::Simd::store(columns.factors.add(v * lanes), P::Simd::reciprocal(sum));
        }
    }
}

/// The largest score of each query.
#[inline(always)]
pub(crate) unsafe fn largest_scores<S: Simd, const NV: usize>(columns: &Exponentials) -> [S::V; NV] {
    // SAFETY: the caller vouches for `keys` times NV vectors.
    unsafe {
        let mut largest = [S::splat(f32::NEG_INFINITY); NV];
        for key in 0..columns.keys {
            for (v, largest) in largest.iter_mut().enumerate() {
                *largest = S::max(*largest, S::load(columns.scores.add((key * NV + v) * S::LANES)));
            }
        }
        largest
    }
}

/// What turns scores into exponentials.
struct Powers<P: Path, const NV: usize> {
    scale: Vector<P>,
    offsets: [Vector<P>; NV],
    sums: [Vector<P>; NV],
}

impl<P: Path, const NV: usize> Powers<P, NV> {
    /// One step of the right operand: `rows` keys from `key` on.
    #[inline(always)]
    unsafe fn step(&mut self, scores: *mut f32, key: usize, rows: usize) {
        let lanes = lanes::<P>();
        // SAFETY: the caller vouches for the keys. The weights are at most as long as the scores, so those of this step
        // are written over scores of this step and before, all of which have been read.
        unsafe {
            let mut weights = [[P::Simd::zero(); MAX_STEP]; NV];
            for (v, weights) in weights.iter_mut().enumerate() {
                for (row, weight) in weights.iter_mut().enumerate().take(rows) {
                    let score = P::Simd::load(scores.add(((key + row) * NV + v) * lanes));
                    *weight = weight_of_score::<P>(score, self.scale, self.offsets[v]);
                    self.sums[v] = P::Simd::add(self.sums[v], *weight);
                }
            }
            let step = scores.cast::<P::Inner>().add(key * NV * lanes);
            for (v, weights) in weights.into_iter().enumerate() {
                P::Attention::store_step(step.add(v * lanes * P::Attention::STEP), weights);
            }
        }
    }
}
