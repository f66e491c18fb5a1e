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
//! Between the rows of exponentials of 16 queries, parts of the scores of the next 16 are multiplied: the tile unit works on
//! the ones while the vector units work on the others.

use super::{SIDE, TILE, Tiles};
use crate::attention::{Attention, ScratchSizes};
use crate::gemm::prefetch_values;
use crate::kernels::Kernels;
use crate::ops::weight_of_score;
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

    /// Results of 16 queries.
    fn mixed(self) -> usize {
        self.dim_tiles * SIDE * SIDE
    }

    /// Scores of 16 queries.
    fn scores(self) -> usize {
        self.key_tiles * SIDE * SIDE
    }
}

/// What [`attend`] needs: room for keys and queries in `packed_q`, for values and weights in `packed_v`, and for two blocks
/// of scores and of results.
pub(crate) fn scratch_sizes(keys: usize, head_dim: usize) -> ScratchSizes {
    let sizes = Sizes::new(keys, head_dim);
    ScratchSizes {
        packed_q: sizes.packed_k() + sizes.dim_steps * TILE / 2,
        packed_v: sizes.packed_v() + sizes.key_steps() * TILE / 2,
        scores: 2 * sizes.scores(),
        mixed: 2 * sizes.mixed(),
    }
}

/// # Safety
///
/// As for [`crate::attention::attend`], and the machine must have the tile unit; the scratch memory must never have been
/// used for other sizes: what the padding holds stays zero.
#[inline(always)]
pub(crate) unsafe fn attend<P: Kernels, T: Tiles>(head: &Attention<P>) {
    let sizes = Sizes::new(head.keys, head.head_dim);
    // SAFETY: the caller's.
    unsafe {
        pack_keys(head, sizes);
        pack_values(head, sizes);
        if 2 * (sizes.packed_k() + sizes.packed_v()) <= L1_BYTES {
            all_queries::<P, T, false>(head, sizes);
        } else {
            all_queries::<P, T, true>(head, sizes);
        }
    }
}

/// Keys and values of less stay in L1; more is read from L2 for every 16 queries anew.
const L1_BYTES: usize = 32 << 10;

#[inline(always)]
unsafe fn all_queries<P: Kernels, T: Tiles, const STREAM: bool>(head: &Attention<P>, sizes: Sizes) {
    let blocks = head.queries.div_ceil(SIDE);
    let mut tiles = T::Bf16::default();
    let scores = |block: usize| head.scratch.scores.wrapping_add(block % 2 * sizes.scores());
    let mixed = |block: usize| head.scratch.mixed.wrapping_add(block % 2 * sizes.mixed());
    let groups = sizes.key_tiles.div_ceil(4);
    // For keys that are not there: far below every score. Once for all rows: a vector that is loaded right after its parts
    // were stored waits until all stores are through.
    let mut beyond = [0.0; SIDE];
    beyond[head.keys % SIDE..].fill(-1e30);
    // SAFETY: blocks end with the queries; the scratch memory has room for two blocks of scores.
    unsafe {
        copy_queries(head, sizes, 0);
        for group in 0..groups {
            group_scores::<P, _, STREAM>(&mut tiles, head, sizes, group, scores(0));
        }
        let mut factors = [[0.0; SIDE]; 2];
        for block in 0..blocks {
            let another = block + 1 < blocks;
            if another {
                copy_queries(head, sizes, block + 1);
            }
            fetch_next(head, block, blocks);
            let rows = head.queries - block * SIDE;
            for (row, factor) in factors[block % 2].iter_mut().enumerate() {
                if another {
                    for group in (groups * row).div_ceil(SIDE)..(groups * (row + 1)).div_ceil(SIDE) {
                        group_scores::<P, _, STREAM>(&mut tiles, head, sizes, group, scores(block + 1));
                    }
                }
                if row < rows {
                    let scores = scores(block).add(row * sizes.key_tiles * SIDE);
                    *factor = row_weights(head, sizes, scores, &beyond, row);
                }
            }
            mix::<P, _, STREAM>(&mut tiles, head, sizes, mixed(block));
            // Those before: these are not out of their tiles yet.
            if block > 0 {
                write(head, sizes, block - 1, mixed(block - 1), &factors[(block - 1) % 2]);
            }
        }
        if blocks > 0 {
            write(head, sizes, blocks - 1, mixed(blocks - 1), &factors[(blocks - 1) % 2]);
        }
    }
}

