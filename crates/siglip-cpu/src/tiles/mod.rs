//! Matrix products with a tile unit (Intel's AMX): 16 rows by 16 columns of sums at once.
//!
//! The formats are those of the paths for `vdpbf16ps` and `vpdpbusd`, and so is the packing, two vectors wide: a panel's 16
//! neighbouring steps of one vector are a tile of weights as the instructions want it (Intel's "VNNI layout"), 16 rows of 64
//! bytes. Activations lie in [blocks](crate::path::Layout::Blocks), of which a tile is half a chunk of each row.
//!
//! ```text
//! for each part of the inner dimension          so long that its part of the panel stays in L1
//!   for each block of up to 32 rows
//!     sums = 0, or what the part before left    tiles 0 to 3: 32 rows by 32 columns
//!     for 16 steps at a time
//!       a = 16 + 16 rows of activations         tiles 4 and 5, a stream from L2 past L1
//!       b = 16 steps of the panel               tiles 6 and 7
//!       sums += a · b
//!       some rows of the block before           bias, GELU, residual, conversion: the vector units, which are idle
//!         go through the epilogue               otherwise, work beside the tile unit
//! ```
//!
//! Sums go to the epilogue through memory: tiles and vectors share no registers. A row's products are added in the order of
//! the inner dimension, whatever stands beside the row and wherever a part ends.

mod amx;
mod attention;
#[cfg(test)]
mod emulated;

pub(crate) use amx::{Amx, is_available};
pub(crate) use attention::{attend, scratch_sizes};
#[cfg(test)]
pub(crate) use emulated::Emulated;

use std::marker::PhantomData;

use crate::dot::{Bf16Dot, Floats, IntegerDot};
use crate::epilogue::{Ending, Epilogue, OutputRows};
use crate::gemm::{self, Product};
use crate::path::{BLOCK, CHUNK, Layout, MAX_STEP, Path, lanes};
use crate::simd::Simd;

/// Eight tiles of 16 rows of 64 bytes.
///
/// # Safety of the methods
///
/// The machine must have the instructions, tiles must be [configured](Tiles::configure) on the thread before they are used,
/// and pointers must be valid for 16 rows of 64 bytes, `stride` bytes from row to row.
pub(crate) trait Tiles: Copy + Default + 'static {
    /// What attention multiplies with, in bf16.
    type Bf16: Tiles;

    /// Makes all tiles whole on this thread. This and letting go of them takes as long as dozens of products.
    unsafe fn configure();
    /// Lets go of the tiles.
    unsafe fn release();
    unsafe fn zero<const TILE: usize>(&mut self);
    unsafe fn load<const TILE: usize>(&mut self, p: *const u8, stride: usize);
    /// Loads what will not be loaded again soon, past L1 where that can be told to the processor.
    #[inline(always)]
    unsafe fn load_once<const TILE: usize>(&mut self, p: *const u8, stride: usize) {
        // SAFETY: the caller's.
        unsafe { self.load::<TILE>(p, stride) }
    }
    unsafe fn store<const TILE: usize>(&mut self, p: *mut u8, stride: usize);
    /// `sums += a · b`, where rows of `a` and columns of `b` hold groups of 32 bits.
    unsafe fn dot<const SUMS: usize, const A: usize, const B: usize>(&mut self);
}

/// Rows of a tile, and 32-bit values of its rows.
const SIDE: usize = 16;
/// Bytes of a tile.
const TILE: usize = SIDE * CHUNK;

/// [`gemm::multiply`] with tiles.
///
/// # Safety
///
/// As there, and the machine must have the tile unit; rows lie in blocks, all rows of the last block exist, and steps are a
/// multiple of 16.
#[inline(always)]
pub(crate) unsafe fn multiply<P: Path, T: Tiles>(product: &Product<P>) {
    // SAFETY: the caller's.
    unsafe {
        match product.vectors {
            2 => all_rows::<P, T, 2>(product),
            _ => all_rows::<P, T, 1>(product),
        }
    }
}

