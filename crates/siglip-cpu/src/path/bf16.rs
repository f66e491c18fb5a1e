//! bf16 arithmetic.

use std::marker::PhantomData;

use super::{ColumnScale, ColumnScales, Path, RowScale, Vector, convert_floats};
use crate::dot::PairDot;
use crate::simd::Simd;

/// bf16 activations and weights, multiplied in pairs and summed in f32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16<D>(PhantomData<D>);

impl<D: PairDot> Path for Bf16<D> {
    type Simd = D::Simd;
    type Activation = u16;
    type Weight = u16;
    type Inner = u16;
    type Attention = Self;
    type A = D::Pairs;
    type B = D::Pairs;
    type Sum = Vector<Self>;

    const STEP: usize = 2;
    const MAX_VECTORS: usize = D::Simd::MAX_VECTORS;
    const FUSED: bool = true;

    fn convert(row: &[f32], converted: &mut [u16]) -> ColumnScale {
        convert_floats(row, converted)
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const u16) -> D::Pairs {
        // SAFETY: the caller's.
        unsafe { D::broadcast(p) }
    }
    #[inline(always)]
    unsafe fn load_weights(p: *const u16) -> D::Pairs {
        // SAFETY: the caller's.
        unsafe { D::load(p) }
    }
    #[inline(always)]
    unsafe fn step(a: D::Pairs, b: D::Pairs, sum: Vector<Self>) -> Vector<Self> {
        // SAFETY: the caller's.
        unsafe { D::dot(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: Vector<Self>) {
        // SAFETY: the caller's.
        unsafe { D::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut u16, n: usize, v: Vector<Self>) {
        // SAFETY: the caller's.
        unsafe { D::store_first(p, n, v) }
    }
    #[inline(always)]
    unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
        // SAFETY: the caller's.
        unsafe { D::pack_step(source, stride, rows, columns, packed) }
    }
    #[inline(always)]
    unsafe fn zero_sum() -> Vector<Self> {
        // SAFETY: the caller's.
        unsafe { D::Simd::zero() }
    }
    #[inline(always)]
    unsafe fn value(sum: Vector<Self>, _: RowScale, _: &ColumnScales<Self>) -> Vector<Self> {
        sum
    }
    #[inline(always)]
    unsafe fn load(p: *const u16) -> Vector<Self> {
        // SAFETY: the caller's.
        unsafe { D::Simd::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn store_quantized(_: *mut u16, _: Vector<Self>) {
        unreachable!("this path is not quantised")
    }
}
