//! TIFF: the first page, to RGB as Pillow does.

use std::borrow::Cow;
use std::io::Cursor;

use ::tiff::ColorType;
use ::tiff::decoder::{Decoder, DecodingResult};
use ::tiff::tags::Tag;

use super::decode::Rgb8;
use super::{Format, ImageError, Limits, jpeg, png};

/// The tag's value for alpha with which the colours have been multiplied.
const ASSOCIATED_ALPHA: u16 = 1;
/// The tag's value for one plane after the other.
const PLANAR: u16 = 2;

/// Decodes the first page of a TIFF file.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let failed = ImageError::decoder(Format::Tiff);
    let (bytes, has_palette) = without_palette(bytes);
    let mut decoder = Decoder::new(Cursor::new(bytes.as_ref())).map_err(&failed)?;
    let (width, height) = decoder.dimensions().map_err(&failed)?;
    limits.check_size(width.into(), height.into())?;
    let mut own_limits = ::tiff::decoder::Limits::default();
    // Eight bytes a pixel: RGBA of 16 bits.
    own_limits.decoding_buffer_size =
        usize::try_from(limits.max_pixels.saturating_mul(8)).unwrap_or(usize::MAX);
    own_limits.intermediate_buffer_size = own_limits.decoding_buffer_size;
    let mut decoder = decoder.with_limits(own_limits);
    let color = decoder.colortype().map_err(&failed)?;
    let tag = |decoder: &mut Decoder<_>, tag| decoder.find_tag_unsigned::<u16>(tag).ok().flatten();
    let planar = tag(&mut decoder, Tag::PlanarConfiguration) == Some(PLANAR);
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).ok().flatten().unwrap_or_default();
    let multiplied = extra.first() == Some(&ASSOCIATED_ALPHA);
    let palette =
        if has_palette { decoder.get_tag_u16_vec(Tag::ColorMap).map_err(&failed)? } else { Vec::new() };
    let color = match color {
        ColorType::Gray(depth) if has_palette => ColorType::Palette(depth),
        // Gray and alpha, when the alpha is of no stated kind.
        ColorType::Multiband { bit_depth, num_samples: 2 } => ColorType::GrayA(bit_depth),
        color => color,
    };
    let mut samples = DecodingResult::U8(Vec::new());
    decoder.read_image_to_buffer(&mut samples).map_err(&failed)?;

    let (width, height) = (width as usize, height as usize);
    let unread =
        || ImageError::Unread { format: Format::Tiff, what: format!("pixels of the kind {color:?}") };
    let (count, depth) = match color {
        ColorType::Gray(depth) | ColorType::Palette(depth) => (1, depth),
        ColorType::GrayA(depth) => (2, depth),
        ColorType::RGB(depth) => (3, depth),
        ColorType::RGBA(depth) | ColorType::CMYK(depth) => (4, depth),
        _ => return Err(unread()),
    };
    let bytes = match (samples, color) {
        (DecodingResult::U8(packed), _) if depth < 8 && count == 1 => packed
            .chunks_exact((width * usize::from(depth)).div_ceil(8))
            .flat_map(|row| png::unpack(row, depth).take(width))
            .collect(),
        (DecodingResult::U8(bytes), _) if depth == 8 => bytes,
        // Gray of more than 8 bits is cut off at 0 and 255; of colours the upper 8 bits are kept.
        (DecodingResult::U16(gray), ColorType::Gray(16)) => {
            gray.iter().map(|&gray| gray.min(255) as u8).collect()
        }
        (DecodingResult::I16(gray), ColorType::Gray(16)) => {
            gray.iter().map(|&gray| gray.clamp(0, 255) as u8).collect()
        }
        (DecodingResult::U32(gray), ColorType::Gray(32)) => {
            // Pillow holds them as signed numbers.
            gray.iter().map(|&gray| (gray as i32).clamp(0, 255) as u8).collect()
        }
        (DecodingResult::I32(gray), ColorType::Gray(32)) => {
            gray.iter().map(|&gray| gray.clamp(0, 255) as u8).collect()
        }
        (DecodingResult::F32(gray), ColorType::Gray(32)) => gray.iter().map(|&gray| gray as u8).collect(),
        (DecodingResult::U16(colors), _) => colors.iter().map(|&sample| (sample >> 8) as u8).collect(),
        _ => return Err(unread()),
    };
    if bytes.len() < width * height * count {
        return Err(ImageError::Truncated { format: Format::Tiff });
    }
    let bytes = if planar && count > 1 { interleave(&bytes, width * height) } else { bytes };

    let mut image = Rgb8::with_room(width, height);
    let out = &mut image.pixels;
    let quads = bytes.as_chunks::<4>().0.iter();
    match color {
        ColorType::Gray(_) => {
            let scale = if depth < 8 { 255 / ((1u16 << depth) - 1) as u8 } else { 1 };
            out.extend(bytes.iter().flat_map(|gray| [gray * scale; 3]));
        }
        ColorType::Palette(_) => {
            // All reds, then all greens, then all blues, 16 bits each.
            let third = palette.len() / 3;
            let level = |channel: usize, index: u8| {
                palette.get(channel * third + usize::from(index)).map_or(0, |level| (level >> 8) as u8)
            };
            out.extend(bytes.iter().flat_map(|&index| [0, 1, 2].map(|channel| level(channel, index))));
        }
        ColorType::GrayA(_) => out.extend(bytes.as_chunks::<2>().0.iter().flat_map(|&[gray, _]| [gray; 3])),
        ColorType::RGBA(_) if multiplied => out.extend(quads.flat_map(|&[r, g, b, alpha]| {
            // Pillow divides the alpha out again.
            [r, g, b].map(|color| {
                if alpha == 0 { 0 } else { (u32::from(color) * 255 / u32::from(alpha)).min(255) as u8 }
            })
        })),
        ColorType::RGBA(_) => out.extend(quads.flat_map(|&[r, g, b, _]| [r, g, b])),
        ColorType::CMYK(_) => out.extend(quads.flat_map(|&[c, m, y, k]| jpeg::rgb_of_inks([c, m, y], k))),
        _ => image.pixels = bytes,
    }
    image.pixels.truncate(width * height * 3);
    Ok(image)
}

