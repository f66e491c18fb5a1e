//! The dot products of x86-64.

use core::arch::x86_64::*;

use super::{Bf16Dot, IntegerDot};
use crate::path::{MAX_BYTES, MAX_STEP};
use crate::simd::{Avx2, Avx512, avx512_first};

/// AVX-512 BF16.
#[derive(Clone, Copy)]
pub(crate) struct Vdpbf16ps;

// SAFETY (all methods): as the trait states; AVX-512 BF16, BW and VL are enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl Bf16Dot for Vdpbf16ps {
    type Simd = Avx512;
    type Activations = __m512bh;
    type Weights = __m512bh;
    type Sums = __m512;

    #[inline(always)]
    unsafe fn broadcast(p: *const u16, _: usize) -> __m512bh {
        unsafe { core::mem::transmute(_mm512_set1_epi32(p.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u16) -> __m512bh {
        unsafe { core::mem::transmute(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn dot(a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn row(sum: __m512, _: usize) -> __m512 {
        sum
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: __m512) {
        unsafe {
            let halves = core::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(p.cast(), halves);
        }
    }
    #[inline(always)]
    unsafe fn store_step(p: *mut u16, rows: [__m512; MAX_STEP]) {
        // The second row's 16 values behind the first's, then one of each in turn.
        const IN_TURN: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 16 {
                (order[2 * i], order[2 * i + 1]) = (i as u16, 16 + i as u16);
                i += 1;
            }
            order
        };
        unsafe {
            let halves = core::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(rows[1], rows[0]));
            let order = _mm512_loadu_si512(IN_TURN.as_ptr().cast());
            _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi16(order, halves));
        }
    }
    #[inline(always)]
    unsafe fn pack_step(source: *const u16, stride: usize, rows: usize, columns: usize, packed: *mut u16) {
        let mask = if columns == 16 { u16::MAX } else { avx512_first(columns) };
        unsafe {
            let second = if rows > 1 { mask } else { 0 };
            let even = _mm256_maskz_loadu_epi16(mask, source.cast());
            let odd = _mm256_maskz_loadu_epi16(second, source.wrapping_add(stride).cast());
            let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
            let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd);
            _mm512_storeu_si512(packed.cast(), pairs);
        }
    }
}

/// AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Vpdpbusd;

// SAFETY (all methods): as the trait states; AVX-512 VNNI is enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl IntegerDot for Vpdpbusd {
    type Simd = Avx512;
    type Activations = __m512i;
    type Weights = __m512i;
    type Sums = __m512i;

    const TWO_BYTES: bool = true;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, _: usize) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn dot(a: __m512i, b: __m512i, sum: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn to_floats(sum: __m512i, _: usize) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m512) {
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
    #[inline(always)]
    unsafe fn store_groups(p: *mut u8, rows: [__m512; MAX_BYTES]) {
        unsafe {
            let (even, odd) = pairs_avx512(rows);
            _mm512_storeu_si512(p.cast(), low_bytes_avx512(even, odd));
        }
    }
    #[inline(always)]
    unsafe fn store_two_bytes(high: *mut i8, low: *mut i8, rows: [__m512; MAX_BYTES]) {
        unsafe {
            let (even, odd) = pairs_avx512(rows);
            _mm512_storeu_si512(low.cast(), low_bytes_avx512(even, odd));
            let half = _mm512_set1_epi16(HALF_OF_HIGH);
            let (even, odd) = (_mm512_add_epi16(even, half), _mm512_add_epi16(odd, half));
            let second = _mm512_set1_epi16(EVERY_SECOND_BYTE);
            let high_bytes = _mm512_ternarylogic_epi32::<SELECT>(second, odd, _mm512_srli_epi32::<8>(even));
            _mm512_storeu_si512(high.cast(), high_bytes);
        }
    }
}

/// Of each group of four bytes the last two; the second and the fourth; and every second 16 bits of `vpblendw`.
const EVERY_SECOND_PAIR: i32 = -0x1_0000;
const EVERY_SECOND_BYTE: i16 = -0x100;
const EVERY_SECOND: i32 = 0b1010_1010;
/// What is added before the low byte is cut off, since that is a signed one.
const HALF_OF_HIGH: i16 = 0x80;
/// The ternary logic that takes the second operand's bits where the first has ones, and else the third's.
const SELECT: i32 = 0b1100_1010;

/// Rows 0 and 2, and rows 1 and 3, as integers of 16 bits in turn. There are no more.
///
/// # Safety
///
/// The caller has AVX-512.
#[inline(always)]
unsafe fn pairs_avx512(rows: [__m512; MAX_BYTES]) -> (__m512i, __m512i) {
    // SAFETY: the caller's.
    unsafe {
        let (a, b) = (_mm512_cvtps_epi32(rows[0]), _mm512_cvtps_epi32(rows[1]));
        let (c, d) = (_mm512_cvtps_epi32(rows[2]), _mm512_cvtps_epi32(rows[3]));
        let second = _mm512_set1_epi32(EVERY_SECOND_PAIR);
        (
            _mm512_ternarylogic_epi32::<SELECT>(second, _mm512_slli_epi32::<16>(c), a),
            _mm512_ternarylogic_epi32::<SELECT>(second, _mm512_slli_epi32::<16>(d), b),
        )
    }
}

/// The low bytes of what [`pairs_avx512`] gives, rows in order.
///
/// # Safety
///
/// The caller has AVX-512.
#[inline(always)]
unsafe fn low_bytes_avx512(even: __m512i, odd: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let second = _mm512_set1_epi16(EVERY_SECOND_BYTE);
        _mm512_ternarylogic_epi32::<SELECT>(second, _mm512_slli_epi32::<8>(odd), even)
    }
}