#[inline(always)]
unsafe fn all_rows<P: Path, T: Tiles, const NV: usize>(product: &Product<P>) {
    let mut tiles = T::default();
    let blocks = product.rows.div_ceil(BLOCK);
    let tile_steps = (product.steps / SIDE * blocks).max(1);
    let lines = product.prefetch_bytes.div_ceil(CHUNK).div_ceil(tile_steps);
    let output_rows = if product.part.last { BLOCK.div_ceil((product.steps / SIDE).max(1)) } else { 0 };
    let output = product.epilogue.rows(0, NV * SIDE);
    let mut ahead = Ahead { next: product.prefetch, lines, output, output_rows };
    let mut waiting = Waiting { sums: Sums([[[0; SIDE]; NV]; BLOCK]), next: 0, end: 0 };
    // SAFETY: blocks end with the product's rows.
    unsafe {
        for block in 0..blocks {
            if product.rows - block * BLOCK > SIDE {
                self::block::<P, T, 2, NV>(&mut tiles, product, block, &mut waiting, &mut ahead);
            } else {
                self::block::<P, T, 1, NV>(&mut tiles, product, block, &mut waiting, &mut ahead);
            }
        }
        waiting.finish(product, BLOCK);
    }
}

/// What is fetched ahead, and how much of it in each step of tiles: all at once, it would take the fill buffers from the
/// tiles that come from L2.
struct Ahead {
    next: *const u8,
    lines: usize,
    /// The block's output.
    output: OutputRows,
    output_rows: usize,
}

/// The sums of a block that wait for their epilogue.
struct Waiting<const NV: usize> {
    sums: Sums<NV>,
    /// The product's rows that are left.
    next: usize,
    end: usize,
}

#[repr(align(64))]
struct Sums<const NV: usize>([[[u32; SIDE]; NV]; BLOCK]);

