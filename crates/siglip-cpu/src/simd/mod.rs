//! Vectors of f32, one implementation an instruction set.
//!
//! Everything that is not a matrix product (layer norm, GELU, softmax) is written once over [`Simd`], and the matrix
//! kernels are written once over [`crate::path::Path`], which builds on it.
//!
//! The methods are `inline(always)` and carry no `target_feature` of their own: they are compiled into whichever
//! function calls them. Only the entry points (see [`crate::kernels`]) name their features, so only there does the
//! compiler emit the wide instructions, and only there must a caller have checked that the machine has them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, first as avx512_first};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// A vector of f32 lanes and the operations that the kernels need of it.
///
/// # Safety of the methods
///
/// Every method may compile to instructions of the implementing set: the caller must be inside a function that
/// enables them, on a machine that has them. Pointers must be valid for the lanes read or written; no alignment is
/// required.
pub(crate) trait Simd: Copy + 'static {
    /// Lanes of a vector: 16, 8 or 4.
    const LANES: usize;
    /// How many vectors wide a block of 6 rows of sums may be to stay in registers.
    const MAX_VECTORS: usize;
    /// Whether `mul_add` is one instruction.
    const FUSED: bool = true;
    /// Whether there is [`Simd::table`].
    const TABLES: bool = false;
    /// The vector.
    type V: Copy;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Loads the first `n < LANES` lanes; the others are zero and their memory is not touched.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// Loads lanes of bfloat16, widened.
    unsafe fn load_bf16(p: *const u16) -> Self::V;

    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, in one rounding where the set has it.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger. If `b` is not a number, the result is not; if `a` is not, the result may be `b`.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller. As [`Simd::max`] for what is not a number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `1 / a` to within two units in the last place, of finite values.
    unsafe fn reciprocal(a: Self::V) -> Self::V;
    /// The nearest integer.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in -126..=127.
    unsafe fn scale_by_power_of_two(a: Self::V, n: Self::V) -> Self::V;
    /// The magnitude. Only where there are [tables](Simd::TABLES).
    #[inline(always)]
    unsafe fn abs(_: Self::V) -> Self::V {
        unreachable!("these vectors have no tables")
    }
    /// The entries that the lowest four bits of each lane of `at` name. Only where there are [tables](Simd::TABLES).
    #[inline(always)]
    unsafe fn table(_: &[f32; 16], _at: Self::V) -> Self::V {
        unreachable!("these vectors have no tables")
    }
    /// The sum of all lanes, in an order that the lanes alone fix.
    unsafe fn sum(a: Self::V) -> f32;
    /// The largest lane.
    unsafe fn maximum(a: Self::V) -> f32;

    /// Transposes 32-bit values: `rows <= LANES` rows of `columns <= LANES`, `row_bytes` from row to row, into `columns`
    /// rows of `LANES` values, `stride` values from row to row; rows that are not there become zeroes. Nothing beyond
    /// the given columns is read.
    #[inline(always)]
    unsafe fn transpose(
        source: *const u32,
        row_bytes: usize,
        rows: usize,
        columns: usize,
        target: *mut u32,
        stride: usize,
    ) {
        // SAFETY: the caller's.
        unsafe { transpose::<u32>(source, row_bytes, (rows, Self::LANES), columns, target, stride) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: the caller's.
        unsafe { Self::splat(0.0) }
    }
}

/// The most lanes of any set.
pub(crate) const MAX_LANES: usize = 16;

/// [`Simd::transpose`] a value at a time, for `lanes` rows and values of any size.
#[inline(always)]
pub(crate) unsafe fn transpose<T: Copy + Default>(
    source: *const T,
    row_bytes: usize,
    (rows, lanes): (usize, usize),
    columns: usize,
    target: *mut T,
    stride: usize,
) {
    for row in 0..lanes {
        // Wrapping: rows that are not there need not lie inside any object.
        let source = source.wrapping_byte_add(row * row_bytes);
        for column in 0..columns {
            // SAFETY: a row and a column that are there; the target holds `columns` rows of `lanes` values.
            unsafe {
                let value = if row < rows { source.add(column).read_unaligned() } else { T::default() };
                target.add(column * stride + row).write_unaligned(value);
            }
        }
    }
}

/// Sums `LANES` values pairwise: the order that every implementation's `sum` follows in spirit, and the portable one
/// to the letter.
#[inline(always)]
pub(crate) fn sum_lanes<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
