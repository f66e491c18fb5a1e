//! Attention of one head of one item: `softmax(q kᵀ / sqrt(head_dim)) v`, without a mask.
//!
//! ```text
//! pack k as the right operand [head_dim][keys] and v as [keys][head_dim]        once; they stay in L2
//! for each strip of up to 24 queries
//!   scores = strip · kᵀ            f32, [24][keys]: 6 KiB for a text, 70 KiB for 729 patches
//!   weights = softmax(scores)      in the activations' format
//!   out = weights · v
//! ```
//!
//! A strip of scores never leaves the core's cache and the whole score matrix never exists, so softmax needs no
//! running maximum: it sees its whole row.

use crate::gemm::{Epilogue, Product, multiply};
use crate::ops::{Softmax, softmax};
use crate::pack::panel_widths;
use crate::path::{Path, lanes};
use crate::simd::{Simd, transpose};

/// One head of one item.
#[derive(Clone, Copy)]
pub(crate) struct Attention<P: Path> {
    /// The head's queries, `[queries, head_dim]`, from row to row `q_stride` values. The `head_dim` values are followed
    /// by zeroes up to a multiple of the path's step.
    pub(crate) q: *const P::Inner,
    pub(crate) q_stride: usize,
    pub(crate) queries: usize,
    /// The head's keys and values, `[keys, head_dim]` each.
    pub(crate) k: *const P::Inner,
    pub(crate) v: *const P::Inner,
    pub(crate) kv_stride: usize,
    pub(crate) keys: usize,
    pub(crate) head_dim: usize,
    /// `log2(e) / sqrt(head_dim)`.
    pub(crate) scale_log2e: f32,
    /// `[queries, head_dim]`; nothing beyond `head_dim` is written.
    pub(crate) out: *mut P::Inner,
    pub(crate) out_stride: usize,
    /// This thread's scratch memory, laid out by [`Scratch`], zeroed at first.
    pub(crate) packed_k: *mut P::Inner,
    pub(crate) packed_v: *mut P::Inner,
    pub(crate) scores: *mut f32,
    pub(crate) weights: *mut P::Inner,
}

/// Queries whose scores are held at once: a multiple of the 6 and 8 rows that the matrix kernels take at a time.
const STRIP: usize = 24;

/// How much scratch memory one thread needs, in values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scratch {
    pub(crate) packed_k: usize,
    pub(crate) packed_v: usize,
    pub(crate) scores: usize,
    pub(crate) weights: usize,
}

impl Scratch {
    pub(crate) fn new<A: Path>(keys: usize, head_dim: usize) -> Self {
        let wide_keys = keys.next_multiple_of(lanes::<A>().max(A::STEP));
        Scratch {
            packed_k: head_dim.next_multiple_of(A::STEP) * wide_keys,
            packed_v: wide_keys * head_dim.next_multiple_of(lanes::<A>()),
            scores: STRIP * wide_keys,
            weights: STRIP * wide_keys,
        }
    }
}

/// # Safety
///
/// The pointers must be valid as the fields say, the scratch memory as large as [`Scratch::new`] says for
/// `P::Attention`, and the path's instructions enabled in the calling function.
#[inline(always)]
pub(crate) unsafe fn attend<P: Path>(head: &Attention<P>) {
    let step = P::Attention::STEP;
    let lanes = lanes::<P>();
    let wide_keys = head.keys.next_multiple_of(lanes.max(step));
    // SAFETY: see each call; rows first..first+rows stay below `queries`.
    unsafe {
        pack_columns::<P::Attention>(head.k, head.kv_stride, head.keys, head.head_dim, head.packed_k);
        pack_rows::<P::Attention>(head.v, head.kv_stride, head.keys, head.head_dim, head.packed_v);
        let mut first = 0;
        while first < head.queries {
            let rows = STRIP.min(head.queries - first);
            let mut panel = head.packed_k.cast_const();
            let mut column = 0;
            for vectors in panel_widths::<P::Attention>(head.keys) {
                let steps = head.head_dim.div_ceil(step);
                multiply::<P::Attention>(&Product {
                    activations: head.q.add(first * head.q_stride),
                    row_stride: head.q_stride,
                    rows,
                    panel,
                    steps,
                    vectors,
                    row_scales: std::ptr::null(),
                    row_scale_stride: 0,
                    column_scales: std::ptr::null(),
                    column_sums: std::ptr::null(),
                    epilogue: Epilogue::StoreF32 {
                        bias: std::ptr::null(),
                        out: head.scores.add(column),
                        stride: wide_keys,
                    },
                    prefetch: std::ptr::null(),
                    prefetch_bytes: 0,
                });
                panel = panel.add(steps * vectors * lanes * step);
                column += vectors * lanes;
            }
            for row in 0..rows {
                softmax::<P::Attention>(&Softmax {
                    scores: head.scores.add(row * wide_keys),
                    keys: head.keys,
                    scale_log2e: head.scale_log2e,
                    out: head.weights.add(row * wide_keys),
                });
            }
            let mut panel = head.packed_v.cast_const();
            let mut column = 0;
            for vectors in panel_widths::<P::Attention>(head.head_dim) {
                let steps = head.keys.div_ceil(step);
                multiply::<P::Attention>(&Product {
                    activations: head.weights,
                    row_stride: wide_keys,
                    rows,
                    panel,
                    steps,
                    vectors,
                    row_scales: std::ptr::null(),
                    row_scale_stride: 0,
                    column_scales: std::ptr::null(),
                    column_sums: std::ptr::null(),
                    epilogue: Epilogue::StoreFirst {
                        out: head.out.add(first * head.out_stride + column),
                        stride: head.out_stride,
                        columns: head.head_dim - column,
                    },
                    prefetch: std::ptr::null(),
                    prefetch_bytes: 0,
                });
                panel = panel.add(steps * vectors * lanes * step);
                column += vectors * lanes;
            }
            first += rows;
        }
    }
}

