//! Image preparation: the bytes of an image file → RGB → resized as Pillow does → normalised values.
//!
//! The pixels are those that SigLIP's processor makes on Pillow 10.4 to 11.3: decoded and converted as
//! `Image.open(…).convert("RGB")` does (alpha is dropped, not blended; Exif orientation is not applied), resized to
//! exactly height × width without a crop, antialiased, on 8-bit pixels. Formats: JPEG, PNG, WebP, GIF, BMP, TIFF; of
//! files with several images, the first.
//!
//! ```
//! # use siglip::image::{ImageProcessor, Options};
//! # use siglip::preprocessor::{PreprocessorConfig, Resample};
//! # fn run(bytes: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let config = PreprocessorConfig::from_json(br#"{"size": {"height": 384, "width": 384}}"#)?;
//! let processor = ImageProcessor::with_size(&config, (384, 384), Options::default())?;
//! let mut pixel_values = vec![0.0; processor.output_len()];
//! let info = processor.process(bytes, &mut pixel_values)?;
//! println!("{} of {} × {} pixels", info.format, info.width, info.height);
//! # Ok(()) }
//! ```

mod base64;
mod bmp;
mod bytes;
mod decode;
mod error;
mod gif;
mod jpeg;
mod orientation;
mod png;
mod resize;
mod tiff;
mod webp;

use std::fmt;

pub use self::base64::{Base64Error, decode_base64};
use self::decode::Rgb8;
pub use self::error::ImageError;
pub use self::jpeg::JpegError;
use crate::config::VisionConfig;
use crate::preprocessor::{Normalize, PreprocessorConfig, PreprocessorError, Resample};

/// What an image may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Width × height at most. The header is held against it before memory is taken: decoding takes 3 to 9 bytes a
    /// pixel.
    pub max_pixels: u64,
    /// Width and height at most. A row of pixels that is very long and low, or a column, takes little memory itself, but
    /// a great deal while it is resized: there every row has the width of the result.
    pub max_side: u64,
    /// Bytes of the file at most.
    pub max_bytes: usize,
}

impl Default for Limits {
    /// 64 Mi pixels, which is less than Pillow's own bound of 170 Mi, no side beyond 65,535, which is as far as JPEG
    /// goes, and 64 MiB.
    fn default() -> Limits {
        Limits { max_pixels: 64 << 20, max_side: u16::MAX.into(), max_bytes: 64 << 20 }
    }
}

impl Limits {
    /// Checks the size that a header states.
    fn check_size(&self, width: u64, height: u64) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { width, height });
        }
        if width.saturating_mul(height) > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, allowed: self.max_pixels });
        }
        if width.max(height) > self.max_side {
            return Err(ImageError::TooLong { width, height, allowed: self.max_side });
        }
        Ok(())
    }
}

/// How images are prepared, beyond what `preprocessor_config.json` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What an image may cost.
    pub limits: Limits,
    /// Whether to turn images upright as their Exif data says. The original does not.
    pub apply_exif_orientation: bool,
}

/// The format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP.
    WebP,
    /// GIF.
    Gif,
    /// BMP.
    Bmp,
    /// TIFF.
    Tiff,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
            Format::Tiff => "TIFF",
        })
    }
}

/// What an image was before it was resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Width in pixels, after turning it upright if that was asked for.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The file's format.
    pub format: Format,
}

/// Turns image files into the vision tower's pixel values.
#[derive(Clone, Debug)]
pub struct ImageProcessor {
    /// Of the result, in pixels.
    width: usize,
    height: usize,
    /// The filter; none if images must have the right size already.
    resample: Option<Resample>,
    options: Options,
    /// For each channel, the value of each 8-bit level.
    values: Box<[[f32; 256]; 3]>,
}

impl ImageProcessor {
    /// Prepares images for the vision tower of `vision`.
    ///
    /// # Errors
    ///
    /// [`PreprocessorError::Field`], if `config` does not fit the tower, or the tower does not take RGB.
    pub fn new(
        config: &PreprocessorConfig,
        vision: &VisionConfig,
        options: Options,
    ) -> Result<ImageProcessor, PreprocessorError> {
        config.check(vision)?;
        if vision.num_channels != 3 {
            return Err(PreprocessorError::Field {
                field: "num_channels",
                found: vision.num_channels.to_string(),
                allowed: "3, for red, green and blue".to_owned(),
            });
        }
        Self::with_size(config, (vision.image_size, vision.image_size), options)
    }