/// The file as one whose indices into a palette are called gray, and whether it has a palette: the decoder reads
/// them only under that name.
fn without_palette(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    const PHOTOMETRIC: u16 = 0x0106;
    const PALETTE: u16 = 3;
    const GRAY: u16 = 1;
    match directory_entry(bytes, PHOTOMETRIC) {
        Some(Entry { value: PALETTE, at, little }) => {
            let mut bytes = bytes.to_vec();
            if let Some(value) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *value = if little { GRAY.to_le_bytes() } else { GRAY.to_be_bytes() };
            }
            (Cow::Owned(bytes), true)
        }
        _ => (Cow::Borrowed(bytes), false),
    }
}

/// An entry of a directory whose value is one 16-bit number.
pub(super) struct Entry {
    pub(super) value: u16,
    /// Where the value stands.
    at: usize,
    /// Whether its lower byte comes first.
    little: bool,
}

/// Looks up an entry in the first directory of TIFF data.
pub(super) fn directory_entry(tiff: &[u8], tag: u16) -> Option<Entry> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let two = *tiff.get(at..)?.first_chunk::<2>()?;
        Some(if little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    };
    let long = |at: usize| {
        let four = *tiff.get(at..)?.first_chunk::<4>()?;
        Some((if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) }) as usize)
    };
    let directory = long(4)?;
    let entries = usize::from(short(directory)?);
    let mut places = (0..entries).map(|entry| directory.saturating_add(2 + entry * 12));
    let at = places.find(|&at| short(at) == Some(tag))?.saturating_add(8);
    Some(Entry { value: short(at)?, at, little })
}

/// Turns planes of `pixels` samples each into pixels.
fn interleave(planes: &[u8], pixels: usize) -> Vec<u8> {
    let count = planes.len() / pixels;
    let sample = |pixel: usize, plane: usize| planes.get(plane * pixels + pixel).copied().unwrap_or(0);
    (0..pixels).flat_map(|pixel| (0..count).map(move |plane| sample(pixel, plane))).collect()
}
