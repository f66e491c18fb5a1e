//! AVX-512: 16 lanes.

use core::arch::x86_64::*;

use super::Simd;

/// AVX-512 F, BW, DQ and VL: every server since Skylake-SP and Zen 4.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY (all methods): as the trait states; each intrinsic needs AVX-512F, which the caller has enabled.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl Simd for Avx512 {
    const LANES: usize = 16;
    // 6 x 4 sums, 4 weights, 1 activation: 29 of 32 registers.
    const MAX_VECTORS: usize = 4;
    const TABLES: bool = true;
    type V = __m512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn reciprocal(a: __m512) -> __m512 {
        // 14 bits from the table, doubled by one Newton step: far cheaper than a 16-lane division.
        unsafe {
            let r = _mm512_rcp14_ps(a);
            let error = _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(r, error, r)
        }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn table(entries: &[f32; 16], at: __m512) -> __m512 {
        unsafe { _mm512_permutexvar_ps(_mm512_castps_si512(at), _mm512_loadu_ps(entries.as_ptr())) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn maximum(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn transpose(
        source: *const u32,
        row_bytes: usize,
        rows: usize,
        columns: usize,
        target: *mut u32,
        stride: usize,
    ) {
        let mask = if columns == 16 { u16::MAX } else { first(columns) };
        unsafe {
            let mut r = [_mm512_setzero_si512(); 16];
            for (i, r) in r.iter_mut().enumerate() {
                let mask = if i < rows { mask } else { 0 };
                *r = _mm512_maskz_loadu_epi32(mask, source.wrapping_byte_add(i * row_bytes).cast());
            }
            // Pairs of rows, then fours within each quarter of 128 bits, then the quarters themselves.
            let mut pairs = [_mm512_setzero_si512(); 16];
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
            }
            let mut fours = [_mm512_setzero_si512(); 16];
            for i in 0..4 {
                let p = 4 * i;
                fours[p] = _mm512_unpacklo_epi64(pairs[p], pairs[p + 2]);
                fours[p + 1] = _mm512_unpackhi_epi64(pairs[p], pairs[p + 2]);
                fours[p + 2] = _mm512_unpacklo_epi64(pairs[p + 1], pairs[p + 3]);
                fours[p + 3] = _mm512_unpackhi_epi64(pairs[p + 1], pairs[p + 3]);
            }
            // fours[4i + j] holds columns j, 4 + j, 8 + j, 12 + j of rows 4i..4i + 4, a quarter each.
            for j in 0..4 {
                let low01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[j], fours[4 + j]);
                let high01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[j], fours[4 + j]);
                let low23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[8 + j], fours[12 + j]);
                let high23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[8 + j], fours[12 + j]);
                let quarters = [
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(low01, low23),
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(high01, high23),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(low01, low23),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(high01, high23),
                ];
                for (q, quarter) in quarters.into_iter().enumerate() {
                    let column = 4 * q + j;
                    if column < columns {
                        _mm512_storeu_si512(target.add(column * stride).cast(), quarter);
                    }
                }
            }
        }
    }
}

/// A mask of the first `n` lanes, `n < 16`.
#[inline(always)]
pub(crate) fn first(n: usize) -> __mmask16 {
    (1u16 << (n & 15)) - 1
}
