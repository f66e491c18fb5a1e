//! [`crate::attention::attend`] with tiles.
//!
//! Queries are the rows here: what a tile product gives is a row of scores for each query, and weights are the left operand
//! of the second product as they stand.
//!
//! ```text
//! pack k as a right operand [head_dim][keys], v as one [keys][head_dim]    once
//! for each 16 queries
//!   q                                    copied, so that rows and columns that are not there are zero
//!   scores = q · kᵀ                      f32, [16][keys]: 4 KiB for a text, 46 KiB for 729 patches
//!   weights = exp(scores - max)          bf16, row by row, with their sum
//!   mixed = weights · v                  f32, [16][head_dim]
//!   out = mixed / sum
//! ```
//!
//! The scores of the next 16 queries are multiplied before the exponentials of these are computed: the tile unit works on
//! the ones while the vector units work on the others.

use super::{SIDE, TILE, Tiles};
use crate::attention::{Attention, ScratchSizes};
use crate::gemm::prefetch_values;
use crate::kernels::Kernels;
use crate::ops::exp2;
use crate::path::{CHUNK, Path, Vector, inner_layout, lanes};
use crate::simd::Simd;

/// bf16 values of a chunk: what one product of tiles takes of the inner dimension.
const VALUES: usize = CHUNK / size_of::<u16>();

/// The sizes of a head, in tiles.
#[derive(Clone, Copy)]
struct Sizes {
    /// 16 keys each, for scores; an even number.
    key_tiles: usize,
    /// 32 values of a head each, as the inner dimension.
    dim_steps: usize,
    /// 16 values of a head each, as columns.
    dim_tiles: usize,
}

impl Sizes {
    fn new(keys: usize, head_dim: usize) -> Self {
        Sizes {
            key_tiles: 2 * keys.div_ceil(VALUES),
            dim_steps: head_dim.div_ceil(VALUES),
            dim_tiles: head_dim.div_ceil(SIDE),
        }
    }

    /// 32 keys each, as the inner dimension.
    fn key_steps(self) -> usize {
        self.key_tiles / 2
    }

    fn packed_k(self) -> usize {
        self.key_tiles * self.dim_steps * TILE / 2
    }

    fn packed_v(self) -> usize {
        self.key_steps() * self.dim_tiles * TILE / 2
    }

    /// Scores of 16 queries.
    fn scores(self) -> usize {
        self.key_tiles * SIDE * SIDE
    }
}

/// What [`attend`] needs: room for keys and queries in `packed_q`, for values and weights in `packed_v`, and for two blocks
/// of scores.
pub(crate) fn scratch_sizes(keys: usize, head_dim: usize) -> ScratchSizes {
    let sizes = Sizes::new(keys, head_dim);
    ScratchSizes {
        packed_q: sizes.packed_k() + sizes.dim_steps * TILE / 2,
        packed_v: sizes.packed_v() + sizes.key_steps() * TILE / 2,
        scores: 2 * sizes.scores(),
        mixed: sizes.dim_tiles * SIDE * SIDE,
    }
}

/// # Safety
///
/// As for [`crate::attention::attend`], and the machine must have the tile unit; the scratch memory must never have been
/// used for other sizes: what the padding holds stays zero.
#[inline(always)]
pub(crate) unsafe fn attend<P: Kernels, T: Tiles>(head: &Attention<P>) {
    let sizes = Sizes::new(head.keys, head.head_dim);
    let blocks = head.queries.div_ceil(SIDE);
    let mut tiles = T::Bf16::default();
    let scores = |block: usize| head.scratch.scores.wrapping_add(block % 2 * sizes.scores());
    // SAFETY: blocks end with the queries; the scratch memory has room for two blocks of scores.
    unsafe {
        pack_keys(head, sizes);
        pack_values(head, sizes);
        block_scores(&mut tiles, head, sizes, 0, scores(0));
        for block in 0..blocks {
            if block + 1 < blocks {
                block_scores(&mut tiles, head, sizes, block + 1, scores(block + 1));
            }
            fetch_next(head, block, blocks);
            let rows = SIDE.min(head.queries - block * SIDE);
            let mut factors = [0.0; SIDE];
            for (row, factor) in factors.iter_mut().enumerate().take(rows) {
                *factor = row_weights(head, sizes, scores(block).add(row * sizes.key_tiles * SIDE), row);
            }
            mix(&mut tiles, head, sizes);
            for (row, factor) in factors.into_iter().enumerate().take(rows) {
                write(head, sizes, row, head.out.row + block * SIDE + row, factor);
            }
        }
    }
}

