//! Matrix products with a tile unit (Intel's AMX): 16 rows by 16 columns of sums at once.
//!
//! The formats are those of the paths for `vdpbf16ps` and `vpdpbusd`, and so is the packing: a panel's 16 neighbouring
//! steps of one vector are a tile of weights as the instructions want it (Intel's "VNNI layout"), 16 rows of 64 bytes,
//! and a tile of activations is read from the rows as they lie.
//!
//! ```text
//! for each block of up to 16 rows
//!   sums[NV] = 0                              tiles 0 to 3
//!   for 16 steps at a time                    what is left over in smaller tiles of its own
//!     a = 16 rows of activations              tile 4 (6)
//!     for v in 0..NV
//!       b = 16 steps of the panel's vector v  tile 5 (7)
//!       sums[v] += a · b
//!   epilogue(sums)                            row by row, through memory: tiles and vectors share no registers
//! ```
//!
//! The order in which a row's products are added does not depend on the rows beside it. Attention, whose
//! products are short, stays with the vector instructions.
//!
//! No machine with AMX could be had where this was written: the tests run this kernel over tiles that are emulated in
//! plain Rust, and the instructions themselves have never been run.

mod amx;
#[cfg(test)]
mod emulated;

pub(crate) use amx::{Amx, is_available};
#[cfg(test)]
pub(crate) use emulated::Emulated;

use std::marker::PhantomData;

use crate::dot::{Bf16Dot, Floats, IntegerDot};
use crate::gemm::{self, Prefetch, Product};
use crate::path::{MAX_STEP, Path, lanes};
use crate::simd::Simd;

/// Eight tiles of up to 16 rows of 64 bytes.
///
/// # Safety of the methods
///
/// The machine must have the instructions, tiles must be [configured](Tiles::configure) before they are used, and
/// pointers must be valid for the configured rows, `stride` bytes from row to row.
pub(crate) trait Tiles: Copy + Default + 'static {
    /// Sets the tiles' sizes; what they hold is lost.
    unsafe fn configure(&mut self, config: &Config);
    unsafe fn zero(&mut self, tile: usize);
    unsafe fn load(&mut self, tile: usize, p: *const u8, stride: usize);
    unsafe fn store(&mut self, tile: usize, p: *mut u8, stride: usize);
    /// `sums += a · b`, where rows of `a` and columns of `b` hold groups of 32 bits.
    unsafe fn dot(&mut self, sums: usize, a: usize, b: usize);
    /// Lets go of the tiles.
    unsafe fn release(&mut self);
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of each tile's rows; room for 16 tiles.
    row_bytes: [u16; 16],
    /// Rows of each tile.
    rows: [u8; 16],
}

/// Rows of a whole tile, and 32-bit values of its rows.
const SIDE: usize = 16;

/// Tiles of whole steps, and of what is left over.
const A: [usize; 2] = [4, 6];
const B: [usize; 2] = [5, 7];

impl Config {
    /// For blocks of `rows` rows, `rest` steps being left over.
    fn new(rows: usize, rest: usize) -> Self {
        let (whole, rows, steps) = (SIDE as u8, rows as u8, rest as u8);
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.rows[..8].copy_from_slice(&[rows, rows, rows, rows, rows, whole, rows, steps]);
        config.row_bytes[..8].copy_from_slice(&[64, 64, 64, 64, 64, 64, 4 * u16::from(steps), 64]);
        if rest == 0 {
            // A tile without rows must be without columns too.
            config.rows[A[1]] = 0;
            config.row_bytes[B[1]] = 0;
        }
        config
    }
}

/// [`gemm::multiply`] with tiles.
///
/// # Safety
///
/// As there, and the machine must have the tile unit.
#[inline(always)]
pub(crate) unsafe fn multiply<P: Path, T: Tiles>(product: &Product<P>) {
    // SAFETY: the caller's.
    unsafe {
        match product.vectors {
            4 => all_rows::<P, T, 4>(product),
            3 => all_rows::<P, T, 3>(product),
            2 => all_rows::<P, T, 2>(product),
            _ => all_rows::<P, T, 1>(product),
        }
    }
}

#[inline(always)]
unsafe fn all_rows<P: Path, T: Tiles, const NV: usize>(product: &Product<P>) {
    let mut tiles = T::default();
    let mut prefetch = Prefetch::new(product.prefetch, product.prefetch_bytes);
    let mut configured = 0;
    let mut row = 0;
    // SAFETY: blocks end with the product's rows; tiles are configured for them.
    unsafe {
        while row < product.rows {
            let rows = SIDE.min(product.rows - row);
            if configured != rows {
                tiles.configure(&Config::new(rows, product.steps % SIDE));
                configured = rows;
            }
            block::<P, T, NV>(&mut tiles, product, row, rows, &mut prefetch);
            row += rows;
        }
        tiles.release();
    }
}

/// Sums on their way from tiles to vectors.
#[repr(align(64))]
struct Block<const NV: usize>([[[u32; SIDE]; NV]; SIDE]);

#[inline(always)]
unsafe fn block<P: Path, T: Tiles, const NV: usize>(
    tiles: &mut T,
    product: &Product<P>,
    row: usize,
    rows: usize,
    ahead: &mut Prefetch,
) {
    const {
        assert!(P::ROWS == 1 && lanes::<P>() == SIDE && size_of::<P::Sum>() == 64);
        assert!(P::STEP * size_of::<P::Activation>() == 4 && P::STEP * size_of::<P::Weight>() == 4);
    }
    let a = product.activations.wrapping_add(row * product.row_stride).cast::<u8>();
    let a_stride = product.row_stride * size_of::<P::Activation>();
    let b = product.panel.cast::<u8>();
    let b_stride = NV * 64;
    let mut sums = Block([[[0; SIDE]; NV]; SIDE]);
    // SAFETY: steps stay below the product's; rows and their strides are as configured.
    unsafe {
        for v in 0..NV {
            tiles.zero(v);
        }
        let mut step = 0;
        while step < product.steps {
            let part = usize::from(product.steps - step < SIDE);
            tiles.load(A[part], a.add(step * 4), a_stride);
            for v in 0..NV {
                for _ in 0..SIDE / NV {
                    ahead.line();
                }
                tiles.load(B[part], b.add(step * b_stride + v * 64), b_stride);
                tiles.dot(v, A[part], B[part]);
            }
            step += SIDE;
        }
        for v in 0..NV {
            tiles.store(v, sums.0.as_mut_ptr().cast::<u8>().add(v * 64), NV * 64);
        }
        for (r, sums) in sums.0.iter().enumerate().take(rows) {
            let mut vectors = [[P::zero_sum(); NV]];
            for (vector, sums) in vectors[0].iter_mut().zip(sums) {
                *vector = sums.as_ptr().cast::<P::Sum>().read_unaligned();
            }
            let values = gemm::values::<P, 1, NV>(product, row + r, 0, vectors);
            gemm::finish::<P, 1, NV>(&product.epilogue, row + r, values);
        }
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
    // SAFETY: whole tiles are configured, and the arrays hold one each.
    unsafe {
        tiles.configure(&Config::new(SIDE, 0));
        tiles.load(A[0], ones.as_ptr().cast(), 64);
        tiles.load(B[0], ones.as_ptr().cast(), 64);
        for v in 0..4 {
            tiles.zero(v);
        }
        for _ in 0..rounds {
            for v in 0..4 {
                tiles.dot(v, A[0], B[0]);
            }
        }
        tiles.store(0, sums.as_mut_ptr().cast(), 64);
        tiles.release();
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
    const MAX_VECTORS: usize = D::MAX_VECTORS;
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
