//! What a matrix kernel multiplies with what, and in which number format: one [`Path`] a combination.
//!
//! | path | activations | weights | product |
//! | --- | --- | --- | --- |
//! | [`F32`] over any [`Simd`] | f32 | f32 | fused multiply-add |
//! | [`Widened`] over any [`Simd`] | f32 | bf16 | weights widened as they are loaded: half the memory of f32 |
//! | [`Bf16`] (AVX-512 BF16) | bf16 | bf16 | `vdpbf16ps`, two products a lane |

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
    /// How activations are stored: the left operand, row-major.
    type Activation: Element;
    /// How weights are stored: the right operand, packed (see [`crate::gemm`]).
    type Weight: Element;
    /// The path for products of two activations, as attention needs them.
    type Attention: Path<Simd = Self::Simd, Activation = Self::Activation, Weight = Self::Activation>;
    /// A broadcast group of activations.
    type A: Copy;
    /// A vector of weights.
    type B: Copy;

    /// Consecutive values of the inner dimension that one step multiplies.
    const STEP: usize;
    /// The widest panel, in vectors: as many as leave the accumulators in registers.
    const MAX_VECTORS: usize;

    unsafe fn broadcast(p: *const Self::Activation) -> Self::A;
    unsafe fn load_weights(p: *const Self::Weight) -> Self::B;
    unsafe fn step(a: Self::A, b: Self::B, sum: Vector<Self>) -> Vector<Self>;
    /// Stores a vector as activations.
    unsafe fn store(p: *mut Self::Activation, v: Vector<Self>);
    /// Stores the first `n < LANES` lanes as activations.
    unsafe fn store_first(p: *mut Self::Activation, n: usize, v: Vector<Self>);

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
                    let value = if there { *source.add(row * stride + column) } else { Element::from_f32(0.0) };
                    *packed.add(column * Self::STEP + row) = value;
                }
            }
        }
    }
}

/// The accumulator vector of a path.
pub(crate) type Vector<P> = <<P as Path>::Simd as Simd>::V;

/// Lanes of a path's vectors.
#[inline(always)]
pub(crate) const fn lanes<P: Path>() -> usize {
    <P::Simd as Simd>::LANES
}

/// A number format in memory.
pub(crate) trait Element: Plain + Default {
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
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
#[derive(Clone, Copy)]
pub(crate) struct F32<S>(PhantomData<S>);

impl<S: Vectors> Path for F32<S> {
    type Simd = S;
    type Activation = f32;
    type Weight = f32;
    type Attention = Self;
    type A = S::V;
    type B = S::V;

    const STEP: usize = 1;
    const MAX_VECTORS: usize = S::MAX_VECTORS;

    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::splat(p.read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_weights(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
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
}

/// f32 activations, bf16 weights: bf16 models on processors without bf16 arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct Widened<S>(PhantomData<S>);

impl<S: Vectors> Path for Widened<S> {
    type Simd = S;
    type Activation = f32;
    type Weight = u16;
    type Attention = F32<S>;
    type A = S::V;
    type B = S::V;

    const STEP: usize = 1;
    const MAX_VECTORS: usize = S::MAX_VECTORS;

    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::splat(p.read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_weights(p: *const u16) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p) }
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
}

/// bf16 activations and weights, multiplied in pairs by `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

#[cfg(target_arch = "x86_64")]
mod bf16_dot {
    use core::arch::x86_64::*;

    use super::{Bf16, Path};
    use crate::simd::Avx512;

    // SAFETY (all methods): as the trait states; AVX-512 BF16 and BW are enabled by the caller.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
    impl Path for Bf16 {
        type Simd = Avx512;
        type Activation = u16;
        type Weight = u16;
        type Attention = Self;
        type A = __m512bh;
        type B = __m512bh;

        const STEP: usize = 2;
        const MAX_VECTORS: usize = 4;

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
            unsafe { _mm256_storeu_si256(p.cast(), core::mem::transmute(_mm512_cvtneps_pbh(v))) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut u16, n: usize, v: __m512) {
            unsafe {
                let halves: __m256i = core::mem::transmute(_mm512_cvtneps_pbh(v));
                _mm256_mask_storeu_epi16(p.cast(), crate::simd::avx512_first(n), halves);
            }
        }
        #[inline(always)]
        unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
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
