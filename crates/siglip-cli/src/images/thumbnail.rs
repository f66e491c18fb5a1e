//! Small pictures for reports.

use jpeg_encoder::{ColorType, Encoder};
use siglip::image::{ImageInfo, ImageProcessor, Options};
use siglip::preprocessor::{PreprocessorConfig, Resample};

/// A JPEG file of the image `bytes` with no side longer than `side`, as the model sees it: without alpha.
pub(super) fn jpeg(bytes: &[u8], info: &ImageInfo, side: usize) -> Option<Vec<u8>> {
    let longest = info.width.max(info.height).max(1);
    let scaled = |length: usize| (length * side.min(longest) / longest).max(1);
    let size = (scaled(info.height), scaled(info.width));
    let config = PreprocessorConfig {
        size: Some(size),
        resample: Resample::Bicubic,
        rescale_factor: None,
        normalize: None,
    };
    let processor = ImageProcessor::with_size(&config, size, Options::default()).ok()?;
    let (_, pixels) = processor.resize_rgb8(bytes).ok()?;
    let mut file = Vec::new();
    let (height, width) = (u16::try_from(size.0).ok()?, u16::try_from(size.1).ok()?);
    Encoder::new(&mut file, 80).encode(&pixels, width, height, ColorType::Rgb).ok()?;
    Some(file)
}
