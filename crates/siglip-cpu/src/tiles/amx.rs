//! AMX itself: Intel's Advanced Matrix Extensions (Sapphire Rapids and later), in assembly because the intrinsics are
//! not stable.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::LazyLock;

use super::Tiles;

/// The processor's tiles; the products are of bf16 pairs, or of unsigned and signed bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Amx<const INTEGERS: bool>;

/// The operand of `ldtilecfg`: eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of each tile's rows; room for 16 tiles.
    row_bytes: [u16; 16],
    /// Rows of each tile.
    rows: [u8; 16],
}

static WHOLE: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

// SAFETY (all methods): as the trait states. Nothing else in the program uses tiles, and no method changes any other
// register.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl<const INTEGERS: bool> Tiles for Amx<INTEGERS> {
    type Bf16 = Amx<false>;

    #[inline(always)]
    unsafe fn configure() {
        unsafe { asm!("ldtilecfg [{0}]", in(reg) &raw const WHOLE, options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn zero<const TILE: usize>(&mut self) {
        unsafe { asm!("tilezero tmm{tile}", tile = const TILE, options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn load<const TILE: usize>(&mut self, p: *const u8, stride: usize) {
        unsafe {
            asm!("tileloadd tmm{tile}, [{0} + {1}*1]", in(reg) p, in(reg) stride, tile = const TILE,
                options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn load_once<const TILE: usize>(&mut self, p: *const u8, stride: usize) {
        unsafe {
            asm!("tileloaddt1 tmm{tile}, [{0} + {1}*1]", in(reg) p, in(reg) stride, tile = const TILE,
                options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn store<const TILE: usize>(&mut self, p: *mut u8, stride: usize) {
        unsafe {
            asm!("tilestored [{0} + {1}*1], tmm{tile}", in(reg) p, in(reg) stride, tile = const TILE,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn dot<const SUMS: usize, const A: usize, const B: usize>(&mut self) {
        unsafe {
            if INTEGERS {
                asm!("tdpbusd tmm{sums}, tmm{a}, tmm{b}", sums = const SUMS, a = const A, b = const B,
                    options(nostack, preserves_flags, nomem));
            } else {
                asm!("tdpbf16ps tmm{sums}, tmm{a}, tmm{b}", sums = const SUMS, a = const A, b = const B,
                    options(nostack, preserves_flags, nomem));
            }
        }
    }
    #[inline(always)]
    unsafe fn release() {
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }
}

/// Whether the processor has tiles, bf16 and 8-bit products of them, and the system lets this process use them.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> =
        LazyLock::new(|| processor_has_tiles() && system_saves_tiles() && process_may_use_tiles());
    *AVAILABLE
}

/// CPUID leaf 7: AMX-BF16, AMX-TILE and AMX-INT8.
fn processor_has_tiles() -> bool {
    const WANTED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let highest = __cpuid(0).eax;
    highest >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED
}

/// XCR0: the system saves the tiles' configuration and their contents between threads.
fn system_saves_tiles() -> bool {
    const WANTED: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: only called where the system has enabled XSAVE.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: the feature was just detected, which includes the system's part (OSXSAVE).
    is_x86_feature_detected!("xsave") && unsafe { enabled() } & WANTED == WANTED
}

/// Linux gives the memory for saving tiles only to processes that ask (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn process_may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this request reads and writes no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Elsewhere nothing is known about asking.
#[cfg(not(target_os = "linux"))]
fn process_may_use_tiles() -> bool {
    false
}
