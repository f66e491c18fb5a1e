//! f32 arithmetic, with weights in f32 or bf16.

use std::marker::PhantomData;

use super::{ColumnScale, ColumnScales, Element, MAX_STEP, Path, RowScale, convert_floats};
use crate::simd::Simd;

/// f32 activations and weights.
pub(crate) type F32<S> = Single<S, f32>;

/// f32 activations, bf16 weights: bf16 models on processors without bf16 arithmetic.
pub(crate) type Widened<S> = Single<S, u16>;

/// f32 activations and arithmetic, weights stored as `W`.
#[derive(Clone, Copy)]
pub(crate) struct Single<S, W>(PhantomData<(S, W)>);

impl<S: Simd, W: Element> Path for Single<S, W> {
    type Simd = S;
    type Activation = f32;
    type Weight = W;
    type Inner = f32;
    type Attention = F32<S>;
    type A = S::V;
    type B = S::V;
    type Sum = S::V;

    const STEP: usize = 1;
    const SHORT: bool = false;
    const MAX_VECTORS: usize = S::MAX_VECTORS;
    const FUSED: bool = S::FUSED;
    const WIDENED: bool = size_of::<W>() < size_of::<f32>();

    fn convert(row: &[f32], converted: &mut [W]) -> ColumnScale {
        convert_floats(row, converted)
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const f32, _: usize) -> S::V {
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
    unsafe fn store_step(p: *mut f32, rows: [S::V; MAX_STEP]) {
        // SAFETY: the caller's.
        unsafe { S::store(p, rows[0]) }
    }
    #[inline(always)]
    unsafe fn pack_step(source: *const f32, _: usize, _: usize, columns: usize, packed: *mut f32) {
        // A step is one row, which stays as it is. SAFETY: the caller's.
        unsafe {
            let row = if columns == S::LANES { S::load(source) } else { S::load_first(source, columns) };
            S::store(packed, row);
        }
    }
    #[inline(always)]
    unsafe fn zero_sum() -> S::V {
        // SAFETY: the caller's.
        unsafe { S::zero() }
    }
    #[inline(always)]
    unsafe fn value(sum: S::V, _: usize, _: RowScale, _: &ColumnScales<Self>) -> S::V {
        sum
    }
    #[inline(always)]
    unsafe fn store_widened(p: *mut f32, weights: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(p, weights) }
    }
    #[inline(always)]
    unsafe fn store_quantized(_: *mut f32, _: S::V) {
        unreachable!("this path is not quantised")
    }
}
