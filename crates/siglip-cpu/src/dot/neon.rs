//! The dot products of aarch64. Their intrinsics are not stable yet, so the instructions are written in assembly.

use core::arch::aarch64::*;
use core::arch::asm;

use super::{IntegerDot, PairDot};
use crate::simd::Neon;

/// `BFDOT` of FEAT_BF16 (Armv8.6; Neoverse V1 and N2, Apple M2 and later). Run in an emulator only.
#[derive(Clone, Copy)]
pub(crate) struct Bfdot;

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
impl PairDot for Bfdot {
    type Simd = Neon;
    type Pairs = uint16x8_t;

    #[inline(always)]
    unsafe fn broadcast(p: *const u16) -> uint16x8_t {
        unsafe { vreinterpretq_u16_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u16) -> uint16x8_t {
        unsafe { vld1q_u16(p) }
    }
    #[inline(always)]
    unsafe fn dot(a: uint16x8_t, b: uint16x8_t, mut sum: float32x4_t) -> float32x4_t {
        unsafe {
            asm!(
                "bfdot {0:v}.4s, {1:v}.8h, {2:v}.8h",
                inlateout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: float32x4_t) {
        unsafe { vst1_u16(p, round(v)) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut u16, n: usize, v: float32x4_t) {
        let mut lanes = [0; 4];
        unsafe { vst1_u16(lanes.as_mut_ptr(), round(v)) };
        for (i, lane) in lanes.into_iter().enumerate().take(n) {
            unsafe { p.add(i).write_unaligned(lane) };
        }
    }
}

/// `USDOT` of FEAT_I8MM (the same processors): unsigned times signed bytes. Run in an emulator only.
#[derive(Clone, Copy)]
pub(crate) struct Usdot;

// SAFETY (all methods): as the trait states; FEAT_I8MM is enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl IntegerDot for Usdot {
    type Simd = Neon;
    type Activations = uint32x4_t;
    type Weights = int8x16_t;
    type Sums = int32x4_t;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> uint32x4_t {
        unsafe { vdupq_n_u32(p.cast::<u32>().read_unaligned()) }
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
    unsafe fn dot(a: uint32x4_t, b: int8x16_t, mut sum: int32x4_t) -> int32x4_t {
        unsafe {
            asm!(
                "usdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inlateout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
    #[inline(always)]
    unsafe fn to_floats(sum: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(sum) }
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
    unsafe fn broadcast(p: *const u8) -> uint32x4_t {
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
    unsafe fn dot(a: uint32x4_t, b: int8x16_t, mut sum: int32x4_t) -> int32x4_t {
        unsafe {
            asm!(
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inlateout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
    #[inline(always)]
    unsafe fn to_floats(sum: int32x4_t) -> float32x4_t {
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
