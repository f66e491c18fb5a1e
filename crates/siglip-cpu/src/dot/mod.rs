//! Dot products of narrow values: the instructions that make bf16 and int8 faster than f32.
//!
//! One type an instruction, named after it. Like [`Simd`], the methods are `inline(always)` and take on the features of
//! whatever function calls them.

#[cfg(all(test, target_arch = "x86_64"))]
mod emulated;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) use emulated::EmulatedVdpbf16ps;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Bfmmla, Sdot, Usmmla};
pub(crate) use portable::Loops;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Vdpbf16ps, Vpdpbusd, Vpdpbusd256, Vpmaddwd};

use crate::path::{Layout, MAX_BYTES, MAX_STEP, interleave};
use crate::simd::{MAX_LANES, Simd};

/// Groups of bf16 values, multiplied and summed in f32.
///
/// # Safety of the methods
///
/// As for [`Simd`].
pub(crate) trait Bf16Dot: Copy + 'static {
    /// The f32 vectors that the sums become.
    type Simd: Simd;
    /// A group of activations for every lane, of each of [`Bf16Dot::ROWS`] rows.
    type Activations: Copy;
    /// A group of weights in every lane.
    type Weights: Copy;
    /// A sum in every lane, for each row.
    type Sums: Copy;

    /// Values of a group.
    const STEP: usize = 2;
    /// [`crate::path::Path::ROWS`].
    const ROWS: usize = 1;
    /// The widest panel, in vectors.
    const MAX_VECTORS: usize = Self::Simd::MAX_VECTORS;
    /// How rows of activations lie.
    const LAYOUT: Layout = Layout::Rows;

    /// The same group in every lane. Rows are `stride` values apart.
    unsafe fn broadcast(p: *const u16, stride: usize) -> Self::Activations;
    unsafe fn load(p: *const u16) -> Self::Weights;
    unsafe fn zero() -> Self::Sums;
    /// `sums + Σ a·b` over the group of each lane.
    unsafe fn dot(a: Self::Activations, b: Self::Weights, sums: Self::Sums) -> Self::Sums;
    /// The sums of one of the rows.
    unsafe fn row(sums: Self::Sums, row: usize) -> Floats<Self>;
    /// Stores a vector as bf16, rounded to nearest even.
    unsafe fn store(p: *mut u16, v: Floats<Self>);

    /// [`crate::path::Path::store_step`].
    #[inline(always)]
    unsafe fn store_step(p: *mut u16, rows: [Floats<Self>; MAX_STEP]) {
        let lanes = Self::Simd::LANES;
        let mut halves = [0; MAX_STEP * MAX_LANES];
        // SAFETY: each row fills its own lanes; the caller vouches for a step at `p`.
        unsafe {
            for (row, values) in rows.into_iter().take(Self::STEP).enumerate() {
                Self::store(halves.as_mut_ptr().add(row * lanes), values);
            }
            interleave(halves.as_ptr(), lanes, (Self::STEP, lanes), p, (Self::STEP, lanes));
        }
    }

    /// [`crate::path::Path::pack_step`].
    #[inline(always)]
    unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
        // SAFETY: the caller's.
        unsafe { interleave(source, stride, (rows, columns), packed, (Self::STEP, Self::Simd::LANES)) }
    }
}

/// The f32 vector of a dot product.
pub(crate) type Floats<D> = <<D as Bf16Dot>::Simd as Simd>::V;

/// Groups of unsigned bytes times groups of signed ones, summed in i32.
///
/// # Safety of the methods
///
/// As for [`Simd`].
pub(crate) trait IntegerDot: Copy + 'static {
    /// The f32 vectors that the sums become.
    type Simd: Simd;
    /// A group of activations for every lane, of each of [`IntegerDot::ROWS`] rows.
    type Activations: Copy;
    /// A group of weights in every lane.
    type Weights: Copy;
    /// A 32-bit sum in every lane, for each row.
    type Sums: Copy;

    /// Bytes of a group.
    const STEP: usize = 4;
    /// [`crate::path::Path::ROWS`].
    const ROWS: usize = 1;
    /// The widest panel, in vectors, whose sums stay in registers.
    const MAX_VECTORS: usize = Self::Simd::MAX_VECTORS;
    /// Whether `dot` is one instruction.
    const FUSED: bool = true;
    /// How rows of activations lie.
    const LAYOUT: Layout = Layout::Rows;
    /// What is taken from every activation before it is multiplied: 0, or 128 where the instruction multiplies signed
    /// bytes only.
    const ZERO: f32 = 0.0;
    /// Whether there is [`IntegerDot::store_two_bytes`].
    const TWO_BYTES: bool = false;

    /// The same group in every lane. Rows are `stride` values apart.
    unsafe fn broadcast(p: *const u8, stride: usize) -> Self::Activations;
    unsafe fn load(p: *const i8) -> Self::Weights;
    unsafe fn zero() -> Self::Sums;
    /// `sums + Σ (a - ZERO)·b` over the group of each lane, exact for weights from -127 on.
    unsafe fn dot(a: Self::Activations, b: Self::Weights, sums: Self::Sums) -> Self::Sums;
    /// The sums of one of the rows.
    unsafe fn to_floats(sums: Self::Sums, row: usize) -> <Self::Simd as Simd>::V;
    /// Stores values from 0 to 255 as bytes, rounded to nearest, ties to even.
    unsafe fn store_bytes(p: *mut u8, v: <Self::Simd as Simd>::V);
    /// [`crate::path::Path::store_groups`].
    #[inline(always)]
    unsafe fn store_groups(p: *mut u8, rows: [<Self::Simd as Simd>::V; MAX_BYTES]) {
        let mut values = [0.0; MAX_LANES];
        // SAFETY: no vector is longer; the caller vouches for a group a lane.
        unsafe {
            for (i, row) in rows.into_iter().enumerate().take(Self::STEP) {
                Self::Simd::store(values.as_mut_ptr(), row);
                for (lane, value) in values.iter().enumerate().take(Self::Simd::LANES) {
                    *p.add(lane * Self::STEP + i) = value.round_ties_even() as i32 as u8;
                }
            }
        }
    }
    /// [`crate::path::Path::store_two_bytes`].
    #[inline(always)]
    unsafe fn store_two_bytes(_high: *mut i8, _low: *mut i8, _: [<Self::Simd as Simd>::V; MAX_BYTES]) {
        unreachable!("attention's second product is on another path")
    }
}