    /// Prepares images to be `size` (height, width), whatever size `config` states.
    ///
    /// # Errors
    ///
    /// [`PreprocessorError::Field`], if a side of `size` is 0 or beyond 65,535, or the normalisation is not of three
    /// channels.
    pub fn with_size(
        config: &PreprocessorConfig,
        size: (usize, usize),
        options: Options,
    ) -> Result<ImageProcessor, PreprocessorError> {
        let (height, width) = size;
        let sides = 1..=usize::from(u16::MAX);
        if !sides.contains(&height) || !sides.contains(&width) {
            return Err(PreprocessorError::Field {
                field: "size",
                found: format!("{height} × {width}"),
                allowed: format!("from {} to {} on each side", sides.start(), sides.end()),
            });
        }
        Ok(ImageProcessor {
            width,
            height,
            resample: config.size.map(|_| config.resample),
            options,
            values: Box::new(values(config)?),
        })
    }

    /// The number of values of one image: 3 × height × width.
    pub fn output_len(&self) -> usize {
        3 * self.height * self.width
    }

    /// The size of the result: height and width in pixels.
    pub fn output_size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Prepares the image file `bytes`: writes its pixel values to `out`, `[3, height, width]`.
    ///
    /// # Errors
    ///
    /// [`ImageError`], if the bytes are not an image that can be read whole, or one beyond the limits, or `out` has
    /// not the length [`ImageProcessor::output_len`]. What `out` holds then is not changed.
    pub fn process(&self, bytes: &[u8], out: &mut [f32]) -> Result<ImageInfo, ImageError> {
        if out.len() != self.output_len() {
            return Err(ImageError::Output { found: out.len(), expected: self.output_len() });
        }
        let (info, pixels) = self.resize_rgb8(bytes)?;
        let (pixels, _) = pixels.as_chunks::<3>();
        let planes = out.chunks_exact_mut(self.height * self.width);
        for ((channel, plane), values) in planes.enumerate().zip(self.values.iter()) {
            for (value, pixel) in plane.iter_mut().zip(pixels) {
                *value = values[usize::from(pixel[channel])];
            }
        }
        Ok(info)
    }

    /// The 8-bit pixels before normalisation: `[height, width, 3]`.
    ///
    /// # Errors
    ///
    /// As [`ImageProcessor::process`].
    pub fn resize_rgb8(&self, bytes: &[u8]) -> Result<(ImageInfo, Vec<u8>), ImageError> {
        let (format, mut image) = decode::decode(bytes, &self.options.limits)?;
        if self.options.apply_exif_orientation {
            image = orientation::apply(image, orientation::find(bytes, format));
        }
        let Rgb8 { width, height, pixels } = image;
        let info = ImageInfo { width, height, format };
        let pixels = match self.resample {
            Some(filter) => resize::rgb8(pixels, (width, height), (self.width, self.height), filter),
            None if (height, width) == (self.height, self.width) => pixels,
            None => {
                let (found, expected) = ((height, width), (self.height, self.width));
                return Err(ImageError::Size { found, expected });
            }
        };
        Ok((info, pixels))
    }
}

/// The value of each 8-bit level in each channel: rescaled in double precision, then normalised in single, as the
/// NumPy image processors of `transformers` do.
fn values(config: &PreprocessorConfig) -> Result<[[f32; 256]; 3], PreprocessorError> {
    let (mean, std) = match &config.normalize {
        None => ([0.0; 3], [1.0; 3]),
        Some(Normalize { mean, std }) => match (mean.as_slice().try_into(), std.as_slice().try_into()) {
            (Ok(mean), Ok(std)) => (mean, std),
            _ => {
                return Err(PreprocessorError::Field {
                    field: "image_mean",
                    found: format!("{mean:?}"),
                    allowed: "three numbers, as many as image_std: red, green and blue".to_owned(),
                });
            }
        },
    };
    let factor = config.rescale_factor.unwrap_or(1.0);
    Ok(std::array::from_fn(|channel| {
        let (mean, std): (f64, f64) = (mean[channel], std[channel]);
        std::array::from_fn(|level| ((level as f64 * factor) as f32 - mean as f32) / std as f32)
    }))
}
