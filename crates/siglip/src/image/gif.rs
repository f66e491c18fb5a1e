//! GIF: the first frame, on the canvas that Pillow gives it.

use std::io::Cursor;
use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, MemoryLimit};

use super::decode::Rgb8;
use super::{Format, ImageError, Limits};

/// Decodes the first frame of a GIF file.
///
/// Where the frame leaves the canvas free, Pillow has the transparent colour's index, or else index 0.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let failed = ImageError::decoder(Format::Gif);
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    if let Some(limit) = NonZeroU64::new(limits.max_pixels) {
        options.set_memory_limit(MemoryLimit::Bytes(limit));
    }
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(&failed)?;
    let screen = (decoder.width(), decoder.height());
    let frame =
        decoder.next_frame_info().map_err(&failed)?.ok_or(ImageError::Truncated { format: Format::Gif })?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let background = frame.transparent.unwrap_or(0);
    let local_palette = frame.palette.clone();
    // A frame that reaches past the screen enlarges it.
    let width = usize::from(screen.0).max(left + frame_width);
    let height = usize::from(screen.1).max(top + frame_height);
    limits.check_size(width as u64, height as u64)?;

    let mut indices = vec![0; decoder.buffer_size()];
    if !indices.is_empty() {
        decoder.read_into_buffer(&mut indices).map_err(&failed)?;
    }
    // Indices past the palette are gray levels, as in Pillow, whose palettes begin as a ramp.
    let mut palette: [[u8; 3]; 256] = std::array::from_fn(|index| [index as u8; 3]);
    let colors = local_palette.as_deref().or(decoder.global_palette()).unwrap_or_default();
    for (entry, color) in palette.iter_mut().zip(colors.as_chunks::<3>().0) {
        *entry = *color;
    }
    let canvas = vec![palette[usize::from(background)]; width * height];
    let mut pixels = canvas.into_flattened();
    if frame_width > 0 {
        let rows = pixels.chunks_exact_mut(width * 3).skip(top);
        for (row, indices) in rows.zip(indices.chunks_exact(frame_width)) {
            let (row, _) = row.as_chunks_mut::<3>();
            for (pixel, &index) in row.iter_mut().skip(left).zip(indices) {
                *pixel = palette[usize::from(index)];
            }
        }
    }
    Ok(Rgb8 { width, height, pixels })
}