#[inline(always)]
unsafe fn load<T: Tiles, const TILE: usize, const STREAM: bool>(tiles: &mut T, p: *const u8) {
    // SAFETY: the caller vouches for a tile.
    unsafe { if STREAM { tiles.load_once::<TILE>(p, CHUNK) } else { tiles.load::<TILE>(p, CHUNK) } }
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

/// `q · kᵀ` of the 16 queries that were copied and four tiles of keys, or the last two, into `[16][key tiles · 16]`.
#[inline(always)]
unsafe fn group_scores<P: Path, T: Tiles, const STREAM: bool>(
    tiles: &mut T,
    head: &Attention<P>,
    sizes: Sizes,
    group: usize,
    scores: *mut f32,
) {
    let row_bytes = sizes.key_tiles * SIDE * size_of::<f32>();
    // SAFETY: the scratch memory holds what the sizes say.
    unsafe {
        let q = head.scratch.packed_q.add(sizes.packed_k()).cast::<u8>().cast_const();
        let k = head.scratch.packed_q.cast::<u8>().add(4 * group * sizes.dim_steps * TILE);
        let stride = sizes.dim_steps * TILE;
        let four = 4 * group + 2 < sizes.key_tiles;
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        for step in 0..sizes.dim_steps {
            let k = k.add(step * TILE);
            tiles.load::<4>(q.add(step * TILE), CHUNK);
            load::<T, 6, STREAM>(tiles, k);
            tiles.dot::<0, 4, 6>();
            load::<T, 7, STREAM>(tiles, k.add(stride));
            tiles.dot::<1, 4, 7>();
            if four {
                load::<T, 6, STREAM>(tiles, k.add(2 * stride));
                tiles.dot::<2, 4, 6>();
                load::<T, 7, STREAM>(tiles, k.add(3 * stride));
                tiles.dot::<3, 4, 7>();
            }
        }
        let scores = scores.cast::<u8>().add(4 * group * CHUNK);
        tiles.store::<0>(scores, row_bytes);
        tiles.store::<1>(scores.add(CHUNK), row_bytes);
        if four {
            tiles.store::<2>(scores.add(2 * CHUNK), row_bytes);
            tiles.store::<3>(scores.add(3 * CHUNK), row_bytes);
        }
    }
}

/// 16 queries as a left operand, `[dim steps]` tiles; what is not there is zero.
#[inline(always)]
unsafe fn copy_queries<P: Path>(head: &Attention<P>, sizes: Sizes, block: usize) {
    let rows = SIDE.min(head.queries - block * SIDE);
    // SAFETY: the rows and columns are the head's; the target holds 16 rows of as many chunks as they fill.
    unsafe {
        let packed = head.scratch.packed_q.add(sizes.packed_k());
        for row in 0..SIDE {
            let target = packed.add(row * VALUES);
            if row >= rows {
                for at in (0..head.head_dim).step_by(VALUES) {
                    target.add(at * SIDE).write_bytes(0, VALUES.min(head.head_dim - at));
                }
                continue;
            }
            let source = head.q.add((block * SIDE + row) * head.q_stride);
            for at in (0..head.head_dim).step_by(VALUES) {
                let (from, to) = (source.add(at), target.add(at * SIDE));
                match head.head_dim - at {
                    // Of a known length: most of a row, without a call.
                    VALUES.. => from.copy_to_nonoverlapping(to, VALUES),
                    rest => from.copy_to_nonoverlapping(to, rest),
                }
            }
        }
    }
}

/// A row of scores becomes the row `row` of weights, but for the factor that is returned: one over their sum. `beyond` is
/// added to the last keys' scores.
#[inline(always)]
unsafe fn row_weights<P: Path>(
    head: &Attention<P>,
    sizes: Sizes,
    scores: *const f32,
    beyond: &[f32; SIDE],
    row: usize,
) -> f32 {
    const CHAINS: usize = 4;
    let lanes = lanes::<P>();
    let (whole, rest) = (head.keys / lanes, head.keys % lanes);
    // Loops and not closures: see `gemm::step`.
    // SAFETY: a row has scores for whole tiles of keys, weights for whole steps.
    unsafe {
        let beyond = P::Simd::load(beyond.as_ptr());
        // Several at a time, which need not wait for one another.
        let mut largest = [P::Simd::splat(f32::NEG_INFINITY); CHAINS];
        let mut first = 0;
        while first < whole {
            for (i, largest) in largest.iter_mut().enumerate().take(whole - first) {
                *largest = P::Simd::max(*largest, P::Simd::load(scores.add((first + i) * lanes)));
            }
            first += CHAINS;
        }
        if rest > 0 {
            let last = P::Simd::add(P::Simd::load(scores.add(whole * lanes)), beyond);
            largest[0] = P::Simd::max(largest[0], last);
        }
        for i in 1..CHAINS {
            largest[0] = P::Simd::max(largest[0], largest[i]);
        }
        let largest = P::Simd::maximum(largest[0]);
        let scale = P::Simd::splat(head.scale_log2e);
        let offset = P::Simd::splat(-largest * head.scale_log2e);
        let weights = head.scratch.packed_v.add(sizes.packed_v() + row * VALUES);
        let mut sums = [P::Simd::zero(); CHAINS];
        let mut first = 0;
        while first < whole {
            for (i, sum) in sums.iter_mut().enumerate().take(whole - first) {
                let vector = first + i;
                let weight = weight_of_score::<P>(P::Simd::load(scores.add(vector * lanes)), scale, offset);
                *sum = P::Simd::add(*sum, weight);
                P::store(weights.add(vector / 2 * VALUES * SIDE + vector % 2 * SIDE), weight);
            }
            first += CHAINS;
        }
        if rest > 0 {
            let last = P::Simd::add(P::Simd::load(scores.add(whole * lanes)), beyond);
            let weight = weight_of_score::<P>(last, scale, offset);
            sums[0] = P::Simd::add(sums[0], weight);
            P::store(weights.add(whole / 2 * VALUES * SIDE + whole % 2 * SIDE), weight);
        }
        for i in 1..CHAINS {
            sums[0] = P::Simd::add(sums[0], sums[i]);
        }
        1.0 / P::Simd::sum(sums[0])
    }
}

/// `weights · v`, `[16][dim tiles · 16]`: four tiles of columns at a time.
#[inline(always)]
unsafe fn mix<P: Path, T: Tiles, const STREAM: bool>(
    tiles: &mut T,
    head: &Attention<P>,
    sizes: Sizes,
    mixed: *mut f32,
) {
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
                load::<T, 6, STREAM>(tiles, v);
                tiles.dot::<0, 4, 6>();
                if columns > 1 {
                    load::<T, 7, STREAM>(tiles, v.add(TILE));
                    tiles.dot::<1, 4, 7>();
                }
                if columns > 2 {
                    load::<T, 6, STREAM>(tiles, v.add(2 * TILE));
                    tiles.dot::<2, 4, 6>();
                }
                if columns > 3 {
                    load::<T, 7, STREAM>(tiles, v.add(3 * TILE));
                    tiles.dot::<3, 4, 7>();
                }
                if columns > 4 {
                    load::<T, 6, STREAM>(tiles, v.add(4 * TILE));
                    tiles.dot::<5, 4, 6>();
                }
            }
            let mixed = mixed.cast::<u8>().add(first * CHUNK);
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

/// The results of a block's queries, times their factors.
#[inline(always)]
unsafe fn write<P: Path>(
    head: &Attention<P>,
    sizes: Sizes,
    block: usize,
    mixed: *const f32,
    factors: &[f32; SIDE],
) {
    let layout = inner_layout::<P>();
    for (row, &factor) in factors.iter().enumerate().take(head.queries - block * SIDE) {
        // SAFETY: `mixed` holds the row, the output the query's.
        unsafe {
            let mixed = mixed.add(row * sizes.dim_tiles * SIDE);
            let out_row = head.out.row + block * SIDE + row;
            let out = head.out.first.add(layout.row::<P::Inner>(out_row, head.out.stride));
            let factor = P::Simd::splat(factor);
            for tile in 0..sizes.dim_tiles {
                let result = P::Simd::mul(P::Simd::load(mixed.add(tile * SIDE)), factor);
                let count = SIDE.min(head.head_dim - tile * SIDE);
                write_values::<P>(out, head.out.column + tile * SIDE, result, count);
            }
        }
    }
}

/// `count` values of a row's results, from a column on.
#[inline(always)]
unsafe fn write_values<P: Path>(out: *mut P::Inner, column: usize, result: Vector<P>, count: usize) {
    let layout = inner_layout::<P>();
    // SAFETY: the caller vouches for the columns of this row.
    unsafe {
        if count == SIDE && column % VALUES <= VALUES - SIDE {
            // Within a chunk.
            return P::store(out.add(layout.column::<P::Inner>(column)), result);
        }
        let mut values = [P::Inner::default(); SIDE];
        P::store(values.as_mut_ptr(), result);
        if column.is_multiple_of(8) && count.is_multiple_of(8) {
            // Eights never lie across the end of a chunk.
            for at in (0..count).step_by(8) {
                let eight = values.as_ptr().add(at).cast::<[u16; 8]>().read_unaligned();
                out.add(layout.column::<P::Inner>(column + at)).cast::<[u16; 8]>().write_unaligned(eight);
            }
        } else {
            for (at, value) in values.into_iter().enumerate().take(count) {
                *out.add(layout.column::<P::Inner>(column + at)) = value;
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
