//! Dot products of narrow values: the instructions that make bf16 and int8 faster than f32.
//!
//! One type an instruction, named after it. Like [`Simd`], the methods are `inline(always)` and take on the features of
//! whatever function calls them.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Bfdot, Sdot, Usdot};
pub(crate) use portable::Loops;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Vdpbf16ps, Vpdpbusd, Vpdpbusd256, Vpmaddwd};

use crate::path::interleave;
use crate::simd::Simd;

/// Pairs of bf16 values, multiplied and summed in f32.
///
/// # Safety of the methods
///
/// As for [`Simd`].
pub(crate) trait PairDot: Copy + 'static {
    /// The vectors of the sums.
    type Simd: Simd;
    /// `LANES` pairs.
    type Pairs: Copy;

    /// The same pair in every lane.
    unsafe fn broadcast(p: *const u16) -> Self::Pairs;
    unsafe fn load(p: *const u16) -> Self::Pairs;
    /// `sum + Σ a·b` over the pair of each lane.
    unsafe fn dot(a: Self::Pairs, b: Self::Pairs, sum: Sums<Self>) -> Sums<Self>;
    /// Stores a vector as bf16, rounded to nearest even.
    unsafe fn store(p: *mut u16, v: Sums<Self>);
    /// Stores the first `n < LANES` lanes; memory beyond is not touched.
    unsafe fn store_first(p: *mut u16, n: usize, v: Sums<Self>);

    /// [`crate::path::Path::pack_step`].
    #[inline(always)]
    unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
        // SAFETY: the caller's.
        unsafe { interleave(source, stride, (rows, columns), packed, (2, Self::Simd::LANES)) }
    }
}

/// The f32 vector of a dot product's sums.
pub(crate) type Sums<D> = <<D as PairDot>::Simd as Simd>::V;

/// Groups of four unsigned bytes times groups of four signed ones, summed in i32.
///
/// # Safety of the methods
///
/// As for [`Simd`].
pub(crate) trait IntegerDot: Copy + 'static {
    /// The f32 vectors that the sums become.
    type Simd: Simd;
    /// The same four activations in every lane.
    type Activations: Copy;
    /// Four weights in every lane.
    type Weights: Copy;
    /// A 32-bit sum in every lane.
    type Sums: Copy;

    /// The widest panel, in vectors, whose sums stay in registers.
    const MAX_VECTORS: usize = Self::Simd::MAX_VECTORS;
    /// Whether `dot` is one instruction.
    const FUSED: bool = true;
    /// What is taken from every activation before it is multiplied: 0, or 128 where the instruction multiplies signed
    /// bytes only.
    const ZERO: f32 = 0.0;

    unsafe fn broadcast(p: *const u8) -> Self::Activations;
    unsafe fn load(p: *const i8) -> Self::Weights;
    unsafe fn zero() -> Self::Sums;
    /// `sum + Σ (a - ZERO)·b` over the four bytes of each lane, exact for weights from -127 on.
    unsafe fn dot(a: Self::Activations, b: Self::Weights, sum: Self::Sums) -> Self::Sums;
    unsafe fn to_floats(sum: Self::Sums) -> <Self::Simd as Simd>::V;
    /// Stores integral values from 0 to 255 as bytes.
    unsafe fn store_bytes(p: *mut u8, v: <Self::Simd as Simd>::V);
}
