//! The inverse discrete cosine transform: libjpeg's accurate integer one (`jidctint.c`, "islow"), which Pillow uses.
//!
//! It is the algorithm of Loeffler, Ligtenberg and Moschytz (1989): columns first, 2 bits of precision kept between
//! the passes, constants of 13 bits. The rounding is libjpeg's, so the samples are the same to the bit; where damaged
//! files overflow, sums wrap and results saturate at 16 bits where libjpeg-turbo's vector code has 16-bit registers.
//! Each pass goes through eight lanes in a loop, of which the compiler makes vector code.

use crate::image::bytes::{swap_bits, transpose as transpose_bytes};

const CONST_BITS: u32 = 13;
const PASS1_BITS: u32 = 2;

const FIX_0_298631336: i32 = 2446;
const FIX_0_390180644: i32 = 3196;
const FIX_0_541196100: i32 = 4433;
const FIX_0_765366865: i32 = 6270;
const FIX_0_899976223: i32 = 7373;
const FIX_1_175875602: i32 = 9633;
const FIX_1_501321110: i32 = 12299;
const FIX_1_847759065: i32 = 15137;
const FIX_1_961570560: i32 = 16069;
const FIX_2_053119869: i32 = 16819;
const FIX_2_562915447: i32 = 20995;
const FIX_3_072711026: i32 = 25172;

/// Turns coefficients (row-major, not yet multiplied with `quantization`) into 8×8 samples at the start of each of
/// eight rows of `plane`, which lie `stride` apart.
#[inline(always)]
pub(super) fn block(coefficients: &[i16; 64], quantization: &[i16; 64], plane: &mut [u8], stride: usize) {
    let mut values = [0; 64];
    for ((value, coefficient), factor) in values.iter_mut().zip(coefficients).zip(quantization) {
        *value = coefficient.wrapping_mul(*factor);
    }
    let mut any = 0;
    for coefficient in &coefficients[8..] {
        any |= coefficient;
    }
    let mut columns = [0; 64];
    if any == 0 {
        // Columns without anything but their first coefficient are constant.
        for row in columns.as_chunks_mut::<8>().0 {
            for (column, value) in row.iter_mut().zip(&values) {
                *column = value.wrapping_mul(1 << PASS1_BITS);
            }
        }
    } else {
        pass::<{ CONST_BITS - PASS1_BITS }>(&values, &mut columns);
    }
    transpose(&columns, &mut values);
    pass::<{ CONST_BITS + PASS1_BITS + 3 }>(&values, &mut columns);
    let mut samples = [0; 64];
    for (sample, value) in samples.iter_mut().zip(&columns) {
        *sample = value.saturating_add(128).clamp(0, 255) as u8;
    }
    // The samples lie column after column.
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(samples.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    transpose_bytes(&mut words);
    for (word, row) in words.iter().zip(plane.chunks_mut(stride)) {
        if let Some(row) = row.first_chunk_mut::<8>() {
            *row = word.to_le_bytes();
        }
    }
}

/// The same for a block whose only coefficient is the first.
#[inline(always)]
pub(super) fn flat_block(coefficient: i16, quantization: i16, plane: &mut [u8], stride: usize) {
    let level = i32::from(coefficient.wrapping_mul(quantization).wrapping_mul(1 << PASS1_BITS));
    let sample = (((level + 16) >> 5) + 128).clamp(0, 255) as u8;
    for row in plane.chunks_mut(stride).take(8) {
        if let Some(row) = row.first_chunk_mut::<8>() {
            *row = [sample; 8];
        }
    }
}

/// Transposes 8×8 values, four times 4×4 of them.
#[inline(always)]
fn transpose(values: &[i16; 64], out: &mut [i16; 64]) {
    for (across, down) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut words = [0; 4];
        for (row, word) in words.iter_mut().enumerate() {
            let at = (down * 4 + row) * 8 + across * 4;
            for (lane, value) in values[at..at + 4].iter().enumerate() {
                *word |= u64::from(*value as u16) << (16 * lane);
            }
        }
        let [a, b, c, d] = &mut words;
        swap_bits::<32>(a, c, 0x0000_0000_FFFF_FFFF);
        swap_bits::<32>(b, d, 0x0000_0000_FFFF_FFFF);
        swap_bits::<16>(a, b, 0x0000_FFFF_0000_FFFF);
        swap_bits::<16>(c, d, 0x0000_FFFF_0000_FFFF);
        for (row, word) in words.iter().enumerate() {
            let at = (across * 4 + row) * 8 + down * 4;
            for (lane, value) in out[at..at + 4].iter_mut().enumerate() {
                *value = (word >> (16 * lane)) as i16;
            }
        }
    }
}

