//! What a matrix kernel multiplies with what, and in which number format: one [`Path`] a combination.
//!
//! | path | activations | weights | product |
//! | --- | --- | --- | --- |
//! | [`F32`] over any [`Simd`] | f32 | f32 | fused multiply-add |
//! | [`Widened`] over any [`Simd`] | f32 | bf16 | weights widened before they are multiplied: half the memory of f32 |
//! | [`Bf16`] over a [`Bf16Dot`](crate::dot::Bf16Dot) | bf16 | bf16 | two products a lane, or four for each of two rows: `vdpbf16ps`, `bfmmla` |
//! | [`Int8`] over an [`IntegerDot`](crate::dot::IntegerDot) | u8, scale and offset a row | i8, scale a column | four products a lane, or eight for each of two rows: `vpdpbusd`, `usmmla` |

mod bf16;
mod int8;
mod single;

pub(crate) use bf16::Bf16;
pub(crate) use int8::Int8;
pub(crate) use single::{F32, Widened};

use crate::attention::{self, ScratchSizes};
use crate::buffer::Plain;
use crate::simd::Simd;

/// The operand formats and the inner step of a matrix product.
///
/// # Safety of the methods
///
/// As for [`Simd`]: the instructions must be enabled in the calling function and present in the machine; pointers must
/// be valid for what is read or written, without any alignment.
pub(crate) trait Path: Copy + 'static {
    /// The vectors of the accumulators.
    type Simd: Simd;
    /// How the left operand is stored, row-major.
    type Activation: Plain + Default;
    /// How weights are stored: the right operand, packed (see [`crate::gemm`]).
    type Weight: Plain + Default;
    /// How results are stored that another product reads: q, k, v, attention's output, the MLP's inner values. The
    /// same as `Activation`, but where activations are [quantised](Path::QUANTIZED).
    type Inner: Element;
    /// The path for products of two activations, as attention needs them.
    type Attention: Path<Simd = Self::Simd, Activation = Self::Inner, Weight = Self::Inner, Inner = Self::Inner>;
    /// A broadcast group of activations, of each of `ROWS` rows.
    type A: Copy;
    /// A vector of weights.
    type B: Copy;
    /// A vector of sums, for each of `ROWS` rows.
    type Sum: Copy;

    /// Consecutive values of the inner dimension that one step multiplies.
    const STEP: usize;
    /// Rows that one step multiplies: 1, or 2 where an instruction takes two (`bfmmla`).
    const ROWS: usize = 1;
    /// The widest panel, in vectors: as many as leave the accumulators in registers.
    const MAX_VECTORS: usize;
    /// Whether a step is one instruction.
    const FUSED: bool;
    /// How rows of activations lie beside one another.
    const LAYOUT: Layout = Layout::Rows;
    /// Whether weights are stored in half the bits that they are multiplied in (see [`crate::widened`]).
    const WIDENED: bool = false;
    /// Whether activations are integers with a scale and an offset for each row, made from `Inner` values by
    /// [`crate::ops::quantize`]. Where they are not, `Activation` and `Inner` are the same format.
    const QUANTIZED: bool = false;

    /// Whether what functions give is rounded so far, to bf16 or 8 bits, that 13 of their bits are enough.
    const SHORT: bool;

    /// Whether attention's scores are computed on this path, and not on that for attention: see [`crate::scores`].
    const SCORES: bool = false;

    /// Whether attention's second product is, too: see [`crate::values`].
    const VALUES: bool = false;

    /// What attention needs of scratch memory, on the paths that have this one for it.
    fn attention_scratch(keys: usize, head_dim: usize) -> ScratchSizes {
        match Self::LAYOUT {
            Layout::Rows => attention::scratch_sizes::<Self>(keys, head_dim),
            #[cfg(target_arch = "x86_64")]
            Layout::Blocks => crate::tiles::scratch_sizes(keys, head_dim),
            #[cfg(not(target_arch = "x86_64"))]
            Layout::Blocks => unreachable!("only x86-64 has tiles"),
        }
    }

    /// Converts one column of a layer, `row.len()` weights, for packing.
    fn convert(row: &[f32], converted: &mut [Self::Weight]) -> ColumnScale;

    /// The same group for every lane; rows are `stride` values apart.
    unsafe fn broadcast(p: *const Self::Activation, stride: usize) -> Self::A;
    unsafe fn load_weights(p: *const Self::Weight) -> Self::B;
    unsafe fn zero_sum() -> Self::Sum;
    unsafe fn step(a: Self::A, b: Self::B, sum: Self::Sum) -> Self::Sum;
    /// The sums of one of the rows as numbers; the scales matter only to quantised paths.
    unsafe fn value(
        sum: Self::Sum,
        row: usize,
        scale: RowScale,
        columns: &ColumnScales<Self>,
    ) -> Vector<Self>;
    /// Stores a vector for another product.
    unsafe fn store(p: *mut Self::Inner, v: Vector<Self>);
    /// Stores one step of one vector of a right operand: the first `STEP` vectors are its rows, interleaved.
    unsafe fn store_step(p: *mut Self::Inner, rows: [Vector<Self>; MAX_STEP]);
    /// Stores a vector of weights as it is multiplied. Only for paths that widen them.
    #[inline(always)]
    unsafe fn store_widened(_: *mut f32, _: Self::B) {
        unreachable!("this path does not widen weights")
    }
    /// Stores a vector of values from 0 to 255 as activations, rounded to nearest, ties to even. Only for quantised paths.
    unsafe fn store_quantized(p: *mut Self::Activation, v: Vector<Self>);
    /// Stores one step of one vector of an operand of bytes, signed or not: the first `STEP` vectors are its rows, rounded to
    /// nearest, ties to even, interleaved. Only for quantised paths.
    #[inline(always)]
    unsafe fn store_groups(_: *mut u8, _: [Vector<Self>; MAX_BYTES]) {
        unreachable!("this path is not quantised")
    }
    /// Stores integers from 0 to 32,639 likewise in two bytes: they are 256 times the high bytes plus the low ones, all of them
    /// signed. Only for paths with [values](Path::VALUES) in 8 bits.
    #[inline(always)]
    unsafe fn store_two_bytes(_high: *mut i8, _low: *mut i8, _: [Vector<Self>; MAX_BYTES]) {
        unreachable!("attention's second product is on another path")
    }

    /// Packs one step of one vector of columns as a right operand: `rows <= STEP` rows of `columns <= LANES` values,
    /// `stride` values from row to row, interleaved. What is beyond rows and columns becomes zero.
    #[inline(always)]
    unsafe fn pack_step(
        source: *const Self::Activation,
        stride: usize,
        rows: usize,
        columns: usize,
        packed: *mut Self::Activation,
    ) {
        // SAFETY: the caller's.
        unsafe { interleave(source, stride, (rows, columns), packed, (Self::STEP, lanes::<Self>())) }
    }
}

