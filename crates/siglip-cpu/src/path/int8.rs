//! Integer arithmetic: activations in 8 bits with a scale and an offset for each row, weights in 8 bits with a scale
//! for each column.

use std::marker::PhantomData;

use super::{ColumnScale, ColumnScales, Layout, MAX_BYTES, MAX_STEP, Path, RowScale, Vector};
use crate::dot::IntegerDot;
use crate::simd::Simd;

/// u8 activations times i8 weights, summed in i32; attention in path `A`.
///
/// A weight column is scaled so that its largest magnitude becomes 127. A row of activations is scaled and shifted so
/// that its least value becomes 0 and its greatest 255: `x = s·a + m`. Then
/// `Σ x·w = scale_w · (s · Σ a·w_i + m · Σ w_i)`, and only `Σ a·w_i` is work.
#[derive(Clone, Copy)]
pub(crate) struct Int8<D, A>(PhantomData<(D, A)>);

impl<D: IntegerDot, A> Path for Int8<D, A>
where
    A: Path<Simd = D::Simd, Activation = <A as Path>::Inner, Weight = <A as Path>::Inner, Attention = A>,
{
    type Simd = D::Simd;
    type Activation = u8;
    type Weight = i8;
    type Inner = A::Inner;
    type Attention = A;
    type A = D::Activations;
    type B = D::Weights;
    type Sum = D::Sums;

    const STEP: usize = D::STEP;
    const ROWS: usize = D::ROWS;
    const MAX_VECTORS: usize = D::MAX_VECTORS;
    const FUSED: bool = D::FUSED;
    const LAYOUT: Layout = D::LAYOUT;
    const QUANTIZED: bool = true;
    const SHORT: bool = true;
    // Where a step is one instruction, it multiplies at least twice as many values as one in a floating-point format.
    const SCORES: bool = D::FUSED && matches!(D::LAYOUT, Layout::Rows) && D::MAX_VECTORS >= A::MAX_VECTORS;
    // Bytes that are multiplied twice take as long as bf16.
    const VALUES: bool = Self::SCORES && D::TWO_BYTES && A::STEP == 1;

    fn convert(row: &[f32], converted: &mut [i8]) -> ColumnScale {
        // Loops that the compiler turns into vectors of any instruction set: this is most of what loading takes. Without
        // its sign, a float's bits are in the order of its magnitude, infinity and NaN last.
        let largest = row.iter().fold(0, |largest, w| largest.max((w.to_bits() & i32::MAX as u32) as i32));
        let largest = f32::from_bits(largest as u32);
        let mut scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        let mut sum = 0;
        for (to, from) in converted.iter_mut().zip(row) {
            // Rounds to the nearest integer, ties to even, and leaves it in the lowest bits.
            const ROUND: f32 = (3 << 22) as f32;
            *to = (from / scale + ROUND).to_bits() as i8;
            sum += i32::from(*to);
        }
        if !largest.is_finite() {
            // No integer stands for such a weight; this way the column's results are not finite either.
            scale = f32::NAN;
        }
        ColumnScale { scale, sum: sum as f32 }
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, stride: usize) -> D::Activations {
        // SAFETY: the caller's.
        unsafe { D::broadcast(p, stride) }
    }
    #[inline(always)]
    unsafe fn load_weights(p: *const i8) -> D::Weights {
        // SAFETY: the caller's.
        unsafe { D::load(p) }
    }
    #[inline(always)]
    unsafe fn zero_sum() -> D::Sums {
        // SAFETY: the caller's.
        unsafe { D::zero() }
    }
    #[inline(always)]
    unsafe fn step(a: D::Activations, b: D::Weights, sum: D::Sums) -> D::Sums {
        // SAFETY: the caller's.
        unsafe { D::dot(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn value(sum: D::Sums, row: usize, scale: RowScale, columns: &ColumnScales<Self>) -> Vector<Self> {
        // SAFETY: the caller's.
        unsafe {
            let offset = if D::ZERO == 0.0 { scale.offset } else { scale.offset + scale.scale * D::ZERO };
            let shifted = D::Simd::mul(D::Simd::splat(offset), columns.sum);
            let value = D::Simd::mul_add(D::to_floats(sum, row), D::Simd::splat(scale.scale), shifted);
            D::Simd::mul(value, columns.scale)
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut A::Inner, v: Vector<Self>) {
        // SAFETY: the caller's.
        unsafe { A::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_step(p: *mut A::Inner, rows: [Vector<Self>; MAX_STEP]) {
        // SAFETY: the caller's.
        unsafe { A::store_step(p, rows) }
    }
    #[inline(always)]
    unsafe fn store_quantized(p: *mut u8, v: Vector<Self>) {
        // SAFETY: the caller's.
        unsafe { D::store_bytes(p, v) }
    }
    #[inline(always)]
    unsafe fn store_groups(p: *mut u8, rows: [Vector<Self>; MAX_BYTES]) {
        // SAFETY: the caller's.
        unsafe { D::store_groups(p, rows) }
    }
    #[inline(always)]
    unsafe fn store_two_bytes(high: *mut i8, low: *mut i8, rows: [Vector<Self>; MAX_BYTES]) {
        // SAFETY: the caller's.
        unsafe { D::store_two_bytes(high, low, rows) }
    }
}
