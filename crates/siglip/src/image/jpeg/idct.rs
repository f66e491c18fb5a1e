//! The inverse discrete cosine transform: libjpeg's accurate integer one (`jidctint.c`, "islow"), which Pillow uses.
//!
//! It is the algorithm of Loeffler, Ligtenberg and Moschytz (1989): columns first, 2 bits of precision kept between
//! the passes, constants of 13 bits. The rounding is libjpeg's, so the samples are the same to the bit; where damaged
//! files overflow, sums wrap and results saturate at 16 bits where libjpeg-turbo's vector code has 16-bit registers.
//! Each pass works on eight lanes at once, written so that the compiler makes vector code of it.

type Lanes = [i32; 8];

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
    let mut lanes = [[0i32; 8]; 8];
    for (row, lanes) in lanes.iter_mut().enumerate() {
        for (column, lane) in lanes.iter_mut().enumerate() {
            let at = row * 8 + column;
            *lane = i32::from(coefficients[at].wrapping_mul(quantization[at]));
        }
    }
    let mut any = 0;
    for coefficient in &coefficients[8..] {
        any |= coefficient;
    }
    if any == 0 {
        // Columns without anything but their first coefficient are constant.
        lanes = [wrap(mul(lanes[0], 1 << PASS1_BITS)); 8];
    } else {
        pass::<{ CONST_BITS - PASS1_BITS }>(&mut lanes);
        for lanes in &mut lanes {
            *lanes = saturate(*lanes);
        }
    }
    transpose(&mut lanes);
    pass::<{ CONST_BITS + PASS1_BITS + 3 }>(&mut lanes);
    transpose(&mut lanes);
    for (lanes, row) in lanes.iter().zip(plane.chunks_mut(stride)) {
        if let Some(row) = row.first_chunk_mut::<8>() {
            for (lane, sample) in lanes.iter().zip(row) {
                *sample = (*lane + 128).clamp(0, 255) as u8;
            }
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

#[inline(always)]
fn transpose(lanes: &mut [Lanes; 8]) {
    let old = *lanes;
    for (row, lanes) in lanes.iter_mut().enumerate() {
        for (column, lane) in lanes.iter_mut().enumerate() {
            *lane = old[column][row];
        }
    }
}

// Loops rather than `map` and `from_fn`: only what is inlined for sure becomes code for the processor at hand.

#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(&b) {
        *out = out.wrapping_add(*b);
    }
    out
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(&b) {
        *out = out.wrapping_sub(*b);
    }
    out
}

#[inline(always)]
fn mul(a: Lanes, factor: i32) -> Lanes {
    let mut out = a;
    for out in &mut out {
        *out = out.wrapping_mul(factor);
    }
    out
}

/// Keeps the lower 16 bits, with their sign.
#[inline(always)]
fn wrap(a: Lanes) -> Lanes {
    let mut out = a;
    for out in &mut out {
        *out = i32::from(*out as i16);
    }
    out
}

#[inline(always)]
fn saturate(a: Lanes) -> Lanes {
    let mut out = a;
    for out in &mut out {
        *out = (*out).clamp(-32768, 32767);
    }
    out
}

#[inline(always)]
fn scale_up(a: Lanes) -> Lanes {
    let mut out = a;
    for out in &mut out {
        *out <<= CONST_BITS;
    }
    out
}

/// Divides by 2 to the power of `BITS`, rounding to the nearest.
#[inline(always)]
fn descale<const BITS: u32>(a: Lanes) -> Lanes {
    let mut out = a;
    for out in &mut out {
        *out = out.wrapping_add(1 << (BITS - 1)) >> BITS;
    }
    out
}

/// One-dimensional transforms down the eight lanes; the names are those of `jidctint.c`.
#[inline(always)]
fn pass<const BITS: u32>(rows: &mut [Lanes; 8]) {
    let [r0, r1, r2, r3, r4, r5, r6, r7] = *rows;

    // Even part.
    let z1 = mul(add(r2, r6), FIX_0_541196100);
    let tmp2 = sub(z1, mul(r6, FIX_1_847759065));
    let tmp3 = add(z1, mul(r2, FIX_0_765366865));
    let tmp0 = scale_up(wrap(add(r0, r4)));
    let tmp1 = scale_up(wrap(sub(r0, r4)));
    let tmp10 = add(tmp0, tmp3);
    let tmp13 = sub(tmp0, tmp3);
    let tmp11 = add(tmp1, tmp2);
    let tmp12 = sub(tmp1, tmp2);

    // Odd part.
    let z3 = wrap(add(r7, r3));
    let z4 = wrap(add(r5, r1));
    let z5 = mul(add(z3, z4), FIX_1_175875602);
    let z1 = mul(add(r7, r1), FIX_0_899976223);
    let z2 = mul(add(r5, r3), FIX_2_562915447);
    let z3 = sub(z5, mul(z3, FIX_1_961570560));
    let z4 = sub(z5, mul(z4, FIX_0_390180644));
    let tmp0 = add(sub(mul(r7, FIX_0_298631336), z1), z3);
    let tmp1 = add(sub(mul(r5, FIX_2_053119869), z2), z4);
    let tmp2 = add(sub(mul(r3, FIX_3_072711026), z2), z3);
    let tmp3 = add(sub(mul(r1, FIX_1_501321110), z1), z4);

    *rows = [
        descale::<BITS>(add(tmp10, tmp3)),
        descale::<BITS>(add(tmp11, tmp2)),
        descale::<BITS>(add(tmp12, tmp1)),
        descale::<BITS>(add(tmp13, tmp0)),
        descale::<BITS>(sub(tmp13, tmp0)),
        descale::<BITS>(sub(tmp12, tmp1)),
        descale::<BITS>(sub(tmp11, tmp2)),
        descale::<BITS>(sub(tmp10, tmp3)),
    ];
}