impl<const NV: usize> Waiting<NV> {
    /// The epilogue of at most `rows` more rows.
    #[inline(always)]
    unsafe fn finish<P: Path>(&mut self, product: &Product<P>, rows: usize) {
        let end = self.end.min(self.next + rows);
        // SAFETY: these rows of the product were computed.
        unsafe {
            // Rows share what is loaded for their columns.
            while self.next + 4 <= end {
                let mut sums = [self.row::<P>(self.next); 4];
                for (i, sums) in sums.iter_mut().enumerate().skip(1) {
                    *sums = self.row::<P>(self.next + i);
                }
                Epilogue::finish::<4, NV>(product, self.next, 0, sums);
                self.next += 4;
            }
            while self.next < end {
                Epilogue::finish::<1, NV>(product, self.next, 0, [self.row::<P>(self.next)]);
                self.next += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn row<P: Path>(&self, row: usize) -> [P::Sum; NV] {
        const { assert!(P::ROWS == 1 && lanes::<P>() == SIDE && size_of::<P::Sum>() == CHUNK) };
        // SAFETY: a vector is 16 sums, whatever their type.
        unsafe {
            let mut vectors = [P::zero_sum(); NV];
            let sums = self.sums.0.as_ptr().cast::<P::Sum>().add(row % BLOCK * NV);
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = sums.add(v).read();
            }
            vectors
        }
    }
}

/// A block of `16 · MT` rows and the panel's `NV` vectors.
#[inline(always)]
unsafe fn block<P: Path, T: Tiles, const MT: usize, const NV: usize>(
    tiles: &mut T,
    product: &Product<P>,
    block: usize,
    waiting: &mut Waiting<NV>,
    ahead: &mut Ahead,
) {
    const { assert!(P::STEP * size_of::<P::Activation>() == 4 && P::STEP * size_of::<P::Weight>() == 4) };
    let row = block * BLOCK;
    let rows = BLOCK.min(product.rows - row);
    let steps = product.steps / SIDE;
    let mut a = product.activations.wrapping_add(row * product.row_stride).cast::<u8>();
    let mut b = product.panel.cast::<u8>();
    let carried = product.part.carried.wrapping_byte_add(block * BLOCK * NV * CHUNK).cast::<u8>();
    let turns = steps.div_ceil(STEPS_AT_ONCE).saturating_sub(1).max(1);
    let share = (waiting.end - waiting.next).div_ceil(turns).next_multiple_of(4);
    // SAFETY: a block of activations holds two tiles for each 16 steps, a panel NV; carried sums hold a block like
    // `waiting`. The rest is the caller's contract.
    unsafe {
        ahead.output = product.epilogue.rows(row, NV * SIDE);
        if product.part.first {
            tiles.zero::<0>();
            if NV > 1 {
                tiles.zero::<1>();
            }
            if MT > 1 {
                tiles.zero::<2>();
                if NV > 1 {
                    tiles.zero::<3>();
                }
            }
        } else {
            tiles.load_once::<0>(carried, CHUNK);
            if NV > 1 {
                tiles.load_once::<1>(carried.add(TILE), CHUNK);
            }
            if MT > 1 {
                tiles.load_once::<2>(carried.add(NV * TILE), CHUNK);
                if NV > 1 {
                    tiles.load_once::<3>(carried.add(3 * TILE), CHUNK);
                }
            }
        }
        let mut left = steps;
        while left > STEPS_AT_ONCE {
            products::<T, MT, NV, STEPS_AT_ONCE>(tiles, a, b, ahead);
            waiting.finish(product, share);
            a = a.wrapping_add(STEPS_AT_ONCE * BLOCK * CHUNK);
            b = b.wrapping_add(STEPS_AT_ONCE * NV * TILE);
            left -= STEPS_AT_ONCE;
        }
        while left > 0 {
            products::<T, MT, NV, 1>(tiles, a, b, ahead);
            a = a.wrapping_add(BLOCK * CHUNK);
            b = b.wrapping_add(NV * TILE);
            left -= 1;
        }
        waiting.finish(product, BLOCK);
        if product.part.last {
            // Rows of all vectors, for the epilogue.
            let (sums, stride) = (waiting.sums.0.as_mut_ptr().cast(), NV * CHUNK);
            store_sums::<T, MT, NV>(tiles, sums, (SIDE * stride, CHUNK), stride);
            (waiting.next, waiting.end) = (row, row + rows);
        } else {
            store_sums::<T, MT, NV>(tiles, carried, (NV * TILE, TILE), CHUNK);
        }
    }
}

/// Stores a block's tiles: `below` bytes to the tile of the next 16 rows, `beside` to that of the next vector.
#[inline(always)]
unsafe fn store_sums<T: Tiles, const MT: usize, const NV: usize>(
    tiles: &mut T,
    p: *mut u8,
    (below, beside): (usize, usize),
    stride: usize,
) {
    // SAFETY: the caller vouches for the block's tiles at these places.
    unsafe {
        tiles.store::<0>(p, stride);
        if NV > 1 {
            tiles.store::<1>(p.add(beside), stride);
        }
        if MT > 1 {
            tiles.store::<2>(p.add(below), stride);
            if NV > 1 {
                tiles.store::<3>(p.add(below + beside), stride);
            }
        }
    }
}

/// Steps of tiles between two parts of an epilogue. Not less: the epilogue leaves so few registers that pointers go to
/// memory, and the stores of that hold up the loads of tiles.
const STEPS_AT_ONCE: usize = 3;

/// The products of `STEPS` steps.
#[inline(always)]
unsafe fn products<T: Tiles, const MT: usize, const NV: usize, const STEPS: usize>(
    tiles: &mut T,
    a: *const u8,
    b: *const u8,
    ahead: &mut Ahead,
) {
    for step in 0..STEPS {
        let (a, b) = (a.wrapping_add(step * BLOCK * CHUNK), b.wrapping_add(step * NV * TILE));
        // SAFETY: the caller vouches for as many steps of activations and of the panel.
        unsafe {
            tiles.load_once::<4>(a, CHUNK);
            tiles.load::<6>(b, NV * CHUNK);
            tiles.dot::<0, 4, 6>();
            if NV > 1 {
                tiles.load::<7>(b.add(CHUNK), NV * CHUNK);
                tiles.dot::<1, 4, 7>();
            }
            if MT > 1 {
                tiles.load_once::<5>(a.add(TILE), CHUNK);
                if NV > 1 {
                    tiles.dot::<3, 5, 7>();
                }
                tiles.dot::<2, 5, 6>();
            }
        }
        ahead.output.fetch(ahead.output_rows);
        for line in 0..ahead.lines {
            gemm::prefetch(ahead.next.wrapping_add(line * CHUNK));
        }
        ahead.next = ahead.next.wrapping_add(ahead.lines * CHUNK);
    }
}

/// Operations of one round of [`peak_steps`].
pub(crate) const fn peak_flop<P: Path>() -> usize {
    4 * 2 * SIDE * SIDE * SIDE * P::STEP
}

/// `rounds` rounds of four independent products of whole tiles.
///
/// # Safety
///
/// The machine must have the tile unit.
#[inline(always)]
pub(crate) unsafe fn peak_steps<P: Path, T: Tiles>(rounds: usize) -> f32 {
    let mut tiles = T::default();
    // Bits that are ordinary values in either format.
    let ones = [0x3f3f_3f3f_u32; SIDE * SIDE];
    let mut sums = [0_f32; SIDE * SIDE];
    // SAFETY: the arrays hold one tile each.
    unsafe {
        tiles.load::<4>(ones.as_ptr().cast(), CHUNK);
        tiles.load::<6>(ones.as_ptr().cast(), CHUNK);
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        for _ in 0..rounds {
            tiles.dot::<0, 4, 6>();
            tiles.dot::<1, 4, 6>();
            tiles.dot::<2, 4, 6>();
            tiles.dot::<3, 4, 6>();
        }
        tiles.store::<0>(sums.as_mut_ptr().cast(), CHUNK);
    }
    sums[0]
}

/// The formats of `D`, for layers that are multiplied with tiles `T`.
#[derive(Clone, Copy)]
pub(crate) struct Tiled<T, D>(PhantomData<(T, D)>);

// SAFETY (all methods): the caller's, for the same method of `D`.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl<T: Tiles, D: Bf16Dot> Bf16Dot for Tiled<T, D> {
    type Simd = D::Simd;
    type Activations = D::Activations;
    type Weights = D::Weights;
    type Sums = D::Sums;

    const STEP: usize = D::STEP;
    const MAX_VECTORS: usize = 2;
    const LAYOUT: Layout = Layout::Blocks;

    #[inline(always)]
    unsafe fn broadcast(p: *const u16, stride: usize) -> D::Activations {
        unsafe { D::broadcast(p, stride) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u16) -> D::Weights {
        unsafe { D::load(p) }
    }
    #[inline(always)]
    unsafe fn zero() -> D::Sums {
        unsafe { D::zero() }
    }
    #[inline(always)]
    unsafe fn dot(a: D::Activations, b: D::Weights, sums: D::Sums) -> D::Sums {
        unsafe { D::dot(a, b, sums) }
    }
    #[inline(always)]
    unsafe fn row(sums: D::Sums, row: usize) -> Floats<D> {
        unsafe { D::row(sums, row) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: Floats<D>) {
        unsafe { D::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_step(p: *mut u16, rows: [Floats<D>; MAX_STEP]) {
        unsafe { D::store_step(p, rows) }
    }
    #[inline(always)]
    unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
        unsafe { D::pack_step(source, stride, rows, columns, packed) }
    }
}

// SAFETY (all methods): as above.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl<T: Tiles, D: IntegerDot> IntegerDot for Tiled<T, D> {
    type Simd = D::Simd;
    type Activations = D::Activations;
    type Weights = D::Weights;
    type Sums = D::Sums;

    const STEP: usize = D::STEP;
    const MAX_VECTORS: usize = 2;
    const LAYOUT: Layout = Layout::Blocks;
    const ZERO: f32 = D::ZERO;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, stride: usize) -> D::Activations {
        unsafe { D::broadcast(p, stride) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> D::Weights {
        unsafe { D::load(p) }
    }
    #[inline(always)]
    unsafe fn zero() -> D::Sums {
        unsafe { D::zero() }
    }
    #[inline(always)]
    unsafe fn dot(a: D::Activations, b: D::Weights, sum: D::Sums) -> D::Sums {
        unsafe { D::dot(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn to_floats(sums: D::Sums, row: usize) -> <D::Simd as Simd>::V {
        unsafe { D::to_floats(sums, row) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: <D::Simd as Simd>::V) {
        unsafe { D::store_bytes(p, v) }
    }
}
