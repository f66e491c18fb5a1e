//! BMP, read here and not by a crate: the common ones round colours of 5 and 6 bits where Pillow cuts them off.

use super::decode::Rgb8;
use super::{Format, ImageError, Limits};

const TRUNCATED: ImageError = ImageError::Truncated { format: Format::Bmp };

/// The values of the header's compression field that are read.
const RAW: u32 = 0;
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BIT_FIELDS: u32 = 3;

/// What the headers say.
struct Header {
    width: usize,
    height: usize,
    /// Whether the first row is the top one; mostly it is the bottom one.
    top_down: bool,
    bits: u16,
    compression: u32,
    /// Where red, green and blue lie in a pixel of 16 or 32 bits.
    masks: [u32; 3],
    palette: Vec<[u8; 3]>,
    /// Where the pixels begin.
    start: usize,
}

/// Decodes a BMP file.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let header = Header::parse(bytes, limits)?;
    let Header { width, height, bits, compression, .. } = header;
    let data = bytes.get(header.start..).ok_or(TRUNCATED)?;
    let stride = (width * usize::from(bits)).div_ceil(32) * 4;
    let indices;
    let (data, stride, bits) = if compression == RLE8 || compression == RLE4 {
        indices = run_lengths(data, width, height, compression == RLE4);
        (&indices[..], width, 8)
    } else {
        (data, stride, bits)
    };
    // The padding of the last row may be missing.
    let row_length = (width * usize::from(bits)).div_ceil(8);
    if data.len() < stride * (height - 1) + row_length {
        return Err(TRUNCATED);
    }
    let mut image = Rgb8::with_room(width, height);
    for row in 0..height {
        let row = if header.top_down { row } else { height - 1 - row };
        let row = data.get(row * stride..row * stride + row_length).ok_or(TRUNCATED)?;
        header.expand(row, bits, &mut image.pixels)?;
    }
    Ok(image)
}

fn unread(what: String) -> ImageError {
    ImageError::Unread { format: Format::Bmp, what }
}