/// One-dimensional transforms down the eight lanes of each row, to 16 bits, `BITS` bits dropped after rounding. The
/// names are those of `jidctint.c`.
#[inline(always)]
fn pass<const BITS: u32>(rows: &[i16; 64], out: &mut [i16; 64]) {
    for lane in 0..8 {
        let [r0, r1, r2, r3] = [rows[lane], rows[8 + lane], rows[16 + lane], rows[24 + lane]].map(i32::from);
        let [r4, r5, r6, r7] =
            [rows[32 + lane], rows[40 + lane], rows[48 + lane], rows[56 + lane]].map(i32::from);

        // Even part.
        let z1 = (r2 + r6) * FIX_0_541196100;
        let tmp2 = z1 - r6 * FIX_1_847759065;
        let tmp3 = z1 + r2 * FIX_0_765366865;
        let tmp0 = wrap(r0 + r4) << CONST_BITS;
        let tmp1 = wrap(r0 - r4) << CONST_BITS;
        let tmp10 = tmp0.wrapping_add(tmp3);
        let tmp13 = tmp0.wrapping_sub(tmp3);
        let tmp11 = tmp1.wrapping_add(tmp2);
        let tmp12 = tmp1.wrapping_sub(tmp2);

        // Odd part.
        let z3 = wrap(r7 + r3);
        let z4 = wrap(r5 + r1);
        let z5 = (z3 + z4) * FIX_1_175875602;
        let z1 = (r7 + r1) * FIX_0_899976223;
        let z2 = (r5 + r3).wrapping_mul(FIX_2_562915447);
        let z3 = z5.wrapping_sub(z3 * FIX_1_961570560);
        let z4 = z5.wrapping_sub(z4 * FIX_0_390180644);
        let tmp0 = (r7 * FIX_0_298631336).wrapping_sub(z1).wrapping_add(z3);
        let tmp1 = (r5 * FIX_2_053119869).wrapping_sub(z2).wrapping_add(z4);
        let tmp2 = (r3 * FIX_3_072711026).wrapping_sub(z2).wrapping_add(z3);
        let tmp3 = (r1 * FIX_1_501321110).wrapping_sub(z1).wrapping_add(z4);

        out[lane] = descale::<BITS>(tmp10.wrapping_add(tmp3));
        out[8 + lane] = descale::<BITS>(tmp11.wrapping_add(tmp2));
        out[16 + lane] = descale::<BITS>(tmp12.wrapping_add(tmp1));
        out[24 + lane] = descale::<BITS>(tmp13.wrapping_add(tmp0));
        out[32 + lane] = descale::<BITS>(tmp13.wrapping_sub(tmp0));
        out[40 + lane] = descale::<BITS>(tmp12.wrapping_sub(tmp1));
        out[48 + lane] = descale::<BITS>(tmp11.wrapping_sub(tmp2));
        out[56 + lane] = descale::<BITS>(tmp10.wrapping_sub(tmp3));
    }
}

/// Keeps the lower 16 bits, with their sign.
#[inline(always)]
fn wrap(value: i32) -> i32 {
    i32::from(value as i16)
}

/// Divides by 2 to the power of `BITS`, rounding to the nearest; saturates.
#[inline(always)]
fn descale<const BITS: u32>(value: i32) -> i16 {
    (value.wrapping_add(1 << (BITS - 1)) >> BITS).clamp(-32768, 32767) as i16
}
