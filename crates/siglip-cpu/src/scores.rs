//! Attention's scores in 8 bits, for paths that quantise.
//!
//! As SageAttention does it (Zhang et al., "SageAttention: Accurate 8-Bit Attention for Plug-and-play Inference
//! Acceleration", ICLR 2025): queries and keys are quantised row by row, and keys lose their mean over the positions first.
//! That moves all scores of a query alike, which softmax does not see, and takes away what a trained model's keys have in
//! common, often far more than what sets them apart. The product with the values stays in the path for attention, or has its
//! weights in two bytes (see [`crate::values`]): of weights from 0 to 1, no unit of 8 bits suits both a sharp and a flat row.
//!
//! Keys are the activations of the product here (unsigned, with a scale and an offset each), queries its columns (signed,
//! with a scale and a sum each).

use crate::attention::{Attention, Panel};
use crate::buffer::Buffer;
use crate::epilogue::RawSums;
use crate::gemm::{Part, Product};
use crate::kernels::Kernels;
use crate::ops::Extremes;
use crate::path::{Element, MAX_BYTES, Path, RowScale, Vector, lanes};
use crate::simd::{MAX_LANES, Simd};

/// Fewer keys than this do not pay for being quantised.
pub(crate) const FEWEST_KEYS: usize = 128;

/// Whether scores are computed in 8 bits for heads of this size, which must fill a vector.
#[inline(always)]
pub(crate) fn in_8_bits<P: Path>(keys: usize, head_dim: usize) -> bool {
    P::SCORES && keys >= FEWEST_KEYS && head_dim >= lanes::<P>()
}

/// Scratch memory of one thread.
pub(crate) struct Scratch {
    keys: Buffer<u8>,
    key_scales: Buffer<RowScale>,
    mean: Buffer<f32>,
    rows: Buffer<f32>,
    columns: Buffer<f32>,
    query_scales: Buffer<f32>,
    query_sums: Buffer<f32>,
}

/// Pointers into a [`Scratch`].
#[derive(Clone, Copy)]
pub(crate) struct ScratchMemory {
    /// `[steps][padded(keys)][STEP]`.
    keys: *mut u8,
    key_scales: *mut RowScale,
    /// The keys' mean, `[head_dim]`.
    mean: *mut f32,
    /// A vector of keys or queries in f32, row by row, where they are in another format, and `[head_dim][LANES]`.
    rows: *mut f32,
    columns: *mut f32,
    /// `[vectors][LANES]`.
    query_scales: *mut f32,
    query_sums: *mut f32,
}

impl Scratch {
    /// For heads of always as many keys, and as many values each; none where scores are not in 8 bits.
    pub(crate) fn new<P: Path>(keys: usize, head_dim: usize) -> std::io::Result<Self> {
        let in_8_bits = in_8_bits::<P>(keys, head_dim);
        let wanted = |size: usize| if in_8_bits { size } else { 0 };
        let (keys, row) = (padded::<P>(keys), head_dim.next_multiple_of(P::STEP));
        let queries = P::MAX_VECTORS * lanes::<P>();
        Ok(Scratch {
            keys: Buffer::zeroed(wanted(keys * row))?,
            key_scales: Buffer::zeroed(wanted(keys))?,
            mean: Buffer::zeroed(wanted(head_dim))?,
            rows: Buffer::zeroed(wanted(lanes::<P>() * head_dim))?,
            columns: Buffer::zeroed(wanted(lanes::<P>() * head_dim))?,
            query_scales: Buffer::zeroed(wanted(queries))?,
            query_sums: Buffer::zeroed(wanted(queries))?,
        })
    }

