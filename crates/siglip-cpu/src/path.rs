//! What a matrix kernel multiplies with what, and in which number format: one [`Path`] a combination.
//!
//! | path | activations | weights | product |
//! | --- | --- | --- | --- |
//! | [`F32`] over any [`Simd`] | f32 | f32 | fused multiply-add |
//! | [`Widened`] over any [`Simd`] | f32 | bf16 | weights widened as they are loaded: half the memory of f32 |
//! | [`Bf16`] (AVX-512 BF16) | bf16 | bf16 | `vdpbf16ps`, two products a lane |
//! | [`Int8`] over an [`IntegerDot`] | u8, scale and offset a row | i8, scale a column | `vpdpbusd`, four a lane |

use std::marker::PhantomData;

use crate::buffer::Plain;
use crate::simd::Simd;

/// The operand formats and the inner step of a matrix product.
///
/// # Safety of the methods
///
/// As for [`Simd`]: the instructions must be enabled in the calling function and present in the machine; pointers must
/// be valid for what is read or written, without any alignment.
pub(crate) trait Path: Copy + 'static {
    /// The vectors of the accumulators.
    type Simd: Simd;
    /// How the left operand is stored, row-major.
    type Activation: Plain + Default;
    /// How weights are stored: the right operand, packed (see [`crate::gemm`]).
    type Weight: Plain + Default;
    /// How results are stored that another product reads: q, k, v, attention's output, the MLP's inner values. The
    /// same as `Activation`, but where activations are [quantised](Path::QUANTIZED).
    type Inner: Element;
    /// The path for products of two activations, as attention needs them.
    type Attention: Path<
            Simd = Self::Simd,
            Activation = Self::Inner,
            Weight = Self::Inner,
            Inner = Self::Inner,
            Sum = Vector<Self>,
        >;
    /// A broadcast group of activations.
    type A: Copy;
    /// A vector of weights.
    type B: Copy;
    /// A vector of sums.
    type Sum: Copy;

    /// Consecutive values of the inner dimension that one step multiplies.
    const STEP: usize;
    /// The widest panel, in vectors: as many as leave the accumulators in registers.
    const MAX_VECTORS: usize;
    /// Whether activations are integers with a scale and an offset for each row, made from `Inner` values by
    /// [`crate::ops::quantize`]. Where they are not, `Activation` and `Inner` are the same format.
    const QUANTIZED: bool = false;

    /// Converts one column of a layer, `row.len()` weights, for packing.
    fn convert(row: &[f32], converted: &mut [Self::Weight]) -> ColumnScale;

    unsafe fn broadcast(p: *const Self::Activation) -> Self::A;
    unsafe fn load_weights(p: *const Self::Weight) -> Self::B;
    unsafe fn zero_sum() -> Self::Sum;
    unsafe fn step(a: Self::A, b: Self::B, sum: Self::Sum) -> Self::Sum;
    /// The sums as numbers; the scales matter only to quantised paths.
    unsafe fn value(sum: Self::Sum, row: RowScale, columns: &ColumnScales<Self>) -> Vector<Self>;
    /// Stores a vector for another product.
    unsafe fn store(p: *mut Self::Inner, v: Vector<Self>);
    /// Stores the first `n < LANES` lanes for another product.
    unsafe fn store_first(p: *mut Self::Inner, n: usize, v: Vector<Self>);
    /// Loads a vector that [`Path::store`] stored.
    unsafe fn load(p: *const Self::Inner) -> Vector<Self>;
    /// Stores a vector of integers from 0 to 255 as activations. Only for quantised paths.
    unsafe fn store_quantized(p: *mut Self::Activation, v: Vector<Self>);

    /// Packs one step of one vector of columns as a right operand: `rows <= STEP` rows of `columns <= LANES` values,
    /// `stride` values from row to row, interleaved. What is beyond rows and columns becomes zero.
    #[inline(always)]
    unsafe fn pack_step(
        source: *const Self::Activation,
        stride: usize,
        rows: usize,
        columns: usize,
        packed: *mut Self::Activation,
    ) {
        for column in 0..lanes::<Self>() {
            for row in 0..Self::STEP {
                let there = row < rows && column < columns;
                // SAFETY: inside the rows and columns that the caller vouches for.
                unsafe {
                    let value = if there { *source.add(row * stride + column) } else { Default::default() };
                    *packed.add(column * Self::STEP + row) = value;
                }
            }
        }
    }
}