impl Header {
    fn parse(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
        let short = |at: usize| bytes.get(at..)?.first_chunk().map(|two| u16::from_le_bytes(*two));
        let long = |at: usize| bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four));
        let start = long(10).ok_or(TRUNCATED)? as usize;
        let length = long(14).ok_or(TRUNCATED)?;
        // OS/2's header has 16-bit fields and a palette of three bytes an entry.
        let old = length == 12;
        if !old && length < 40 {
            return Err(unread(format!("a header of {length} bytes")));
        }
        let (width, height, bits) = if old {
            let side = |at| short(at).map(u32::from);
            (side(18).ok_or(TRUNCATED)?, side(20).ok_or(TRUNCATED)? as i32, short(24).ok_or(TRUNCATED)?)
        } else {
            (long(18).ok_or(TRUNCATED)?, long(22).ok_or(TRUNCATED)? as i32, short(28).ok_or(TRUNCATED)?)
        };
        limits.check_size(width.into(), height.unsigned_abs().into())?;
        let compression = if old { RAW } else { long(30).ok_or(TRUNCATED)? };
        let fits = match compression {
            RAW => matches!(bits, 1 | 4 | 8 | 16 | 24 | 32),
            RLE8 => bits == 8,
            RLE4 => bits == 4,
            BIT_FIELDS => matches!(bits, 16 | 32),
            _ => false,
        };
        if !fits {
            return Err(unread(format!("pixels of {bits} bits with compression {compression}")));
        }
        let end_of_header = 14 + length as usize;
        let masks = match (compression, bits) {
            // They follow a short header, and are part of a long one: in the same place.
            (BIT_FIELDS, _) => {
                [long(54).ok_or(TRUNCATED)?, long(58).ok_or(TRUNCATED)?, long(62).ok_or(TRUNCATED)?]
            }
            (_, 16) => [0x7C00, 0x03E0, 0x001F],
            _ => [0x00FF_0000, 0x0000_FF00, 0x0000_00FF],
        };
        let entry = if old { 3 } else { 4 };
        let count = match if old { 0 } else { long(46).ok_or(TRUNCATED)? } {
            _ if bits > 8 => 0,
            0 => 1 << bits,
            stated => (stated as usize).min(256),
        };
        let palette = bytes.get(end_of_header..).unwrap_or_default().chunks_exact(entry).take(count);
        let palette = palette.filter_map(|entry| entry.first_chunk()).map(|&[b, g, r]| [r, g, b]).collect();
        Ok(Header {
            width: width as usize,
            height: height.unsigned_abs() as usize,
            top_down: height < 0,
            bits,
            compression,
            masks,
            palette,
            start,
        })
    }

    /// Appends the RGB pixels of one row.
    fn expand(&self, row: &[u8], bits: u16, out: &mut Vec<u8>) -> Result<(), ImageError> {
        let color = |index: u8| self.palette.get(usize::from(index)).copied().unwrap_or_default();
        match bits {
            1 | 4 => {
                let indices = super::png::unpack(row, bits as u8).take(self.width);
                out.extend(indices.flat_map(color));
            }
            8 => out.extend(row.iter().flat_map(|&index| color(index))),
            24 => out.extend(row.as_chunks::<3>().0.iter().flat_map(|&[b, g, r]| [r, g, b])),
            16 => {
                let levels = self.masks.map(|mask| (mask.trailing_zeros(), mask.count_ones()));
                if levels.iter().any(|&(shift, count)| shift + count > 16 || count == 0) {
                    return Err(unread(format!("colour masks {:x?}", self.masks)));
                }
                for pixel in row.as_chunks::<2>().0 {
                    let pixel = u32::from(u16::from_le_bytes(*pixel));
                    out.extend(levels.map(|(shift, count)| {
                        let most = (1 << count) - 1;
                        (((pixel >> shift) & most) * 255 / most) as u8
                    }));
                }
            }
            _ => {
                // Masks that are all 0 mean the usual order.
                let usual = [0x00FF_0000, 0x0000_FF00, 0x0000_00FF];
                let masks = if self.masks == [0; 3] { usual } else { self.masks };
                let shifts = masks.map(u32::trailing_zeros);
                if masks.iter().zip(shifts).any(|(&mask, shift)| shift % 8 != 0 || mask.count_ones() != 8) {
                    return Err(unread(format!("colour masks {masks:x?}")));
                }
                for pixel in row.as_chunks::<4>().0 {
                    let pixel = u32::from_le_bytes(*pixel);
                    out.extend(shifts.map(|shift| (pixel >> shift) as u8));
                }
            }
        }
        Ok(())
    }
}

/// Unpacks run-length coded indices, a byte each, rows without padding. What the data leaves out is 0. (Pillow loses
/// the last pixel of 4-bit literals of odd length, and reads jumps wrongly; this follows the format.)
fn run_lengths(data: &[u8], width: usize, height: usize, nibbles: bool) -> Vec<u8> {
    let mut indices = vec![0; width * height];
    let (mut x, mut y) = (0, 0);
    let mut put = |x: &mut usize, y: usize, index: u8| {
        if *x < width && y < height {
            indices[y * width + *x] = index;
        }
        *x += 1;
    };
    // The higher nibble comes first.
    let nibble = |byte: u8, place: usize| if place.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
    let mut rest = data;
    while let [count, value, after @ ..] = rest {
        rest = after;
        let (count, value) = (usize::from(*count), *value);
        match (count, value) {
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => break,
            (0, 2) => {
                let [right, down, after @ ..] = rest else { break };
                (x, y) = (x + usize::from(*right), y + usize::from(*down));
                rest = after;
            }
            (0, literal) => {
                let literal = usize::from(literal);
                let length = if nibbles { literal.div_ceil(2) } else { literal };
                let bytes = rest.get(..length.min(rest.len())).unwrap_or_default();
                if nibbles {
                    let pairs = bytes.iter().flat_map(|&byte| [byte >> 4, byte & 15]);
                    pairs.take(literal).for_each(|index| put(&mut x, y, index));
                } else {
                    bytes.iter().for_each(|&index| put(&mut x, y, index));
                }
                // Literal runs are filled up to an even number of bytes.
                rest = rest.get(length.next_multiple_of(2)..).unwrap_or_default();
            }
            _ if nibbles => (0..count).for_each(|place| put(&mut x, y, nibble(value, place))),
            _ => (0..count).for_each(|_| put(&mut x, y, value)),
        }
        if y >= height {
            break;
        }
    }
    indices
}
