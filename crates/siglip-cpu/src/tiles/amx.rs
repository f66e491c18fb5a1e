//! AMX itself: Intel's Advanced Matrix Extensions (Sapphire Rapids and later), in assembly because the intrinsics are
//! not stable. Never run where this was written.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::LazyLock;

use super::{Config, Tiles};

/// The processor's tiles; the products are of bf16 pairs, or of unsigned and signed bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Amx<const INTEGERS: bool>;

/// One instruction on the tile with a number that is known once loops are unrolled.
macro_rules! on_tile {
    ($tile:expr, $before:literal, $after:literal, $($operands:tt)*) => {
        match $tile {
            0 => asm!(concat!($before, "tmm0", $after), $($operands)*),
            1 => asm!(concat!($before, "tmm1", $after), $($operands)*),
            2 => asm!(concat!($before, "tmm2", $after), $($operands)*),
            3 => asm!(concat!($before, "tmm3", $after), $($operands)*),
            4 => asm!(concat!($before, "tmm4", $after), $($operands)*),
            5 => asm!(concat!($before, "tmm5", $after), $($operands)*),
            6 => asm!(concat!($before, "tmm6", $after), $($operands)*),
            _ => asm!(concat!($before, "tmm7", $after), $($operands)*),
        }
    };
}

// SAFETY (all methods): as the trait states. Nothing else in the program uses tiles, and no method changes any other
// register.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl<const INTEGERS: bool> Tiles for Amx<INTEGERS> {
    #[inline(always)]
    unsafe fn configure(&mut self, config: &Config) {
        unsafe { asm!("ldtilecfg [{0}]", in(reg) config, options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn zero(&mut self, tile: usize) {
        unsafe { on_tile!(tile, "tilezero ", "", options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn load(&mut self, tile: usize, p: *const u8, stride: usize) {
        unsafe {
            on_tile!(tile, "tileloadd ", ", [{0} + {1}*1]", in(reg) p, in(reg) stride,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn store(&mut self, tile: usize, p: *mut u8, stride: usize) {
        unsafe {
            on_tile!(tile, "tilestored [{0} + {1}*1], ", "", in(reg) p, in(reg) stride,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn dot(&mut self, sums: usize, a: usize, _: usize) {
        // The operands are tiles 4 and 5, or 6 and 7.
        unsafe {
            match (INTEGERS, a) {
                (false, 4) => on_tile!(sums, "tdpbf16ps ", ", tmm4, tmm5", options(nostack, preserves_flags)),
                (false, _) => on_tile!(sums, "tdpbf16ps ", ", tmm6, tmm7", options(nostack, preserves_flags)),
                (true, 4) => on_tile!(sums, "tdpbusd ", ", tmm4, tmm5", options(nostack, preserves_flags)),
                (true, _) => on_tile!(sums, "tdpbusd ", ", tmm6, tmm7", options(nostack, preserves_flags)),
            }
        }
    }
    #[inline(always)]
    unsafe fn release(&mut self) {
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
