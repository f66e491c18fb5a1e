//! The dot products of aarch64. Their intrinsics are not stable yet, so the instructions are written in assembly.
//!
//! `BFMMLA` and `USMMLA` multiply two rows with two columns at once, each a group of 64 bits, and are twice as much work
//! an instruction as `BFDOT` and `USDOT`, which the same processors have too: FEAT_BF16 and FEAT_I8MM (Armv8.6;
//! Neoverse V1 and N2, Apple M2 and later). A vector of four columns is two registers of weights, and its sums are two
//! tiles:
//!
//! ```text
//!            columns 0 1   columns 2 3
//! row 0      t0[0] t0[1]   t1[0] t1[1]
//! row 1      t0[2] t0[3]   t1[2] t1[3]
//! ```
//!
//! Source: Arm Architecture Reference Manual for A-profile architecture (DDI 0487), C7.2.

use core::arch::aarch64::*;
use core::arch::asm;

use super::{Bf16Dot, IntegerDot};
use crate::path::interleave;
use crate::simd::Neon;

/// `sum + a · b` by one instruction, whose mnemonic and the arrangement of whose operands are given.
///
/// Not `pure`, although it is: the compiler would bring the loads of several steps forward, and the sums, which fill the
/// registers, would go through memory.
macro_rules! multiply_add {
    ($instruction:literal, $arrangement:literal, $sum:expr, $a:expr, $b:expr) => {{
        let mut sum = $sum;
        asm!(
            concat!($instruction, " {0:v}.4s, {1:v}.", $arrangement, ", {2:v}.", $arrangement),
            inlateout(vreg) sum, in(vreg) $a, in(vreg) $b,
            options(nomem, nostack, preserves_flags),
        );
        sum
    }};
}

/// `BFMMLA`: groups of four bf16 values. Run in an emulator only.
///
/// Its arithmetic is not IEEE 754's: products and sums of two neighbours, then of these pairs with what was summed
/// before, are each rounded to odd instead of to nearest, and denormal numbers count as zero (`BFDotAdd` in the manual's
/// pseudo-code; processors with FEAT_EBF16 do the same unless a program asks otherwise, which this one does not). That
/// costs up to one unit in the last place of f32 where rounding to nearest costs half of one: far less than what the
/// operands lost on becoming bf16. All machines that keep to the manual give the same bits.
#[derive(Clone, Copy)]
pub(crate) struct Bfmmla;

