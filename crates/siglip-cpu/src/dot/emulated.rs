//! `vdpbf16ps` in AVX-512's oldest instructions: what tests multiply bf16 with where a processor has none for it, so that
//! everything built on pairs of bf16 is tested on every machine with AVX-512.

use core::arch::x86_64::*;

use super::Bf16Dot;
use crate::path::{Element, MAX_STEP};
use crate::simd::{Avx512, MAX_LANES, Simd};

/// Products are rounded one after the other, the even one first, where the instruction's own are not; the tests' sums are
/// exact.
#[derive(Clone, Copy)]
pub(crate) struct EmulatedVdpbf16ps;

// SAFETY (all methods): as the trait states; AVX-512F is enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl Bf16Dot for EmulatedVdpbf16ps {
    type Simd = Avx512;
    type Activations = __m512i;
    type Weights = __m512i;
    type Sums = __m512;

    #[inline(always)]
    unsafe fn broadcast(p: *const u16, _: usize) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u16) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn dot(a: __m512i, b: __m512i, sums: __m512) -> __m512 {
        unsafe { sum_of_pairs(a, b, sums) }
    }
    #[inline(always)]
    unsafe fn row(sums: __m512, _: usize) -> __m512 {
        sums
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: __m512) {
        let mut values = [0.0; MAX_LANES];
        unsafe {
            Avx512::store(values.as_mut_ptr(), v);
            p.cast::<[u16; MAX_LANES]>().write_unaligned(rounded(&values));
        }
    }
    #[inline(always)]
    unsafe fn store_step(p: *mut u16, rows: [__m512; MAX_STEP]) {
        unsafe {
            let mut pairs = [0; 2 * MAX_LANES];
            for (i, row) in rows.into_iter().enumerate().take(2) {
                let mut halves = [0; MAX_LANES];
                Self::store(halves.as_mut_ptr(), row);
                interleave_rounded(&mut pairs, i, &halves);
            }
            p.cast::<[u16; 2 * MAX_LANES]>().write_unaligned(pairs);
        }
    }
}

/// A function of its own, as are the others: all of it would be compiled into every kernel, dozens of times.
#[inline(never)]
#[target_feature(enable = "avx512f")]
fn sum_of_pairs(a: __m512i, b: __m512i, sums: __m512) -> __m512 {
    let even = |pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
    let odd = |pairs| _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
    let sums = _mm512_fmadd_ps(even(a), even(b), sums);
    _mm512_fmadd_ps(odd(a), odd(b), sums)
}

#[inline(never)]
fn rounded(values: &[f32; MAX_LANES]) -> [u16; MAX_LANES] {
    values.map(u16::from_f32)
}

#[inline(never)]
fn interleave_rounded(pairs: &mut [u16; 2 * MAX_LANES], first: usize, halves: &[u16; MAX_LANES]) {
    for (pair, half) in pairs.chunks_exact_mut(2).zip(halves) {
        pair[first] = *half;
    }
}
