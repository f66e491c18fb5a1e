//! Blocks of progressive scans: each scan adds coefficients, or a bit of precision to those that are there.

use super::bits::Bits;
use super::huffman::{Huffman, ZIGZAG, extend};

/// The part of the coefficients that a scan holds.
#[derive(Clone, Copy)]
pub(super) struct Band {
    /// The first and last place in coding order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// The bit that earlier scans stopped at; 0 if this is the band's first scan.
    pub(super) high: u32,
    /// The bit that this scan goes down to.
    pub(super) low: u32,
}

/// The DC coefficient, first scan.
pub(super) fn dc_first(bits: &mut Bits, dc: &Huffman, low: u32, predictor: &mut i32, block: &mut [i16; 64]) {
    bits.refill();
    let size = u32::from(dc.decode(bits));
    *predictor = predictor.wrapping_add(extend(bits.take(size), size));
    block[0] = predictor.wrapping_shl(low) as i16;
}

/// One more bit of the DC coefficient.
pub(super) fn dc_refine(bits: &mut Bits, low: u32, block: &mut [i16; 64]) {
    if bits.take_one() {
        block[0] |= (1i32 << low) as i16;
    }
}

/// The band's coefficients, first scan. `blocks_to_skip` counts the following blocks that have none.
pub(super) fn ac_first(
    bits: &mut Bits,
    ac: &Huffman,
    band: Band,
    blocks_to_skip: &mut u32,
    block: &mut [i16; 64],
) {
    if *blocks_to_skip > 0 {
        *blocks_to_skip -= 1;
        return;
    }
    let mut place = band.first;
    while place <= band.last {
        bits.refill();
        let symbol = ac.decode(bits);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size != 0 {
            place += run;
            let value = extend(bits.take(size), size);
            block[usize::from(ZIGZAG[place]) & 63] = value.wrapping_shl(band.low) as i16;
            place += 1;
        } else if run == 15 {
            place += 16;
        } else {
            *blocks_to_skip = (1 << run) - 1 + bits.take(run as u32);
            break;
        }
    }
}

/// One more bit of the band's coefficients: those that are there get a correction bit each as they are passed, new
/// ones are put between them.
pub(super) fn ac_refine(
    bits: &mut Bits,
    ac: &Huffman,
    band: Band,
    blocks_to_skip: &mut u32,
    block: &mut [i16; 64],
) {
    let (plus, minus) = ((1i32 << band.low) as i16, (-1i32 << band.low) as i16);
    let mut place = band.first;
    if *blocks_to_skip == 0 {
        while place <= band.last {
            bits.refill();
            let symbol = ac.decode(bits);
            let (mut run, size) = (symbol >> 4, symbol & 15);
            let mut value = 0;
            if size != 0 {
                // Anything but one bit is damage; libjpeg carries on as if it were one.
                value = if bits.take_one() { plus } else { minus };
            } else if run != 15 {
                *blocks_to_skip = (1 << run) + bits.take(u32::from(run));
                break;
            }
            while place <= band.last {
                let coefficient = &mut block[usize::from(ZIGZAG[place]) & 63];
                if *coefficient != 0 {
                    correct(bits, coefficient, plus, minus);
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                place += 1;
            }
            if value != 0 {
                block[usize::from(ZIGZAG[place]) & 63] = value;
            }
            place += 1;
        }
    }
    if *blocks_to_skip > 0 {
        while place <= band.last {
            let coefficient = &mut block[usize::from(ZIGZAG[place]) & 63];
            if *coefficient != 0 {
                correct(bits, coefficient, plus, minus);
            }
            place += 1;
        }
        *blocks_to_skip -= 1;
    }
}

#[inline(always)]
fn correct(bits: &mut Bits, coefficient: &mut i16, plus: i16, minus: i16) {
    if bits.take_one() && *coefficient & plus == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient >= 0 { plus } else { minus });
    }
}
