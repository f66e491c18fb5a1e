//! Layers whose weights are bf16 and whose arithmetic is f32: on processors without bf16 instructions, and on those where
//! these are slower than f32's.
//!
//! To widen a vector takes two instructions on the ports that multiply. A block of six rows would do so for every third
//! product, so only the first one does, and leaves the panel in f32 in memory that stays in L2; all other rows are
//! multiplied by that. Widening is exact: it does not matter to the result where it is done.

use crate::gemm::{self, BLOCK_AND_KEEP, Product};
use crate::kernels::Kernels;
use crate::path::{F32, Widened};
use crate::simd::Simd;

/// [`gemm::multiply`] for weights that are widened.
///
/// # Safety
///
/// As for [`gemm::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd>(product: &Product<Widened<S>>)
where
    F32<S>: Kernels<Activation = f32, Weight = f32, Inner = f32>,
{
    // SAFETY: the caller's contract, for the first rows and for those behind them.
    unsafe {
        if product.widened.is_null() || product.rows <= BLOCK_AND_KEEP {
            return gemm::multiply(product);
        }
        let done = gemm::multiply_and_keep(product);
        // A call, not that kernel's code once more.
        <F32<S>>::multiply(&Product {
            activations: product.activations.add(done * product.row_stride),
            row_stride: product.row_stride,
            rows: product.rows - done,
            panel: product.widened,
            steps: product.steps,
            vectors: product.vectors,
            widened: std::ptr::null_mut(),
            row_scales: product.row_scales,
            column_scales: product.column_scales,
            column_sums: product.column_sums,
            part: product.part,
            epilogue: product.epilogue.on().skip_rows(done),
            prefetch: product.prefetch,
            prefetch_bytes: product.prefetch_bytes,
        });
    }
}