/// Packs `[rows, depth]` as a right operand whose columns are the rows: keys, for `q kᵀ`. Columns beyond `rows` and
/// depth beyond `depth` become zero.
///
/// A step's values of one row are one group of 32 bits (one f32, two bf16) or, where an instruction takes four bf16, of 64
/// bits, so this is a transposition of such groups, block by block.
#[inline(always)]
unsafe fn pack_columns<A: Path>(
    source: *const A::Activation,
    stride: usize,
    rows: usize,
    depth: usize,
    mut packed: *mut A::Activation,
) {
    let group_bits = const {
        let bits = A::STEP * size_of::<A::Activation>() * 8;
        assert!(bits == 32 || bits == 64);
        bits
    };
    let lanes = lanes::<A>();
    let (steps, whole) = (depth.div_ceil(A::STEP), depth / A::STEP);
    let mut row = 0;
    // SAFETY: the caller vouches for the source's rows and for room for all panels.
    unsafe {
        for vectors in panel_widths::<A>(rows) {
            let width = vectors * lanes;
            for vector in 0..vectors {
                let first = row + vector * lanes;
                let filled = lanes.min(rows.saturating_sub(first));
                let source = source.add(first.min(rows) * stride);
                let packed = packed.add(vector * lanes * A::STEP);
                let mut step = 0;
                while step < whole {
                    let count = lanes.min(whole - step);
                    let (from, row_bytes) = (source.add(step * A::STEP), stride * size_of::<A::Activation>());
                    let to = packed.add(step * width * A::STEP);
                    if group_bits == 32 {
                        A::Simd::transpose(from.cast(), row_bytes, filled, count, to.cast(), width);
                    } else {
                        let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
                        transpose(from, row_bytes, (filled, lanes), count, to, width);
                    }
                    step += count;
                }
                if whole < steps {
                    let packed = packed.add(whole * width * A::STEP);
                    for column in 0..lanes {
                        for i in 0..A::STEP {
                            let k = whole * A::STEP + i;
                            let there = column < filled && k < depth;
                            let value = if there {
                                *source.add(column * stride + k)
                            } else {
                                A::Activation::default()
                            };
                            *packed.add(column * A::STEP + i) = value;
                        }
                    }
                }
            }
            packed = packed.add(steps * width * A::STEP);
            row += width;
        }
    }
}

/// Packs `[depth, columns]` as a right operand as it stands: values, for `weights · v`.
#[inline(always)]
unsafe fn pack_rows<A: Path>(
    source: *const A::Activation,
    stride: usize,
    depth: usize,
    columns: usize,
    mut packed: *mut A::Activation,
) {
    let lanes = lanes::<A>();
    let steps = depth.div_ceil(A::STEP);
    let mut first = 0;
    // SAFETY: as for `pack_columns`.
    unsafe {
        for vectors in panel_widths::<A>(columns) {
            for step in 0..steps {
                let rows = A::STEP.min(depth - step * A::STEP);
                for vector in 0..vectors {
                    let column = first + vector * lanes;
                    A::pack_step(
                        source.add(step * A::STEP * stride + column),
                        stride,
                        rows,
                        lanes.min(columns.saturating_sub(column)),
                        packed,
                    );
                    packed = packed.add(lanes * A::STEP);
                }
            }
            first += vectors * lanes;
        }
    }
}
