//! bf16 arithmetic.

use std::marker::PhantomData;

use super::{ColumnScale, ColumnScales, Layout, MAX_STEP, Path, RowScale, Vector, convert_floats};
use crate::dot::Bf16Dot;

/// bf16 activations and weights, multiplied in groups and summed in f32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16<D>(PhantomData<D>);

impl<D: Bf16Dot> Path for Bf16<D> {
    type Simd = D::Simd;
    type Activation = u16;
    type Weight = u16;
    type Inner = u16;
    type Attention = Self;
    type A = D::Activations;
    type B = D::Weights;
    type Sum = D::Sums;

    const STEP: usize = D::STEP;
    const SHORT: bool = true;
    const ROWS: usize = D::ROWS;
    const MAX_VECTORS: usize = D::MAX_VECTORS;
    const FUSED: bool = true;
    const LAYOUT: Layout = D::LAYOUT;

    fn convert(row: &[f32], converted: &mut [u16]) -> ColumnScale {
        convert_floats(row, converted)
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const u16, stride: usize) -> D::Activations {
        // SAFETY: the caller's.
        unsafe { D::broadcast(p, stride) }
    }
    #[inline(always)]
    unsafe fn load_weights(p: *const u16) -> D::Weights {
        // SAFETY: the caller's.
        unsafe { D::load(p) }
    }
    #[inline(always)]
    unsafe fn step(a: D::Activations, b: D::Weights, sum: D::Sums) -> D::Sums {
        // SAFETY: the caller's.
        unsafe { D::dot(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: Vector<Self>) {
        // SAFETY: the caller's.
        unsafe { D::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_step(p: *mut u16, rows: [Vector<Self>; MAX_STEP]) {
        // SAFETY: the caller's.
        unsafe { D::store_step(p, rows) }
    }
    #[inline(always)]
    unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
        // SAFETY: the caller's.
        unsafe { D::pack_step(source, stride, rows, columns, packed) }
    }
    #[inline(always)]
    unsafe fn zero_sum() -> D::Sums {
        // SAFETY: the caller's.
        unsafe { D::zero() }
    }
    #[inline(always)]
    unsafe fn value(sum: D::Sums, row: usize, _: RowScale, _: &ColumnScales<Self>) -> Vector<Self> {
        // SAFETY: the caller's.
        unsafe { D::row(sum, row) }
    }
    #[inline(always)]
    unsafe fn store_quantized(_: *mut u16, _: Vector<Self>) {
        unreachable!("this path is not quantised")
    }
}
