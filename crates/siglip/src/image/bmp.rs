//! BMP.

use std::io::Cursor;

use ::image::codecs::bmp::BmpDecoder;
use ::image::{ColorType, ImageDecoder};

use super::decode::Rgb8;
use super::{Format, ImageError, Limits};

/// Decodes a BMP file.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let failed = ImageError::decoder(Format::Bmp);
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(&failed)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width.into(), height.into())?;
    let (width, height) = (width as usize, height as usize);
    let color = decoder.color_type();
    let mut raw = vec![0; width * height * usize::from(color.bytes_per_pixel())];
    decoder.read_image(&mut raw).map_err(&failed)?;
    let pixels = match color {
        ColorType::Rgb8 => raw,
        ColorType::Rgba8 => raw.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
        ColorType::L8 => raw.into_iter().flat_map(|gray| [gray; 3]).collect(),
        other => {
            return Err(ImageError::Unread {
                format: Format::Bmp,
                what: format!("pixels of the kind {other:?}"),
            });
        }
    };
    Ok(Rgb8 { width, height, pixels })
}
