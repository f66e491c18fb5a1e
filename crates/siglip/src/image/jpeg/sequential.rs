//! Blocks of sequential scans.

use super::bits::Bits;
use super::huffman::{Huffman, ZIGZAG, extend};

/// Decodes one block into `block`, which must be zero. Returns the place, in coding order, of its last coefficient.
#[inline(always)]
pub(super) fn decode_block(
    bits: &mut Bits,
    dc: &Huffman,
    ac: &Huffman,
    predictor: &mut i32,
    block: &mut [i16; 64],
) -> usize {
    bits.refill();
    let size = u32::from(dc.decode(bits));
    *predictor = predictor.wrapping_add(extend(bits.take(size), size));
    block[0] = *predictor as i16;
    let mut place = 1;
    let mut last = 0;
    while place < 64 {
        bits.refill();
        let symbol = ac.decode(bits);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run != 15 {
                break;
            }
            place += 16;
            continue;
        }
        place += run;
        let value = extend(bits.take(size), size);
        block[usize::from(ZIGZAG[place]) & 63] = value as i16;
        last = place;
        place += 1;
    }
    last
}
