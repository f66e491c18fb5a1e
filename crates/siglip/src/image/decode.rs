//! Which format a file has, and its decoder.

use super::{Format, ImageError, Limits, bmp, gif, jpeg, png, tiff, webp};

/// A decoded image: rows from the top, three bytes a pixel, no gaps.
pub(super) struct Rgb8 {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<u8>,
}

impl Rgb8 {
    /// Room for an image; its size has been checked against the limits.
    pub(super) fn with_room(width: usize, height: usize) -> Rgb8 {
        Rgb8 { width, height, pixels: Vec::with_capacity(width * height * 3) }
    }
}

/// Decodes the first image of a file, as Pillow's `Image.open(…).convert("RGB")` does.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(Format, Rgb8), ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes { found: bytes.len(), allowed: limits.max_bytes });
    }
    let format = format_of(bytes)?;
    let image = match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Png => png::decode(bytes, limits),
        Format::WebP => webp::decode(bytes, limits),
        Format::Gif => gif::decode(bytes, limits),
        Format::Bmp => bmp::decode(bytes, limits),
        Format::Tiff => tiff::decode(bytes, limits),
    }?;
    Ok((format, image))
}

/// The format that the first bytes tell.
fn format_of(bytes: &[u8]) -> Result<Format, ImageError> {
    let unsupported = |format| Err(ImageError::Unsupported { format });
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Format::Gif),
        [b'B', b'M', ..] => Ok(Format::Bmp),
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Ok(Format::Tiff),
        [b'I', b'I', b'+', 0, ..] | [b'M', b'M', 0, b'+', ..] => unsupported("BigTIFF"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f' | b's', ..] => unsupported("AVIF"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'h', b'e', ..]
        | [_, _, _, _, b'f', b't', b'y', b'p', b'm', b'i', b'f', b'1', ..] => unsupported("HEIF"),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => unsupported("JPEG 2000"),
        [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] | [0xFF, 0x0A, ..] => unsupported("JPEG XL"),
        [0, 0, 1, 0, ..] => unsupported("ICO"),
        [0, 0, 2, 0, ..] => unsupported("CUR"),
        [b'8', b'B', b'P', b'S', ..] => unsupported("PSD"),
        [b'q', b'o', b'i', b'f', ..] => unsupported("QOI"),
        [b'D', b'D', b'S', b' ', ..] => unsupported("DDS"),
        [b'%', b'P', b'D', b'F', ..] => unsupported("PDF"),
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..] => unsupported("PNM"),
        _ if is_svg(bytes) => unsupported("SVG"),
        _ => {
            let start = bytes.get(..bytes.len().min(8)).unwrap_or_default();
            Err(ImageError::Unknown { start: start.escape_ascii().to_string() })
        }
    }
}

fn is_svg(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let start = text.get(..text.len().min(1024)).unwrap_or_default();
    start.starts_with(b"<svg")
        || (start.starts_with(b"<?xml") && start.windows(4).any(|four| four == b"<svg"))
}
