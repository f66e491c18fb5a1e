//! Exif orientation: how the camera was held.
//!
//! The original does not apply it, so neither do we unless told to. What it does then is Pillow's
//! `ImageOps.exif_transpose`.

use super::Format;
use super::decode::Rgb8;
use super::tiff::directory_entry;

/// The orientation (1 to 8) that the file states; 1, upright, if it states none or nothing sensible.
pub(super) fn find(bytes: &[u8], format: Format) -> u8 {
    let tiff = match format {
        Format::Jpeg => in_jpeg(bytes),
        Format::Png => in_png(bytes),
        Format::WebP => in_webp(bytes),
        Format::Tiff => Some(bytes),
        Format::Gif | Format::Bmp => None,
    };
    tiff.and_then(in_tiff).filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

fn in_jpeg(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(2..)?;
    loop {
        let &[0xFF, marker, high, low, ..] = rest else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let segment = rest.get(4..2 + length)?;
        match (marker, segment.strip_prefix(b"Exif\0\0")) {
            (0xE1, Some(exif)) => return Some(exif),
            (0xDA, _) => return None,
            _ => rest = rest.get(2 + length..)?,
        }
    }
}

fn in_png(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        match kind {
            b"eXIf" => return after.get(..length),
            _ => rest = after.get(length.checked_add(4)?..)?,
        }
    }
}

fn in_webp(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(12..)?;
    loop {
        let (kind, after) = rest.split_first_chunk::<4>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        match kind {
            b"EXIF" => {
                let exif = after.get(..length)?;
                return Some(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
            }
            _ => rest = after.get(length.checked_next_multiple_of(2)?..)?,
        }
    }
}

/// The orientation tag of the first directory of TIFF data.
fn in_tiff(tiff: &[u8]) -> Option<u8> {
    const ORIENTATION: u16 = 0x0112;
    directory_entry(tiff, ORIENTATION)?.value.try_into().ok()
}

/// Turns the pixels upright.
pub(super) fn apply(image: Rgb8, orientation: u8) -> Rgb8 {
    let Rgb8 { width, height, pixels } = &image;
    let (width, height) = (*width, *height);
    // For each place of the result, the place that its pixel comes from.
    let source: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation {
        2 => |x, y, width, _| (width - 1 - x, y),
        3 => |x, y, width, height| (width - 1 - x, height - 1 - y),
        4 => |x, y, _, height| (x, height - 1 - y),
        5 => |x, y, _, _| (y, x),
        6 => |x, y, _, height| (y, height - 1 - x),
        7 => |x, y, width, height| (width - 1 - y, height - 1 - x),
        8 => |x, y, width, _| (width - 1 - y, x),
        _ => return image,
    };
    let (new_width, new_height) = if orientation >= 5 { (height, width) } else { (width, height) };
    let (old, _) = pixels.as_chunks::<3>();
    let mut turned = Vec::with_capacity(pixels.len());
    for y in 0..new_height {
        for x in 0..new_width {
            let (from_x, from_y) = source(x, y, width, height);
            turned.extend(old.get(from_y * width + from_x).copied().unwrap_or_default());
        }
    }
    Rgb8 { width: new_width, height: new_height, pixels: turned }
}