/// Keys as a right operand, `[key tiles][dim steps]` tiles of 16 pairs of values by 16 keys.
#[inline(always)]
unsafe fn pack_keys<P: Path>(head: &Attention<P>, sizes: Sizes) {
    let pairs = head.head_dim.div_ceil(2);
    let odd = !head.head_dim.is_multiple_of(2);
    for tile in 0..head.keys.div_ceil(SIDE) {
        let rows = SIDE.min(head.keys - tile * SIDE);
        for step in 0..sizes.dim_steps {
            // SAFETY: the rows are the head's keys, the columns its values; a tile holds 16 rows of 16 pairs.
            unsafe {
                let source = head.k.add(tile * SIDE * head.kv_stride + step * VALUES);
                let target =
                    head.scratch.packed_q.add((tile * sizes.dim_steps + step) * TILE / 2).cast::<u32>();
                let columns = SIDE.min(pairs - step * SIDE);
                let last = step + 1 == sizes.dim_steps;
                let whole = columns - usize::from(odd && last);
                let bytes = head.kv_stride * size_of::<u16>();
                P::Simd::transpose(source.cast(), bytes, rows, whole, target, SIDE);
                if odd && last {
                    // The last value has no partner; what stands behind it is another head's.
                    for row in 0..rows {
                        let value = source.add(row * head.kv_stride + 2 * whole).cast::<u16>().read();
                        *target.add(whole * SIDE + row) = u32::from(value);
                    }
                }
            }
        }
    }
}

/// Values as a right operand, `[key steps][dim tiles]` tiles of 16 pairs of keys by 16 values.
#[inline(always)]
unsafe fn pack_values<P: Path>(head: &Attention<P>, sizes: Sizes) {
    for first in (0..head.keys).step_by(2) {
        let (step, pair) = (first / VALUES, first % VALUES / 2);
        for tile in 0..sizes.dim_tiles {
            let columns = SIDE.min(head.head_dim - tile * SIDE);
            // SAFETY: the rows are the head's values; a tile holds 16 rows of 64 bytes.
            unsafe {
                let source = head.v.add(first * head.kv_stride + tile * SIDE);
                let target =
                    head.scratch.packed_v.add((step * sizes.dim_tiles + tile) * TILE / 2 + pair * VALUES);
                P::Attention::pack_step(source, head.kv_stride, 2.min(head.keys - first), columns, target);
            }
        }
    }
}

/// `q · kᵀ` of 16 queries, `[16][key tiles · 16]`.
#[inline(always)]
unsafe fn block_scores<P: Path, T: Tiles>(
    tiles: &mut T,
    head: &Attention<P>,
    sizes: Sizes,
    block: usize,
    scores: *mut f32,
) {
    // SAFETY: the scratch memory holds what the sizes say.
    unsafe {
        let q = head.scratch.packed_q.add(sizes.packed_k());
        copy_queries(head, block, q);
        let q = q.cast::<u8>().cast_const();
        let row_bytes = sizes.key_tiles * SIDE * size_of::<f32>();
        for pair in 0..sizes.key_steps() {
            tiles.zero::<0>();
            tiles.zero::<1>();
            let k = head.scratch.packed_q.cast::<u8>().add(2 * pair * sizes.dim_steps * TILE);
            for step in 0..sizes.dim_steps {
                tiles.load::<4>(q.add(step * TILE), CHUNK);
                tiles.load::<6>(k.add(step * TILE), CHUNK);
                tiles.dot::<0, 4, 6>();
                tiles.load::<7>(k.add((sizes.dim_steps + step) * TILE), CHUNK);
                tiles.dot::<1, 4, 7>();
            }
            let scores = scores.cast::<u8>().add(2 * pair * CHUNK);
            tiles.store::<0>(scores, row_bytes);
            tiles.store::<1>(scores.add(CHUNK), row_bytes);
        }
    }
}