/// How a row of quantised activations reads: `value = scale · integer + offset`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RowScale {
    pub(crate) scale: f32,
    pub(crate) offset: f32,
}

/// How a column of weights was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnScale {
    /// What one unit of the stored weights is worth.
    pub(crate) scale: f32,
    /// The sum of the stored weights: what a row's offset is multiplied with.
    pub(crate) sum: f32,
}

/// The scales and sums of a vector of columns.
#[derive(Clone, Copy)]
pub(crate) struct ColumnScales<P: Path> {
    pub(crate) scale: Vector<P>,
    pub(crate) sum: Vector<P>,
}

/// The f32 vector of a path.
pub(crate) type Vector<P> = <<P as Path>::Simd as Simd>::V;

/// Lanes of a path's vectors.
#[inline(always)]
pub(crate) const fn lanes<P: Path>() -> usize {
    <P::Simd as Simd>::LANES
}

/// A floating-point format in memory.
pub(crate) trait Element: Plain + Default {
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

/// Weights in a floating-point format need no scale.
fn convert_floats<T: Element>(row: &[f32], converted: &mut [T]) -> ColumnScale {
    for (to, from) in converted.iter_mut().zip(row) {
        *to = T::from_f32(*from);
    }
    ColumnScale { scale: 1.0, sum: 0.0 }
}

impl Element for f32 {
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
}

/// bfloat16 as its bits.
impl Element for u16 {
    #[inline(always)]
    fn from_f32(x: f32) -> u16 {
        // Branch-free so that packing vectorises. NaN keeps its high bits and gains a quiet one, whatever its payload.
        let bits = x.to_bits();
        let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        (if x.is_nan() { nan } else { rounded }) as u16
    }
}

/// f32 activations and weights.
pub(crate) type F32<S> = Single<S, f32>;

/// f32 activations, bf16 weights: bf16 models on processors without bf16 arithmetic.
pub(crate) type Widened<S> = Single<S, u16>;

/// f32 activations and arithmetic, weights stored as `W`.
#[derive(Clone, Copy)]
pub(crate) struct Single<S, W>(PhantomData<(S, W)>);

/// A weight format whose vectors load as f32.
pub(crate) trait LoadsAsF32: Element {
    /// # Safety
    ///
    /// As for [`Simd`].
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

impl LoadsAsF32 for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }
}

impl LoadsAsF32 for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p) }
    }
}

impl<S: Vectors, W: LoadsAsF32> Path for Single<S, W> {
    type Simd = S;
    type Activation = f32;
    type Weight = W;
    type Inner = f32;
    type Attention = F32<S>;
    type A = S::V;
    type B = S::V;
    type Sum = S::V;

    const STEP: usize = 1;
    const MAX_VECTORS: usize = S::MAX_VECTORS;

