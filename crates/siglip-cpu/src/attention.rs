//! Attention of one head of one item: `softmax(q kᵀ / sqrt(head_dim)) v`, without a mask.
//!
//! Everything is computed with queries in the lanes of vectors, so that softmax works down the lanes and never across
//! them, and what one product gives is the next one's right operand as it stands:
//!
//! ```text
//! pack v as a left operand [keys][head_dim]       once
//! for each panel of up to 64 queries
//!   pack q as a right operand [head_dim][queries]
//!   scores = k · qᵀ                               f32, [keys][queries]: 16 KiB for a text, 182 KiB for 729 patches; of
//!                                                 operands in 8 bits on quantised paths (see `scores`)
//!   weights = exp(scores - max)                   in place, in the activations' format; or in two bytes, and the values in
//!                                                 one, where that is faster (see `values`)
//!   mixed = vᵀ · weights                          f32, [head_dim][queries]
//!   out = mixedᵀ / sum                            the sum of each query's exponentials
//! ```
//!
//! A panel's scores stay in the core's cache and the whole score matrix never exists, so softmax needs no running
//! maximum: it sees all keys.

use crate::buffer::{Buffer, Plain};
use crate::epilogue::RawSums;
use crate::gemm::{Part, Product, multiply, multiply_steps, prefetch, prefetch_values};
use crate::kernels::{ActivationKernels, Kernels};
use crate::ops::{Exponentials, exponentials};
use crate::pack::panel_widths;
use crate::path::{MAX_STEP, Path, lanes};
use crate::scores;
use crate::simd::{MAX_LANES, Simd, transpose};
use crate::values;

/// One head of one item.
#[derive(Clone, Copy)]
pub(crate) struct Attention<P: Path> {
    /// The head's queries, `[queries, head_dim]`, from row to row `q_stride` values.
    pub(crate) q: *const P::Inner,
    pub(crate) q_stride: usize,
    pub(crate) queries: usize,
    /// The head's keys and values, `[keys, head_dim]` each. Keys are read up to a multiple of the path's step: what
    /// follows them must exist and be finite.
    pub(crate) k: *const P::Inner,
    pub(crate) v: *const P::Inner,
    pub(crate) kv_stride: usize,
    pub(crate) keys: usize,
    pub(crate) head_dim: usize,
    /// `log2(e) / sqrt(head_dim)`.
    pub(crate) scale_log2e: f32,
    /// Where the results go.
    pub(crate) out: Output<P::Inner>,
    /// Queries, keys and values of the head whose turn comes next, laid out alike, to be fetched meanwhile; null for
    /// none.
    pub(crate) next: [*const P::Inner; 3],
    /// This thread's scratch memory.
    pub(crate) scratch: ScratchMemory<P::Inner>,
}

/// `[queries, head_dim]` within the rows of all heads and items, in the layout of the path's results for another product;
/// nothing else is written.
#[derive(Clone, Copy)]
pub(crate) struct Output<A> {
    /// The first value of all rows.
    pub(crate) first: *mut A,
    pub(crate) stride: usize,
    /// The row of the first query, and the column of the head's first value.
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// Scratch memory of one thread.
pub(crate) struct Scratch<A> {
    packed_q: Buffer<A>,
    packed_v: Buffer<A>,
    scores: Buffer<f32>,
    mixed: Buffer<f32>,
    eight_bits: scores::Scratch,
    values: values::Scratch,
}

/// Pointers into a [`Scratch`].
#[derive(Clone, Copy)]
pub(crate) struct ScratchMemory<A> {
    pub(crate) packed_q: *mut A,
    pub(crate) packed_v: *mut A,
    pub(crate) scores: *mut f32,
    pub(crate) mixed: *mut f32,
    pub(crate) eight_bits: scores::ScratchMemory,
    pub(crate) values: values::ScratchMemory,
}

/// How much scratch memory one thread needs, in values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScratchSizes {
    pub(crate) packed_q: usize,
    pub(crate) packed_v: usize,
    pub(crate) scores: usize,
    pub(crate) mixed: usize,
}