/// 16 queries as a left operand, `[dim steps]` tiles; what is not there is zero.
#[inline(always)]
unsafe fn copy_queries<P: Path>(head: &Attention<P>, block: usize, target: *mut P::Inner) {
    let rows = SIDE.min(head.queries - block * SIDE);
    // SAFETY: the rows and columns are the head's; the target holds 16 rows of as many chunks as they fill.
    unsafe {
        for row in 0..SIDE {
            let target = target.add(row * VALUES);
            if row >= rows {
                for at in (0..head.head_dim).step_by(VALUES) {
                    target.add(at * SIDE).write_bytes(0, VALUES.min(head.head_dim - at));
                }
                continue;
            }
            let source = head.q.add((block * SIDE + row) * head.q_stride);
            let mut at = 0;
            while at + 8 <= head.head_dim {
                let values = source.add(at).cast::<[u16; 8]>().read_unaligned();
                target
                    .add(at / VALUES * VALUES * SIDE + at % VALUES)
                    .cast::<[u16; 8]>()
                    .write_unaligned(values);
                at += 8;
            }
            for at in at..head.head_dim {
                *target.add(at / VALUES * VALUES * SIDE + at % VALUES) = *source.add(at);
            }
        }
    }
}

/// A row of scores becomes the row `row` of weights, but for the factor that is returned: one over their sum.
#[inline(always)]
unsafe fn row_weights<P: Path>(head: &Attention<P>, sizes: Sizes, scores: *const f32, row: usize) -> f32 {
    let lanes = lanes::<P>();
    let (whole, rest) = (head.keys / lanes, head.keys % lanes);
    // Far below every score, and finite: `exp2` would make a NaN of infinity.
    let mut beyond = [0.0; SIDE];
    beyond[rest..].fill(-1e30);
    // Loops and not closures: see `gemm::step`.
    // SAFETY: a row has scores for whole tiles of keys, weights for whole steps.
    unsafe {
        let beyond = P::Simd::load(beyond.as_ptr());
        let mut largest = [P::Simd::splat(f32::NEG_INFINITY); 2];
        for vector in 0..whole {
            largest[vector % 2] =
                P::Simd::max(largest[vector % 2], P::Simd::load(scores.add(vector * lanes)));
        }
        if rest > 0 {
            let last = P::Simd::add(P::Simd::load(scores.add(whole * lanes)), beyond);
            largest[0] = P::Simd::max(largest[0], last);
        }
        let largest = P::Simd::maximum(P::Simd::max(largest[0], largest[1]));
        let scale = P::Simd::splat(head.scale_log2e);
        let offset = P::Simd::splat(-largest * head.scale_log2e);
        let weights = head.scratch.packed_v.add(sizes.packed_v() + row * VALUES);
        let mut sums = [P::Simd::zero(); 2];
        for vector in 0..whole {
            let weight = weight::<P>(P::Simd::load(scores.add(vector * lanes)), scale, offset);
            sums[vector % 2] = P::Simd::add(sums[vector % 2], weight);
            P::store(weights.add(vector / 2 * VALUES * SIDE + vector % 2 * SIDE), weight);
        }
        if rest > 0 {
            let last = P::Simd::add(P::Simd::load(scores.add(whole * lanes)), beyond);
            let weight = weight::<P>(last, scale, offset);
            sums[0] = P::Simd::add(sums[0], weight);
            P::store(weights.add(whole / 2 * VALUES * SIDE + whole % 2 * SIDE), weight);
        }
        1.0 / P::Simd::sum(P::Simd::add(sums[0], sums[1]))
    }
}

#[inline(always)]
unsafe fn weight<P: Path>(score: Vector<P>, scale: Vector<P>, offset: Vector<P>) -> Vector<P> {
    const { assert!(P::Simd::SATURATES) };
    // SAFETY: the caller's.
    unsafe { exp2::<P::Simd, P::Inner>(P::Simd::mul_add(score, scale, offset)) }
}