/// AVX-VNNI: the same instruction on 256 bits, on processors without AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Vpdpbusd256;

// SAFETY (all methods): as the trait states; AVX2 and AVX-VNNI are enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl IntegerDot for Vpdpbusd256 {
    type Simd = Avx2;
    type Activations = __m256i;
    type Weights = __m256i;
    type Sums = __m256i;

    const TWO_BYTES: bool = true;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, _: usize) -> __m256i {
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn dot(a: __m256i, b: __m256i, sum: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn to_floats(sum: __m256i, _: usize) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m256) {
        unsafe { store_bytes_avx2(p, v) }
    }
    #[inline(always)]
    unsafe fn store_groups(p: *mut u8, rows: [__m256; MAX_BYTES]) {
        unsafe {
            let (even, odd) = pairs_avx2(rows);
            _mm256_storeu_si256(p.cast(), low_bytes_avx2(even, odd));
        }
    }
    #[inline(always)]
    unsafe fn store_two_bytes(high: *mut i8, low: *mut i8, rows: [__m256; MAX_BYTES]) {
        unsafe {
            let (even, odd) = pairs_avx2(rows);
            _mm256_storeu_si256(low.cast(), low_bytes_avx2(even, odd));
            let half = _mm256_set1_epi16(HALF_OF_HIGH);
            let (even, odd) = (_mm256_add_epi16(even, half), _mm256_add_epi16(odd, half));
            let second = _mm256_set1_epi16(EVERY_SECOND_BYTE);
            let high_bytes = _mm256_blendv_epi8(_mm256_srli_epi32::<8>(even), odd, second);
            _mm256_storeu_si256(high.cast(), high_bytes);
        }
    }
}

/// [`pairs_avx512`].
///
/// # Safety
///
/// The caller has AVX2.
#[inline(always)]
unsafe fn pairs_avx2(rows: [__m256; MAX_BYTES]) -> (__m256i, __m256i) {
    // SAFETY: the caller's.
    unsafe {
        let (a, b) = (_mm256_cvtps_epi32(rows[0]), _mm256_cvtps_epi32(rows[1]));
        let (c, d) = (_mm256_cvtps_epi32(rows[2]), _mm256_cvtps_epi32(rows[3]));
        (
            _mm256_blend_epi16::<EVERY_SECOND>(a, _mm256_slli_epi32::<16>(c)),
            _mm256_blend_epi16::<EVERY_SECOND>(b, _mm256_slli_epi32::<16>(d)),
        )
    }
}

/// [`low_bytes_avx512`].
///
/// # Safety
///
/// The caller has AVX2.
#[inline(always)]
unsafe fn low_bytes_avx2(even: __m256i, odd: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_blendv_epi8(even, _mm256_slli_epi32::<8>(odd), _mm256_set1_epi16(EVERY_SECOND_BYTE)) }
}

/// AVX2. Not `vpmaddubsw`, whose sums of two products saturate at 16 bits: bytes are widened to 16 bits, the even and
/// the odd ones of each lane apart, and multiplied by `vpmaddwd`, which sums two products in 32.
#[derive(Clone, Copy)]
pub(crate) struct Vpmaddwd;

/// Bytes 0 and 2, and bytes 1 and 3, of each lane.
#[derive(Clone, Copy)]
pub(crate) struct EvenOdd {
    even: __m256i,
    odd: __m256i,
}

// SAFETY (all methods): as the trait states; AVX2 is enabled by the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl IntegerDot for Vpmaddwd {
    type Simd = Avx2;
    type Activations = EvenOdd;
    type Weights = EvenOdd;
    type Sums = __m256i;

    const FUSED: bool = false;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, _: usize) -> EvenOdd {
        unsafe {
            let group = p.cast::<u32>().read_unaligned();
            EvenOdd {
                even: _mm256_set1_epi32((group & 0x00ff_00ff) as i32),
                odd: _mm256_set1_epi32((group >> 8 & 0x00ff_00ff) as i32),
            }
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> EvenOdd {
        unsafe {
            let bytes = _mm256_loadu_si256(p.cast());
            EvenOdd {
                even: _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)),
                odd: _mm256_srai_epi16::<8>(bytes),
            }
        }
    }
    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn dot(a: EvenOdd, b: EvenOdd, sum: __m256i) -> __m256i {
        unsafe {
            let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a.even, b.even));
            _mm256_add_epi32(sum, _mm256_madd_epi16(a.odd, b.odd))
        }
    }
    #[inline(always)]
    unsafe fn to_floats(sum: __m256i, _: usize) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m256) {
        unsafe { store_bytes_avx2(p, v) }
    }
}

/// # Safety
///
/// The caller has AVX2 and room for 8 bytes.
#[inline(always)]
unsafe fn store_bytes_avx2(p: *mut u8, v: __m256) {
    // SAFETY: the caller's.
    unsafe {
        let integers = _mm256_cvtps_epi32(v);
        let words =
            _mm_packus_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256::<1>(integers));
        _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
    }
}
