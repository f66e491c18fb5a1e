//! WebP, lossy and lossless; of an animation, the first frame.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::decode::Rgb8;
use super::{Format, ImageError, Limits};

/// Decodes a WebP file.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let failed = ImageError::decoder(Format::WebP);
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(&failed)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width.into(), height.into())?;
    decoder.set_memory_limit(limits.max_bytes);
    let mut raw = vec![0; decoder.output_buffer_size().ok_or(ImageError::Empty)?];
    if decoder.is_animated() {
        decoder.read_frame(&mut raw).map_err(&failed)?;
    } else {
        decoder.read_image(&mut raw).map_err(&failed)?;
    }
    let pixels = if decoder.has_alpha() {
        raw.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect()
    } else {
        raw
    };
    Ok(Rgb8 { width: width as usize, height: height as usize, pixels })
}