/// How rows of activations lie in memory.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 has a tile unit"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row after row.
    Rows,
    /// For a tile unit: [`BLOCK`] rows at a time, [`CHUNK`] bytes of each in turn, `[rows / BLOCK][chunks][BLOCK][CHUNK]`. So
    /// the operands of one step after the other are one stream of memory, which the processor fetches ahead by itself; of
    /// rows that lie apart it does not see what comes next.
    Blocks,
}

/// Rows of a block.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a row that lie together in a block.
pub(crate) const CHUNK: usize = 64;

impl Layout {
    /// Rows that must exist in memory where there are `rows`.
    pub(crate) const fn rows(self, rows: usize) -> usize {
        match self {
            Layout::Rows => rows,
            Layout::Blocks => rows.next_multiple_of(BLOCK),
        }
    }

    /// Where a row of `T` begins, in values, where rows are `stride` values long (in blocks a multiple of a chunk).
    #[inline(always)]
    pub(crate) const fn row<T>(self, row: usize, stride: usize) -> usize {
        match self {
            Layout::Rows => row * stride,
            Layout::Blocks => row / BLOCK * BLOCK * stride + row % BLOCK * (CHUNK / size_of::<T>()),
        }
    }

    /// Where a value of a row lies, from the row's beginning.
    #[inline(always)]
    pub(crate) const fn column<T>(self, column: usize) -> usize {
        let chunk = CHUNK / size_of::<T>();
        match self {
            Layout::Rows => column,
            Layout::Blocks => column / chunk * chunk * BLOCK + column % chunk,
        }
    }