impl<A: Plain> Scratch<A> {
    /// For heads of always as many keys, and as many values each.
    pub(crate) fn new<P: Path<Inner = A>>(keys: usize, head_dim: usize) -> std::io::Result<Self> {
        let sizes = P::Attention::attention_scratch(keys, head_dim);
        Ok(Scratch {
            packed_q: Buffer::zeroed(sizes.packed_q)?,
            packed_v: Buffer::zeroed(sizes.packed_v)?,
            scores: Buffer::zeroed(sizes.scores)?,
            mixed: Buffer::zeroed(sizes.mixed)?,
            eight_bits: scores::Scratch::new::<P>(keys, head_dim)?,
            values: values::Scratch::new::<P>(keys, head_dim)?,
        })
    }

    pub(crate) fn memory(&mut self) -> ScratchMemory<A> {
        ScratchMemory {
            packed_q: self.packed_q.as_mut_ptr(),
            packed_v: self.packed_v.as_mut_ptr(),
            scores: self.scores.as_mut_ptr(),
            mixed: self.mixed.as_mut_ptr(),
            eight_bits: self.eight_bits.memory(),
            values: self.values.memory(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let packed = self.packed_q.bytes() + self.packed_v.bytes();
        packed + self.scores.bytes() + self.mixed.bytes() + self.eight_bits.bytes() + self.values.bytes()
    }
}

/// What [`attend`] needs.
pub(crate) fn scratch_sizes<A: Path>(keys: usize, head_dim: usize) -> ScratchSizes {
    let queries = A::MAX_VECTORS * lanes::<A>();
    ScratchSizes {
        packed_q: head_dim.next_multiple_of(A::STEP) * queries,
        // Whole vectors are written; the last one may end behind the last column.
        packed_v: keys.next_multiple_of(A::STEP) * head_dim + lanes::<A>() * A::STEP,
        scores: keys.next_multiple_of(A::STEP) * queries,
        mixed: head_dim * queries,
    }
}

/// # Safety
///
/// The pointers must be valid as the fields say, the scratch memory be made for
/// `P::Attention`, the path's instructions enabled in the calling function, and those of `P::Attention` present in the
/// machine.
#[inline(always)]
pub(crate) unsafe fn attend<P: Kernels>(head: &Attention<P>) {
    let lanes = lanes::<P>();
    let mut first = 0;
    // SAFETY: see each call; queries first..first+count stay below `queries`.
    unsafe {
        let scores_in_8_bits = scores::in_8_bits::<P>(head.keys, head.head_dim);
        let values_in_8_bits = values::in_8_bits::<P>(head.keys, head.head_dim);
        if values_in_8_bits {
            values::quantize_values(head);
        } else {
            pack_values(head);
        }
        if scores_in_8_bits {
            scores::quantize_keys(head);
        }
        for vectors in panel_widths::<P::Attention>(head.queries) {
            let panel = Panel { first, count: (vectors * lanes).min(head.queries - first), vectors };
            if scores_in_8_bits {
                scores::pack_queries(head, &panel);
            } else {
                pack_queries(head, &panel);
            }
            fetch_next(head, &panel, Operand::Queries);
            fetch_output(head, &panel);
            if scores_in_8_bits {
                scores::scores(head, vectors);
            } else {
                scores(head, vectors);
            }
            fetch_next(head, &panel, Operand::Keys);
            let mut factors = [0.0; MAX_VECTORS * MAX_LANES];
            weights(head, vectors, &mut factors);
            fetch_next(head, &panel, Operand::Values);
            if values_in_8_bits {
                values::mix(head, vectors);
            } else {
                mix(head, vectors);
            }
            write(head, &panel, &factors);
            first += vectors * lanes;
        }
    }
}

/// The widest panel of any path.
pub(crate) const MAX_VECTORS: usize = 4;

/// Queries that are computed together.
pub(crate) struct Panel {
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// In vectors: `count` rounded up.
    pub(crate) vectors: usize,
}

/// Packs values as a left operand that lies step by step, `[steps][head_dim][STEP]`. Keys that fill up the last step
/// are zero.
#[inline(always)]
unsafe fn pack_values<P: Path>(head: &Attention<P>) {
    let (step, lanes) = (P::Attention::STEP, lanes::<P>());
    for first in (0..head.keys).step_by(step) {
        let rows = step.min(head.keys - first);
        for column in (0..head.head_dim).step_by(lanes) {
            // SAFETY: the rows and columns are the head's; what is written behind the last column is the next step's,
            // or spare.
            unsafe {
                P::Attention::pack_step(
                    head.v.add(first * head.kv_stride + column),
                    head.kv_stride,
                    rows,
                    lanes.min(head.head_dim - column),
                    head.scratch.packed_v.add(first * head.head_dim + column * step),
                );
            }
        }
    }
}

/// Packs a panel's queries as a right operand, `[steps][vectors][LANES][STEP]`. What is beyond the queries and beyond
/// `head_dim` becomes zero.
#[inline(always)]
unsafe fn pack_queries<P: Path>(head: &Attention<P>, panel: &Panel) {
    let (step, lanes) = (P::Attention::STEP, lanes::<P>());
    let (width, whole) = (panel.vectors * lanes, head.head_dim / step);
    // SAFETY: the queries are the head's, the scratch memory has room for a panel of the widest.
    unsafe {
        for vector in 0..panel.vectors {
            let filled = lanes.min(panel.count.saturating_sub(vector * lanes));
            let source = head.q.add((panel.first + vector * lanes) * head.q_stride);
            let packed = head.scratch.packed_q.add(vector * lanes * step);
            for first in (0..whole).step_by(lanes) {
                let to = packed.add(first * width * step);
                let groups = (filled, lanes.min(whole - first));
                transpose_steps::<P>(source.add(first * step), head.q_stride, groups, to, width);
            }
            if whole * step < head.head_dim {
                let packed = packed.add(whole * width * step);
                for query in 0..lanes {
                    for i in 0..step {
                        let column = whole * step + i;
                        let there = query < filled && column < head.head_dim;
                        *packed.add(query * step + i) = if there {
                            *source.add(query * head.q_stride + column)
                        } else {
                            P::Inner::default()
                        };
                    }
                }
            }
        }
    }
}

/// Transposes groups of `bytes` bytes: `rows` rows of `columns` groups, `row_bytes` from row to row, into `columns` rows of
/// `LANES` groups, `width` groups from row to row; rows that are not there become zeroes.
#[inline(always)]
unsafe fn transpose_groups<S: Simd>(
    bytes: usize,
    source: *const u8,
    row_bytes: usize,
    (rows, columns): (usize, usize),
    target: *mut u8,
    width: usize,
) {
    // SAFETY: the caller vouches for source and target.
    unsafe {
        match bytes {
            4 => S::transpose(source.cast(), row_bytes, rows, columns, target.cast(), width),
            8 => transpose::<u64>(source.cast(), row_bytes, (rows, S::LANES), columns, target.cast(), width),
            _ => unreachable!("no path multiplies activations in groups of {bytes} bytes"),
        }
    }
}

/// [`transpose_groups`] of `STEP` values, `stride` values from row to row.
#[inline(always)]
unsafe fn transpose_steps<P: Path>(
    source: *const P::Inner,
    stride: usize,
    counts: (usize, usize),
    target: *mut P::Inner,
    width: usize,
) {
    let size = size_of::<P::Inner>();
    let (bytes, row_bytes) = (P::Attention::STEP * size, stride * size);
    // SAFETY: the caller's.
    unsafe { transpose_groups::<P::Simd>(bytes, source.cast(), row_bytes, counts, target.cast(), width) };
}

/// `k · qᵀ`, `[keys][queries]`.
#[inline(always)]
unsafe fn scores<P: Kernels>(head: &Attention<P>, vectors: usize) {
    // SAFETY: the caller vouches for the keys; the queries were packed, and there is room for as many scores.
    unsafe {
        P::Attention::multiply(&Operands {
            left: head.k,
            order: Order::Rows,
            row_stride: head.kv_stride,
            rows: head.keys,
            panel: head.scratch.packed_q,
            steps: head.head_dim.div_ceil(P::Attention::STEP),
            vectors,
            out: head.scratch.scores,
        });
    }
}

/// Scores become weights.
#[inline(always)]
unsafe fn weights<P: Kernels>(
    head: &Attention<P>,
    vectors: usize,
    factors: &mut [f32; MAX_VECTORS * MAX_LANES],
) {
    let Attention { scratch: ScratchMemory { scores, .. }, keys, scale_log2e, .. } = *head;
    let columns = Exponentials { scores, keys, scale_log2e, factors: factors.as_mut_ptr() };
    // SAFETY: the scores are there, and there is room for factors of the widest panel.
    unsafe {
        if const { P::MAX_VECTORS >= 4 } {
            match vectors {
                4 => return weights_of::<P, 4>(head, &columns),
                3 => return weights_of::<P, 3>(head, &columns),
                _ => {}
            }
        }
        if const { P::MAX_VECTORS >= 2 } && vectors == 2 {
            return weights_of::<P, 2>(head, &columns);
        }
        weights_of::<P, 1>(head, &columns)
    }
}

#[inline(always)]
unsafe fn weights_of<P: Kernels, const NV: usize>(head: &Attention<P>, columns: &Exponentials) {
    // SAFETY: the caller's.
    unsafe {
        if values::in_8_bits::<P>(head.keys, head.head_dim) {
            values::weights::<P, NV>(head, columns);
        } else {
            exponentials::<P, NV>(columns);
        }
    }
}

/// `vᵀ · weights`, `[head_dim][queries]`.
#[inline(always)]
unsafe fn mix<P: Kernels>(head: &Attention<P>, vectors: usize) {
    // SAFETY: values and weights were packed, and there is room for the sums.
    unsafe {
        P::Attention::multiply(&Operands {
            left: head.scratch.packed_v,
            order: Order::Steps,
            row_stride: head.head_dim,
            rows: head.head_dim,
            panel: head.scratch.scores.cast(),
            steps: head.keys.div_ceil(P::Attention::STEP),
            vectors,
            out: head.scratch.mixed,
        });
    }
}

/// Two operands that both were computed: one of attention's products.
pub(crate) struct Operands<A: Path> {
    left: *const A::Activation,
    order: Order,
    row_stride: usize,
    rows: usize,
    /// `[steps][vectors][LANES][STEP]`.
    panel: *const A::Weight,
    steps: usize,
    vectors: usize,
    /// `[rows][vectors][LANES]`.
    out: *mut f32,
}

/// How the left operand lies.
#[derive(Clone, Copy)]
enum Order {
    /// Row by row.
    Rows,
    /// Step by step, see [`multiply_steps`].
    Steps,
}

impl<A: Path> Operands<A> {
    /// # Safety
    ///
    /// As for [`multiply`].
    #[inline(always)]
    pub(crate) unsafe fn multiply(&self) {
        let product = Product::<A, RawSums> {
            activations: self.left,
            row_stride: self.row_stride,
            rows: self.rows,
            panel: self.panel,
            steps: self.steps,
            vectors: self.vectors,
            widened: std::ptr::null_mut(),
            row_scales: std::ptr::null(),
            column_scales: std::ptr::null(),
            column_sums: std::ptr::null(),
            part: Part::WHOLE,
            epilogue: RawSums::Store { out: self.out, stride: self.vectors * lanes::<A>() },
            prefetch: std::ptr::null(),
            prefetch_bytes: 0,
        };
        // SAFETY: the caller's contract.
        unsafe {
            match self.order {
                Order::Rows => multiply(&product),
                Order::Steps => multiply_steps(&product),
            }
        }
    }
}

/// Writes a panel's results, times each query's factor, as rows of the output.
#[inline(always)]
unsafe fn write<P: Path>(head: &Attention<P>, panel: &Panel, factors: &[f32; MAX_VECTORS * MAX_LANES]) {
    let (step, lanes) = (P::Attention::STEP, lanes::<P>());
    let width = panel.vectors * lanes;
    let groups = head.head_dim.div_ceil(step);
    // Groups of a vector of queries, before and after they are transposed.
    let (mut columns, mut rows) = ([0_u32; MAX_LANES * MAX_LANES], [0_u32; MAX_LANES * MAX_LANES]);
    const { assert!(vector_bytes::<P>() * P::Simd::LANES <= 4 * MAX_LANES * MAX_LANES) };
    let (columns, rows) = (columns.as_mut_ptr().cast::<P::Inner>(), rows.as_mut_ptr().cast::<P::Inner>());
    for vector in 0..panel.vectors {
        let filled = lanes.min(panel.count.saturating_sub(vector * lanes));
        for first in (0..groups).step_by(lanes) {
            let count = lanes.min(groups - first);
            // SAFETY: at most LANES groups of LANES queries fit into the arrays; the rows of `mixed` and of the output
            // are the head's.
            unsafe {
                let factor = P::Simd::load(factors.as_ptr().add(vector * lanes));
                for group in 0..count {
                    let mut values = [P::Simd::zero(); MAX_STEP];
                    for (i, value) in values.iter_mut().enumerate().take(step) {
                        let row = (first + group) * step + i;
                        if row < head.head_dim {
                            let sums = P::Simd::load(head.scratch.mixed.add(row * width + vector * lanes));
                            *value = P::Simd::mul(sums, factor);
                        }
                    }
                    P::Attention::store_step(columns.add(group * lanes * step), values);
                }
                let row = head.out.row + panel.first + vector * lanes;
                let out = head.out.first.add(row * head.out.stride + head.out.column + first * step);
                // Whole groups are written only where the last of them ends inside the head.
                let whole = count == lanes && (first + lanes) * step <= head.head_dim;
                if filled == lanes && whole && head.out.stride.is_multiple_of(step) {
                    let stride = head.out.stride / step;
                    transpose_steps::<P>(columns, lanes * step, (lanes, lanes), out, stride);
                } else {
                    transpose_steps::<P>(columns, lanes * step, (count, lanes), rows, lanes);
                    let values = (count * step).min(head.head_dim - first * step);
                    for query in 0..filled {
                        let row = rows.add(query * lanes * step);
                        std::ptr::copy_nonoverlapping(row, out.add(query * head.out.stride), values);
                    }
                }
            }
        }
    }
}

/// Bytes of a group for each lane.
const fn vector_bytes<P: Path>() -> usize {
    P::Simd::LANES * P::Attention::STEP * size_of::<P::Inner>()
}

#[derive(Clone, Copy)]
enum Operand {
    Queries,
    Keys,
    Values,
}

/// Fetches a panel's share of the next head. The rows of a head are too far apart for the processor to see what will be
/// read.
#[inline(always)]
fn fetch_next<P: Path>(head: &Attention<P>, panel: &Panel, operand: Operand) {
    let first = head.next[operand as usize];
    if first.is_null() {
        return;
    }
    let (rows, stride) = match operand {
        Operand::Queries => (head.queries, head.q_stride),
        Operand::Keys | Operand::Values => (head.keys, head.kv_stride),
    };
    let share = |query: usize| rows * query / head.queries;
    for row in share(panel.first)..share(panel.first + panel.count) {
        fetch_row(first.wrapping_add(row * stride), head.head_dim);
    }
}

/// Fetches the rows that a panel's results will be written to: they are as far apart, and a processor's stores wait for
/// them in order.
#[inline(always)]
fn fetch_output<P: Path>(head: &Attention<P>, panel: &Panel) {
    for query in panel.first..panel.first + panel.count {
        let row = head.out.first.wrapping_add((head.out.row + query) * head.out.stride + head.out.column);
        fetch_row(row.cast_const(), head.head_dim);
    }
}

#[inline(always)]
fn fetch_row<T>(row: *const T, values: usize) {
    prefetch_values(row, values);
    // A row need not begin with a line.
    prefetch(row.wrapping_add(values.saturating_sub(1)).cast());
}