/// `weights · v`, `[16][dim tiles · 16]`: four tiles of columns at a time.
#[inline(always)]
unsafe fn mix<P: Path, T: Tiles>(tiles: &mut T, head: &Attention<P>, sizes: Sizes) {
    let row_bytes = sizes.dim_tiles * CHUNK;
    // SAFETY: the scratch memory holds what the sizes say.
    unsafe {
        let weights = head.scratch.packed_v.add(sizes.packed_v()).cast::<u8>();
        let mut first = 0;
        while first < sizes.dim_tiles {
            let columns = sizes.dim_tiles - first;
            tiles.zero::<0>();
            tiles.zero::<1>();
            tiles.zero::<2>();
            tiles.zero::<3>();
            tiles.zero::<5>();
            for step in 0..sizes.key_steps() {
                let v = head.scratch.packed_v.cast::<u8>().add((step * sizes.dim_tiles + first) * TILE);
                tiles.load::<4>(weights.add(step * TILE), CHUNK);
                tiles.load::<6>(v, CHUNK);
                tiles.dot::<0, 4, 6>();
                if columns > 1 {
                    tiles.load::<7>(v.add(TILE), CHUNK);
                    tiles.dot::<1, 4, 7>();
                }
                if columns > 2 {
                    tiles.load::<6>(v.add(2 * TILE), CHUNK);
                    tiles.dot::<2, 4, 6>();
                }
                if columns > 3 {
                    tiles.load::<7>(v.add(3 * TILE), CHUNK);
                    tiles.dot::<3, 4, 7>();
                }
                if columns > 4 {
                    tiles.load::<6>(v.add(4 * TILE), CHUNK);
                    tiles.dot::<5, 4, 6>();
                }
            }
            let mixed = head.scratch.mixed.cast::<u8>().add(first * CHUNK);
            tiles.store::<0>(mixed, row_bytes);
            if columns > 1 {
                tiles.store::<1>(mixed.add(CHUNK), row_bytes);
            }
            if columns > 2 {
                tiles.store::<2>(mixed.add(2 * CHUNK), row_bytes);
            }
            if columns > 3 {
                tiles.store::<3>(mixed.add(3 * CHUNK), row_bytes);
            }
            if columns > 4 {
                tiles.store::<5>(mixed.add(4 * CHUNK), row_bytes);
            }
            first += 5;
        }
    }
}

/// One query's results, times their factor.
#[inline(always)]
unsafe fn write<P: Path>(head: &Attention<P>, sizes: Sizes, row: usize, out_row: usize, factor: f32) {
    let layout = inner_layout::<P>();
    // SAFETY: `mixed` holds the row, the output the query's.
    unsafe {
        let mixed = head.scratch.mixed.add(row * sizes.dim_tiles * SIDE);
        let out = head.out.first.add(layout.row::<P::Inner>(out_row, head.out.stride));
        let factor = P::Simd::splat(factor);
        for tile in 0..sizes.dim_tiles {
            let mut values = [P::Inner::default(); SIDE];
            P::store(values.as_mut_ptr(), P::Simd::mul(P::Simd::load(mixed.add(tile * SIDE)), factor));
            let count = SIDE.min(head.head_dim - tile * SIDE);
            let column = head.out.column + tile * SIDE;
            if column.is_multiple_of(8) && count.is_multiple_of(8) {
                // Eights never lie across the end of a chunk.
                for at in (0..count).step_by(8) {
                    let eight = values.as_ptr().add(at).cast::<[u16; 8]>().read_unaligned();
                    let out = out.add(layout.column::<P::Inner>(column + at));
                    out.cast::<[u16; 8]>().write_unaligned(eight);
                }
            } else {
                for (at, value) in values.into_iter().enumerate().take(count) {
                    *out.add(layout.column::<P::Inner>(column + at)) = value;
                }
            }
        }
    }
}

/// Fetches a block's share of the next head.
#[inline(always)]
fn fetch_next<P: Path>(head: &Attention<P>, block: usize, blocks: usize) {
    let operands = [(head.queries, head.q_stride), (head.keys, head.kv_stride), (head.keys, head.kv_stride)];
    for (first, (rows, stride)) in head.next.into_iter().zip(operands) {
        if first.is_null() {
            continue;
        }
        for row in rows * block / blocks..rows * (block + 1) / blocks {
            // A row need not begin with a line.
            prefetch_values(first.wrapping_add(row * stride), head.head_dim + VALUES - 1);
        }
    }
}