    /// Values that are written to end a row of `size`: whole vectors of `lanes`, or whole chunks.
    pub(crate) const fn filled<T>(self, size: usize, lanes: usize) -> usize {
        match self {
            Layout::Rows => size.next_multiple_of(lanes),
            Layout::Blocks => size.next_multiple_of(CHUNK / size_of::<T>()),
        }
    }
}

/// How results lie that another product reads without being quantised first.
#[inline(always)]
pub(crate) const fn inner_layout<P: Path>() -> Layout {
    if P::QUANTIZED { Layout::Rows } else { P::LAYOUT }
}

/// The kernel's steps over `k` values of the inner dimension: for a tile unit whole tiles, the rest zeroes.
pub(crate) const fn steps<P: Path>(k: usize) -> usize {
    match P::LAYOUT {
        Layout::Rows => k.div_ceil(P::STEP),
        Layout::Blocks => {
            k.div_ceil(CHUNK / size_of::<P::Activation>()) * (CHUNK / size_of::<P::Activation>() / P::STEP)
        }
    }
}

/// The longest [`Path::STEP`] of paths that multiply activations with one another.
pub(crate) const MAX_STEP: usize = 4;

/// The longest [`Path::STEP`] of all: bytes that an instruction takes of one row.
pub(crate) const MAX_BYTES: usize = 8;

/// [`Path::pack_step`] a value at a time, for `step` rows and `lanes` columns.
#[inline(always)]
pub(crate) unsafe fn interleave<T: Plain + Default>(
    source: *const T,
    stride: usize,
    (rows, columns): (usize, usize),
    packed: *mut T,
    (step, lanes): (usize, usize),
) {
    for column in 0..lanes {
        for row in 0..step {
            let there = row < rows && column < columns;
            // SAFETY: inside the rows and columns that the caller vouches for.
            unsafe {
                let value = if there { *source.add(row * stride + column) } else { T::default() };
                *packed.add(column * step + row) = value;
            }
        }
    }
}

/// How a row of quantised activations reads: `value = scale · integer + offset`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RowScale {
    pub(crate) scale: f32,
    pub(crate) offset: f32,
}

/// How a column of weights was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnScale {
    /// What one unit of the stored weights is worth.
    pub(crate) scale: f32,
    /// The sum of the stored weights: what a row's offset is multiplied with.
    pub(crate) sum: f32,
}

/// The scales and sums of a vector of columns.
#[derive(Clone, Copy)]
pub(crate) struct ColumnScales<P: Path> {
    pub(crate) scale: Vector<P>,
    pub(crate) sum: Vector<P>,
}

/// The f32 vector of a path.
pub(crate) type Vector<P> = <<P as Path>::Simd as Simd>::V;

/// Lanes of a path's vectors.
#[inline(always)]
pub(crate) const fn lanes<P: Path>() -> usize {
    <P::Simd as Simd>::LANES
}

/// A floating-point format in memory.
pub(crate) trait Element: Plain + Default {
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
    /// Loads a vector, widened.
    ///
    /// # Safety
    ///
    /// As for [`Simd`].
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

/// Weights in a floating-point format need no scale.
fn convert_floats<T: Element>(row: &[f32], converted: &mut [T]) -> ColumnScale {
    for (to, from) in converted.iter_mut().zip(row) {
        *to = T::from_f32(*from);
    }
    ColumnScale { scale: 1.0, sum: 0.0 }
}

impl Element for f32 {
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }
}

/// bfloat16 as its bits.
impl Element for u16 {
    #[inline(always)]
    fn from_f32(x: f32) -> u16 {
        // Branch-free so that packing vectorises. NaN keeps its high bits and gains a quiet one, whatever its payload.
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        (if x.is_nan() { nan } else { rounded }) as u16
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p) }
    }
}
