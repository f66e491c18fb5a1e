//! PNG: palette, gray, alpha and 16 bits to RGB as Pillow does.

use std::io::Cursor;

use ::png::{BitDepth, ColorType, Decoder, Transformations};

use super::decode::Rgb8;
use super::{Format, ImageError, Limits};

/// Decodes a PNG file; of an animated one, the default image.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let failed = ImageError::decoder(Format::Png);
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), ::png::Limits { bytes: limits.max_bytes });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(&failed)?;
    limits.check_size(header.width.into(), header.height.into())?;
    let mut reader = decoder.read_info().map_err(&failed)?;
    let size = reader.output_buffer_size().ok_or(ImageError::Empty)?;
    let mut raw = vec![0; size];
    let frame = reader.next_frame(&mut raw).map_err(&failed)?;

    let (width, height) = (frame.width as usize, frame.height as usize);
    let mut image = Rgb8::with_room(width, height);
    let palette = palette(reader.info().palette.as_deref().unwrap_or_default());
    for row in raw.chunks_exact(frame.line_size.max(1)).take(height) {
        expand(row, width, frame.color_type, frame.bit_depth, &palette, &mut image.pixels);
    }
    Ok(image)
}

/// All 256 colours of a palette; those that the file does not give are black.
fn palette(colors: &[u8]) -> [[u8; 3]; 256] {
    let mut palette = [[0; 3]; 256];
    for (entry, color) in palette.iter_mut().zip(colors.as_chunks::<3>().0) {
        *entry = *color;
    }
    palette
}

/// Appends the RGB pixels of one row.
///
/// Alpha is dropped. Of 16 bits a colour keeps the upper 8, but gray is cut off at 255: Pillow keeps 16-bit gray in
/// a mode of its own (`I;16`), from which it converts that way.
fn expand(
    row: &[u8],
    width: usize,
    color: ColorType,
    depth: BitDepth,
    palette: &[[u8; 3]; 256],
    out: &mut Vec<u8>,
) {
    let samples = row.iter().copied();
    let (pairs, triples) = (row.as_chunks::<2>().0, row.as_chunks::<3>().0);
    let (quads, sixes, eights) = (row.as_chunks::<4>().0, row.as_chunks::<6>().0, row.as_chunks::<8>().0);
    match (color, depth) {
        (ColorType::Rgb, BitDepth::Sixteen) => {
            out.extend(sixes.iter().flat_map(|&[r, _, g, _, b, _]| [r, g, b]))
        }
        (ColorType::Rgb, _) => out.extend_from_slice(triples.as_flattened()),
        (ColorType::Rgba, BitDepth::Sixteen) => {
            out.extend(eights.iter().flat_map(|&[r, _, g, _, b, _, _, _]| [r, g, b]));
        }
        (ColorType::Rgba, _) => out.extend(quads.iter().flat_map(|&[r, g, b, _]| [r, g, b])),
        (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => {
            out.extend(quads.iter().flat_map(|&[gray, ..]| [gray; 3]));
        }
        (ColorType::GrayscaleAlpha, _) => out.extend(pairs.iter().flat_map(|&[gray, _]| [gray; 3])),
        (ColorType::Grayscale, BitDepth::Sixteen) => {
            out.extend(pairs.iter().flat_map(|&[high, low]| [if high == 0 { low } else { 255 }; 3]))
        }
        (ColorType::Grayscale, BitDepth::Eight) => out.extend(samples.flat_map(|gray| [gray; 3])),
        (ColorType::Indexed, BitDepth::Eight | BitDepth::Sixteen) => {
            out.extend(samples.flat_map(|index| palette[usize::from(index)]));
        }
        (ColorType::Grayscale, _) => {
            let scale = 255 / ((1u16 << depth as u8) - 1) as u8;
            out.extend(unpack(row, depth as u8).take(width).flat_map(|gray| [gray * scale; 3]));
        }
        (ColorType::Indexed, _) => {
            out.extend(unpack(row, depth as u8).take(width).flat_map(|index| palette[usize::from(index)]));
        }
    }
}

/// Samples of 1, 2 or 4 bits, the first in the highest place.
pub(super) fn unpack(row: &[u8], bits: u8) -> impl Iterator<Item = u8> {
    let bits = bits.clamp(1, 7);
    row.iter().flat_map(move |&byte| {
        (0..8 / bits).map(move |place| byte >> (8 - bits * (place + 1)) & ((1 << bits) - 1))
    })
}