/// Rounds four lanes to bf16, to nearest even.
#[inline(always)]
unsafe fn round(v: float32x4_t) -> uint16x4_t {
    let rounded: uint16x4_t;
    // SAFETY: registers only; the caller has enabled FEAT_BF16.
    unsafe {
        asm!(
            "bfcvtn {0:v}.4h, {1:v}.4s",
            out(vreg) rounded, in(vreg) v,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    rounded
}

// SAFETY (all methods): as the trait states; FEAT_BF16 is enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl Bf16Dot for Bfmmla {
    type Simd = Neon;
    type Activations = uint16x8_t;
    type Weights = [uint16x8_t; 2];
    type Sums = [float32x4_t; 2];

    const STEP: usize = 4;
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn broadcast(p: *const u16, stride: usize) -> uint16x8_t {
        unsafe { vcombine_u16(vld1_u16(p), vld1_u16(p.add(stride))) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u16) -> [uint16x8_t; 2] {
        unsafe { [vld1q_u16(p), vld1q_u16(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn zero() -> [float32x4_t; 2] {
        unsafe { [vdupq_n_f32(0.0); 2] }
    }
    #[inline(always)]
    unsafe fn dot(a: uint16x8_t, b: [uint16x8_t; 2], sums: [float32x4_t; 2]) -> [float32x4_t; 2] {
        unsafe {
            [multiply_add!("bfmmla", "8h", sums[0], a, b[0]), multiply_add!("bfmmla", "8h", sums[1], a, b[1])]
        }
    }
    #[inline(always)]
    unsafe fn row([left, right]: [float32x4_t; 2], row: usize) -> float32x4_t {
        unsafe {
            let (left, right) = (vreinterpretq_f64_f32(left), vreinterpretq_f64_f32(right));
            vreinterpretq_f32_f64(if row == 0 { vzip1q_f64(left, right) } else { vzip2q_f64(left, right) })
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: float32x4_t) {
        unsafe { vst1_u16(p, round(v)) }
    }
    #[inline(always)]
    unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
        unsafe {
            if rows < 4 || columns < 4 {
                return interleave(source, stride, (rows, columns), packed, (4, 4));
            }
            let row = |i: usize| source.wrapping_add(i * stride);
            let rows = [vld1_u16(row(0)), vld1_u16(row(1)), vld1_u16(row(2)), vld1_u16(row(3))];
            vst4_u16(packed, uint16x4x4_t(rows[0], rows[1], rows[2], rows[3]));
        }
    }
}

/// `USMMLA`: groups of eight unsigned bytes times eight signed ones. Run in an emulator only.
#[derive(Clone, Copy)]
pub(crate) struct Usmmla;

// SAFETY (all methods): as the trait states; FEAT_I8MM is enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl IntegerDot for Usmmla {
    type Simd = Neon;
    type Activations = uint8x16_t;
    type Weights = [int8x16_t; 2];
    type Sums = [int32x4_t; 2];

    const STEP: usize = 8;
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, stride: usize) -> uint8x16_t {
        unsafe { vcombine_u8(vld1_u8(p), vld1_u8(p.add(stride))) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> [int8x16_t; 2] {
        unsafe { [vld1q_s8(p), vld1q_s8(p.add(16))] }
    }
    #[inline(always)]
    unsafe fn zero() -> [int32x4_t; 2] {
        unsafe { [vdupq_n_s32(0); 2] }
    }
    #[inline(always)]
    unsafe fn dot(a: uint8x16_t, b: [int8x16_t; 2], sums: [int32x4_t; 2]) -> [int32x4_t; 2] {
        unsafe {
            [
                multiply_add!("usmmla", "16b", sums[0], a, b[0]),
                multiply_add!("usmmla", "16b", sums[1], a, b[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn to_floats([left, right]: [int32x4_t; 2], row: usize) -> float32x4_t {
        unsafe {
            let (left, right) = (vreinterpretq_s64_s32(left), vreinterpretq_s64_s32(right));
            let sums = if row == 0 { vzip1q_s64(left, right) } else { vzip2q_s64(left, right) };
            vcvtq_f32_s32(vreinterpretq_s32_s64(sums))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: float32x4_t) {
        unsafe { store_bytes(p, v) }
    }
}

/// `SDOT` of FEAT_DotProd (Armv8.2; Neoverse N1, Apple M1 and later): signed bytes only, so 128 is taken from the
/// activations. Run in an emulator only.
#[derive(Clone, Copy)]
pub(crate) struct Sdot;

// SAFETY (all methods): as the trait states; FEAT_DotProd is enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl IntegerDot for Sdot {
    type Simd = Neon;
    type Activations = uint32x4_t;
    type Weights = int8x16_t;
    type Sums = int32x4_t;

    const ZERO: f32 = 128.0;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, _: usize) -> uint32x4_t {
        // Flipping a byte's highest bit takes 128 from it and makes it signed.
        unsafe { vdupq_n_u32(p.cast::<u32>().read_unaligned() ^ 0x8080_8080) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> int8x16_t {
        unsafe { vld1q_s8(p) }
    }
    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn dot(a: uint32x4_t, b: int8x16_t, sum: int32x4_t) -> int32x4_t {
        unsafe { multiply_add!("sdot", "16b", sum, a, b) }
    }
    #[inline(always)]
    unsafe fn to_floats(sum: int32x4_t, _: usize) -> float32x4_t {
        unsafe { vcvtq_f32_s32(sum) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: float32x4_t) {
        unsafe { store_bytes(p, v) }
    }
}

/// # Safety
///
/// The caller has room for 4 bytes.
#[inline(always)]
unsafe fn store_bytes(p: *mut u8, v: float32x4_t) {
    // SAFETY: NEON is part of the target's baseline; the caller vouches for the memory.
    unsafe {
        let words = vqmovn_u32(vcvtnq_u32_f32(v));
        let bytes = vqmovn_u16(vcombine_u16(words, words));
        p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
    }
}

#[cfg(test)]
mod tests;
