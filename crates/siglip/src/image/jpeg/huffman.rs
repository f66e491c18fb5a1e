//! Huffman tables.

use super::JpegError;
use super::bits::Bits;

/// How many bits the first look-up takes in; longer codes are rare.
const LOOKUP_BITS: u32 = 10;

/// One table: the codes of a DHT segment, ready for decoding.
pub(super) struct Huffman {
    /// For the next [`LOOKUP_BITS`] bits: length of the code (0: longer than that) and its symbol.
    lookup: Box<[(u8, u8); 1 << LOOKUP_BITS]>,
    /// For each length, the first value of 16 bits that lies past its codes.
    limit: [u32; 17],
    /// For each length, what leads from a code to its place in `symbols`.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// Builds a table from the number of codes of each length 1 to 16, and the symbols in the order of their codes.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Huffman, JpegError> {
        let mut table = Huffman {
            lookup: Box::new([(0, 0); 1 << LOOKUP_BITS]),
            limit: [0; 17],
            offset: [0; 17],
            symbols: symbols.to_vec(),
        };
        let mut code = 0u32;
        let mut used = 0usize;
        for (length, &count) in (1u32..).zip(counts) {
            table.offset[length as usize] = used as i32 - code as i32;
            let next = used + usize::from(count);
            for &symbol in symbols.get(used..next).unwrap_or_default() {
                if code >> length != 0 {
                    return Err(JpegError::HuffmanTable);
                }
                if length <= LOOKUP_BITS {
                    let shift = LOOKUP_BITS - length;
                    let first = (code << shift) as usize;
                    table.lookup[first..first + (1 << shift)].fill((length as u8, symbol));
                }
                code += 1;
            }
            used = next;
            table.limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// The table itself, if each of its symbols may stand for the length of a DC difference: 15 bits at most.
    pub(super) fn for_dc(&self) -> Result<&Huffman, JpegError> {
        if self.symbols.iter().all(|&symbol| symbol <= 15) { Ok(self) } else { Err(JpegError::HuffmanTable) }
    }

    /// Decodes one symbol, after a [`Bits::refill`]. A code that does not exist counts as symbol 0, as in libjpeg.
    #[inline(always)]
    pub(super) fn decode(&self, bits: &mut Bits) -> u8 {
        let (length, symbol) = self.lookup[bits.peek(LOOKUP_BITS) as usize];
        if length != 0 {
            bits.skip(u32::from(length));
            return symbol;
        }
        self.decode_long(bits)
    }

    #[cold]
    fn decode_long(&self, bits: &mut Bits) -> u8 {
        let next = bits.peek(16);
        for length in LOOKUP_BITS + 1..=16 {
            if next < self.limit[length as usize] {
                bits.skip(length);
                let place = (next >> (16 - length)) as i32 + self.offset[length as usize];
                return usize::try_from(place)
                    .ok()
                    .and_then(|place| self.symbols.get(place))
                    .copied()
                    .unwrap_or(0);
            }
        }
        bits.skip(17);
        0
    }
}

/// The signed value that `size` bits stand for.
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    // Without a leading one the value is negative; both cases without a branch.
    let value = bits as i32;
    let negative = (value - (1 << size >> 1)) >> 31;
    value + (negative & (1 - (1 << size)))
}

/// Where the coefficients of a block belong, in the order in which they are coded. What a damaged run puts past the
/// end goes to the last place, as in libjpeg.
pub(super) const ZIGZAG: [u8; 80] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];