    pub(crate) fn memory(&mut self) -> ScratchMemory {
        ScratchMemory {
            keys: self.keys.as_mut_ptr(),
            key_scales: self.key_scales.as_mut_ptr(),
            mean: self.mean.as_mut_ptr(),
            rows: self.rows.as_mut_ptr(),
            columns: self.columns.as_mut_ptr(),
            query_scales: self.query_scales.as_mut_ptr(),
            query_sums: self.query_sums.as_mut_ptr(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let floats = self.mean.bytes() + self.query_scales.bytes() + self.query_sums.bytes();
        let laid = self.rows.bytes() + self.columns.bytes();
        self.keys.bytes() + self.key_scales.bytes() + laid + floats
    }
}

/// Keys that there is room for: whole vectors.
#[inline(always)]
fn padded<P: Path>(keys: usize) -> usize {
    keys.next_multiple_of(lanes::<P>())
}

/// Where the vectors of a row begin: the last one ends with the row, and may overlap the one before.
#[inline(always)]
pub(crate) fn vectors<P: Path>(head_dim: usize) -> impl Iterator<Item = usize> {
    (0..head_dim).step_by(lanes::<P>()).map(move |at| at.min(head_dim - lanes::<P>()))
}

/// Quantises a head's keys, without their mean, and packs them as a left operand that lies step by step.
///
/// # Safety
///
/// As for [`crate::attention::attend`], with [`in_8_bits`] of the head's size.
#[inline(always)]
pub(crate) unsafe fn quantize_keys<P: Kernels>(head: &Attention<P>) {
    let memory = head.scratch.eight_bits;
    let lanes = lanes::<P>();
    // SAFETY: rows and vectors are the head's; the scratch memory was made for as many, and as many keys as fill a vector.
    unsafe {
        let share = P::Simd::splat(1.0 / head.keys as f32);
        for at in vectors::<P>(head.head_dim) {
            let mut sum = P::Simd::zero();
            for key in 0..head.keys {
                sum = P::Simd::add(sum, P::Inner::load::<P::Simd>(head.k.add(key * head.kv_stride + at)));
            }
            P::Simd::store(memory.mean.add(at), P::Simd::mul(sum, share));
        }
        let padded = padded::<P>(head.keys);
        for first in (0..head.keys).step_by(lanes) {
            let filled = lanes.min(head.keys - first);
            lay_in_lanes(head, head.k.add(first * head.kv_stride), head.kv_stride, filled);
            let mut extremes = Extremes::<P::Simd>::new();
            for column in 0..head.head_dim {
                let x = memory.columns.add(column * lanes);
                let centered = P::Simd::sub(P::Simd::load(x), P::Simd::splat(*memory.mean.add(column)));
                P::Simd::store(x, centered);
                extremes.add(centered);
            }
            let (offset, inverse) = extremes.row_scales(memory.key_scales.add(first));
            for column in (0..head.head_dim).step_by(P::STEP) {
                let mut rows = [P::Simd::zero(); MAX_BYTES];
                for (i, row) in rows.iter_mut().enumerate().take(P::STEP.min(head.head_dim - column)) {
                    let x = P::Simd::load(memory.columns.add((column + i) * lanes));
                    *row = P::Simd::mul(P::Simd::sub(x, offset), inverse);
                }
                P::store_groups(memory.keys.add(column * padded + first * P::STEP), rows);
            }
        }
    }
}

/// Quantises a panel's queries and packs them as a right operand, `[steps][vectors][LANES][STEP]`. What is beyond the
/// queries and beyond `head_dim` becomes zero.
///
/// # Safety
///
/// As for [`quantize_keys`]; the panel's queries must be the head's.
#[inline(always)]
pub(crate) unsafe fn pack_queries<P: Kernels>(head: &Attention<P>, panel: &Panel) {
    let memory = head.scratch.eight_bits;
    let (lanes, width) = (lanes::<P>(), panel.vectors * lanes::<P>());
    let packed = head.scratch.packed_q.cast::<u8>();
    // SAFETY: the queries are the head's, the scratch memory has room for a vector of them and for the widest panel.
    unsafe {
        for vector in 0..panel.vectors {
            let at = vector * lanes;
            let filled = lanes.min(panel.count.saturating_sub(at));
            let first = head.q.wrapping_add((panel.first + at) * head.q_stride);
            lay_in_lanes(head, first, head.q_stride, filled);
            let inverse = scale_queries::<P>(head, at);
            let mut sum = P::Simd::zero();
            for first in (0..head.head_dim).step_by(P::STEP) {
                let mut rows = [P::Simd::zero(); MAX_BYTES];
                for (i, row) in rows.iter_mut().enumerate().take(P::STEP.min(head.head_dim - first)) {
                    let x = P::Simd::load(memory.columns.add((first + i) * lanes));
                    *row = P::Simd::round(P::Simd::mul(x, inverse));
                    sum = P::Simd::add(sum, *row);
                }
                P::store_groups(packed.add(first * width + at * P::STEP), rows);
            }
            P::Simd::store(memory.query_sums.add(at), sum);
        }
    }
}

/// Lays `filled` keys or queries beside one another, `[head_dim][LANES]`; the lanes behind them are zero.
#[inline(always)]
unsafe fn lay_in_lanes<P: Path>(
    head: &Attention<P>,
    first: *const P::Inner,
    mut stride: usize,
    filled: usize,
) {
    let (memory, lanes) = (head.scratch.eight_bits, lanes::<P>());
    let mut rows = first.cast::<f32>();
    // SAFETY: the caller vouches for the rows; the scratch memory has room for a vector of them, and `Inner` is f32 where it
    // is as long.
    unsafe {
        if size_of::<P::Inner>() < size_of::<f32>() {
            for row in 0..filled {
                let (source, target) = (first.add(row * stride), memory.rows.add(row * head.head_dim));
                for at in vectors::<P>(head.head_dim) {
                    P::Simd::store(target.add(at), P::Inner::load::<P::Simd>(source.add(at)));
                }
            }
            (rows, stride) = (memory.rows.cast_const(), head.head_dim);
        }
        for column in (0..head.head_dim).step_by(lanes) {
            let columns = lanes.min(head.head_dim - column);
            let (source, target) =
                (rows.wrapping_add(column).cast(), memory.columns.add(column * lanes).cast());
            P::Simd::transpose(source, stride * size_of::<f32>(), filled, columns, target, lanes);
        }
    }
}

/// Queries of smaller values only are zero: the reciprocal of their scale would be infinite.
const TINY: f32 = 1e-30;

/// Scales the queries that were laid in lanes so that the largest magnitude of each becomes 127, and keeps their scales from
/// `at` on. What they are to be multiplied with.
#[inline(always)]
unsafe fn scale_queries<P: Path>(head: &Attention<P>, at: usize) -> Vector<P> {
    let (memory, lanes) = (head.scratch.eight_bits, lanes::<P>());
    let (mut least, mut greatest) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
    // SAFETY: as for `pack_queries`; no vector is longer than the arrays.
    unsafe {
        let mut extremes = Extremes::<P::Simd>::new();
        for column in 0..head.head_dim {
            extremes.add(P::Simd::load(memory.columns.add(column * lanes)));
        }
        extremes.store(least.as_mut_ptr(), greatest.as_mut_ptr());
        let mut inverses = [0.0; MAX_LANES];
        for (lane, inverse) in inverses.iter_mut().enumerate().take(lanes) {
            // NaN where a value is not finite: then the scores are not numbers either.
            let largest = greatest[lane].max(-least[lane]) + least[lane] * 0.0;
            let scale = if largest < TINY { 1.0 } else { largest / 127.0 };
            *memory.query_scales.add(at + lane) = scale;
            *inverse = 1.0 / scale;
        }
        P::Simd::load(inverses.as_ptr())
    }
}

/// `k · qᵀ`, `[keys][queries]` in f32.
///
/// # Safety
///
/// As for [`pack_queries`], after it and after [`quantize_keys`].
#[inline(always)]
pub(crate) unsafe fn scores<P: Kernels>(head: &Attention<P>, vectors: usize) {
    let memory = head.scratch.eight_bits;
    // SAFETY: keys and queries were quantised, with scales for each, and there is room for as many scores.
    unsafe {
        P::multiply_steps(&Product {
            activations: memory.keys.cast(),
            row_stride: padded::<P>(head.keys),
            rows: head.keys,
            panel: head.scratch.packed_q.cast(),
            steps: head.head_dim.div_ceil(P::STEP),
            vectors,
            widened: std::ptr::null_mut(),
            row_scales: memory.key_scales,
            column_scales: memory.query_scales,
            column_sums: memory.query_sums,
            part: Part::WHOLE,
            epilogue: RawSums::Store { out: head.scratch.scores, stride: vectors * lanes::<P>() },
            prefetch: std::ptr::null(),
            prefetch_bytes: 0,
        });
    }
}