    fn convert(row: &[f32], converted: &mut [W]) -> ColumnScale {
        convert_floats(row, converted)
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::splat(p.read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_weights(p: *const W) -> S::V {
        // SAFETY: the caller's.
        unsafe { W::load::<S>(p) }
    }
    #[inline(always)]
    unsafe fn step(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::mul_add(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store_first(p, n, v) }
    }
    #[inline(always)]
    unsafe fn zero_sum() -> S::V {
        // SAFETY: the caller's.
        unsafe { S::zero() }
    }
    #[inline(always)]
    unsafe fn value(sum: S::V, _: RowScale, _: &ColumnScales<Self>) -> S::V {
        sum
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn store_quantized(_: *mut f32, _: S::V) {
        unreachable!("this path is not quantised")
    }
}

/// bf16 activations and weights, multiplied in pairs by `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

#[cfg(target_arch = "x86_64")]
mod bf16_dot {
    use core::arch::x86_64::*;

    use super::{Bf16, ColumnScale, ColumnScales, Path, RowScale, convert_floats};
    use crate::simd::{Avx512, Simd};

    // SAFETY (all methods): as the trait states; AVX-512 BF16 and BW are enabled by the caller.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
    impl Path for Bf16 {
        type Simd = Avx512;
        type Activation = u16;
        type Weight = u16;
        type Inner = u16;
        type Attention = Self;
        type A = __m512bh;
        type B = __m512bh;
        type Sum = __m512;

        const STEP: usize = 2;
        const MAX_VECTORS: usize = 4;

        fn convert(row: &[f32], converted: &mut [u16]) -> ColumnScale {
            convert_floats(row, converted)
        }

        #[inline(always)]
        unsafe fn broadcast(p: *const u16) -> __m512bh {
            unsafe { core::mem::transmute(_mm512_set1_epi32(p.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn load_weights(p: *const u16) -> __m512bh {
            unsafe { core::mem::transmute(_mm512_loadu_si512(p.cast())) }
        }
        #[inline(always)]
        unsafe fn step(a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
            unsafe { _mm512_dpbf16_ps(sum, a, b) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut u16, v: __m512) {
            unsafe {
                _mm256_storeu_si256(
                    p.cast(),
                    core::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)),
                )
            }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut u16, n: usize, v: __m512) {
            unsafe {
                let halves = core::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm256_mask_storeu_epi16(p.cast(), crate::simd::avx512_first(n), halves);
            }
        }
        #[inline(always)]
        unsafe fn pack_step(
            source: *const u16,
            stride: usize,
            rows: usize,
            columns: usize,
            packed: *mut u16,
        ) {
            let mask = if columns == 16 { u16::MAX } else { crate::simd::avx512_first(columns) };
            unsafe {
                let second = if rows > 1 { mask } else { 0 };
                let even = _mm256_maskz_loadu_epi16(mask, source.cast());
                let odd = _mm256_maskz_loadu_epi16(second, source.wrapping_add(stride).cast());
                let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
                let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd);
                _mm512_storeu_si512(packed.cast(), pairs);
            }
        }
        #[inline(always)]
        unsafe fn zero_sum() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn value(sum: __m512, _: RowScale, _: &ColumnScales<Self>) -> __m512 {
            sum
        }
        #[inline(always)]
        unsafe fn load(p: *const u16) -> __m512 {
            unsafe { Avx512::load_bf16(p) }
        }
        #[inline(always)]
        unsafe fn store_quantized(_: *mut u16, _: __m512) {
            unreachable!("this path is not quantised")
        }
    }
}

/// u8 activations times i8 weights, summed in i32; attention in path `A`.
///
/// A weight column is scaled so that its largest magnitude becomes 127. A row of activations is scaled and shifted so
/// that its least value becomes 0 and its greatest 255: `x = s·a + m`. Then
/// `Σ x·w = scale_w · (s · Σ a·w_i + m · Σ w_i)`, and only `Σ a·w_i` is work.
#[derive(Clone, Copy)]
pub(crate) struct Int8<S, A>(PhantomData<(S, A)>);

impl<S: IntegerDot, A> Path for Int8<S, A>
where
    A: Path<
            Simd = S,
            Activation = <A as Path>::Inner,
            Weight = <A as Path>::Inner,
            Attention = A,
            Sum = <S as Simd>::V,
        >,
{
    type Simd = S;
    type Activation = u8;
    type Weight = i8;
    type Inner = A::Inner;
    type Attention = A;
    type A = S::Integers;
    type B = S::Integers;
    type Sum = S::Integers;

    const STEP: usize = 4;
    const MAX_VECTORS: usize = S::MAX_VECTORS;
    const QUANTIZED: bool = true;

    fn convert(row: &[f32], converted: &mut [i8]) -> ColumnScale {
        let largest = row.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
        let mut scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        let mut sum = 0;
        for (to, from) in converted.iter_mut().zip(row) {
            *to = (from / scale).round_ties_even() as i8;
            sum += i32::from(*to);
        }
        if !row.iter().all(|w| w.is_finite()) {
            // No integer stands for such a weight; this way the column's results are not finite either.
            scale = f32::NAN;
        }
        ColumnScale { scale, sum: sum as f32 }
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> S::Integers {
        // SAFETY: the caller's.
        unsafe { S::broadcast_integers(p) }
    }
    #[inline(always)]
    unsafe fn load_weights(p: *const i8) -> S::Integers {
        // SAFETY: the caller's.
        unsafe { S::load_integers(p) }
    }
    #[inline(always)]
    unsafe fn zero_sum() -> S::Integers {
        // SAFETY: the caller's.
        unsafe { S::zero_integers() }
    }
    #[inline(always)]
    unsafe fn step(a: S::Integers, b: S::Integers, sum: S::Integers) -> S::Integers {
        // SAFETY: the caller's.
        unsafe { S::dot(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn value(sum: S::Integers, row: RowScale, columns: &ColumnScales<Self>) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            let shifted = S::mul(S::splat(row.offset), columns.sum);
            S::mul(S::mul_add(S::to_floats(sum), S::splat(row.scale), shifted), columns.scale)
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut A::Inner, v: S::V) {
        // SAFETY: the caller's.
        unsafe { A::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut A::Inner, n: usize, v: S::V) {
        // SAFETY: the caller's.
        unsafe { A::store_first(p, n, v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const A::Inner) -> S::V {
        // SAFETY: the caller's.
        unsafe { A::load(p) }
    }
    #[inline(always)]
    unsafe fn store_quantized(p: *mut u8, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store_bytes(p, v) }
    }
}

/// Vectors with dot products of bytes.
///
/// # Safety of the methods
///
/// As for [`Simd`].
pub(crate) trait IntegerDot: Vectors {
    /// `LANES` groups of four bytes, or `LANES` 32-bit sums.
    type Integers: Copy;

    /// The same four bytes in every lane.
    unsafe fn broadcast_integers(p: *const u8) -> Self::Integers;
    unsafe fn load_integers(p: *const i8) -> Self::Integers;
    unsafe fn zero_integers() -> Self::Integers;
    /// `sum + Σ a·b` over the four bytes of each lane, `a` unsigned and `b` signed.
    unsafe fn dot(a: Self::Integers, b: Self::Integers, sum: Self::Integers) -> Self::Integers;
    unsafe fn to_floats(sum: Self::Integers) -> Self::V;
    /// Stores integral values from 0 to 255 as bytes.
    unsafe fn store_bytes(p: *mut u8, v: Self::V);
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use core::arch::x86_64::*;

    use super::IntegerDot;
    use crate::simd::Avx512;

    // SAFETY (all methods): as the trait states; AVX-512 VNNI is enabled by the caller.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
    impl IntegerDot for Avx512 {
        type Integers = __m512i;

        #[inline(always)]
        unsafe fn broadcast_integers(p: *const u8) -> __m512i {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn load_integers(p: *const i8) -> __m512i {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn zero_integers() -> __m512i {
            unsafe { _mm512_setzero_si512() }
        }
        #[inline(always)]
        unsafe fn dot(a: __m512i, b: __m512i, sum: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, a, b) }
        }
        #[inline(always)]
        unsafe fn to_floats(sum: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(sum) }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m512) {
            unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v))) }
        }
    }
}

impl IntegerDot for crate::simd::Portable {
    type Integers = [i32; 8];

    #[inline(always)]
    unsafe fn broadcast_integers(p: *const u8) -> [i32; 8] {
        // SAFETY: the caller vouches for four bytes.
        [unsafe { p.cast::<i32>().read_unaligned() }; 8]
    }
    #[inline(always)]
    unsafe fn load_integers(p: *const i8) -> [i32; 8] {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { p.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn zero_integers() -> [i32; 8] {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn dot(a: [i32; 8], b: [i32; 8], mut sum: [i32; 8]) -> [i32; 8] {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            for (a, b) in a.to_ne_bytes().into_iter().zip(b.to_ne_bytes()) {
                // Wrapping like the instruction: no layer comes near, but the peak's endless sums do.
                *sum = sum.wrapping_add(i32::from(a) * i32::from(b as i8));
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn to_floats(sum: [i32; 8]) -> [f32; 8] {
        let mut floats = [0.0; 8];
        for (float, sum) in floats.iter_mut().zip(sum) {
            *float = sum as f32;
        }
        floats
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: [f32; 8]) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller vouches for 8 bytes.
            unsafe { p.add(i).write(x as u8) }
        }
    }
}

/// How many vectors wide a panel may be for 6 rows of accumulators to stay in registers.
pub(crate) trait Vectors: Simd {
    const MAX_VECTORS: usize;
}

#[cfg(target_arch = "x86_64")]
impl Vectors for crate::simd::Avx512 {
    // 6 x 4 accumulators, 4 weights, 1 activation: 29 of 32 registers.
    const MAX_VECTORS: usize = 4;
}

#[cfg(target_arch = "x86_64")]
impl Vectors for crate::simd::Avx2 {
    // 6 x 2 accumulators, 2 weights, 1 activation: 15 of 16 registers.
    const MAX_VECTORS: usize = 2;
}

#[cfg(target_arch = "aarch64")]
impl Vectors for crate::simd::Neon {
    const MAX_VECTORS: usize = 4;
}

impl Vectors for crate::simd::Portable {
    const MAX_VECTORS: usize = 1;
}
