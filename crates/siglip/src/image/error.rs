//! Why an image was refused.

use super::{Format, JpegError};

/// Why an image was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There are no bytes, or none that hold pixels.
    #[error("the image is empty")]
    Empty,
    /// The file is larger than allowed.
    #[error("the image has {found} bytes, but at most {allowed} are allowed")]
    TooManyBytes {
        /// Its length.
        found: usize,
        /// What is allowed.
        allowed: usize,
    },
    /// The first bytes are those of no image format known here.
    #[error("not an image: it begins with `{start}`, but must be JPEG, PNG, WebP, GIF, BMP or TIFF")]
    Unknown {
        /// Its first bytes, what is not ASCII escaped.
        start: String,
    },
    /// An image of a format that is not read.
    #[error("the image is {format}, which is not supported: it must be JPEG, PNG, WebP, GIF, BMP or TIFF")]
    Unsupported {
        /// The format.
        format: &'static str,
    },
    /// An image of a supported format, but of a kind that is not read.
    #[error("the {format} image has {what}, which are not supported")]
    Unread {
        /// The format.
        format: Format,
        /// What it has.
        what: String,
    },
    /// A side is 0.
    #[error("the image is {width} × {height} pixels, but must have at least one")]
    NoPixels {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
    },
    /// More pixels than allowed, by the header.
    #[error("the image is {width} × {height} pixels, but at most {allowed} in all are allowed")]
    TooManyPixels {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// Width × height that is allowed.
        allowed: u64,
    },
    /// A side is longer than allowed, by the header.
    #[error("the image is {width} × {height} pixels, but each side may have at most {allowed}")]
    TooLong {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The longest side that is allowed.
        allowed: u64,
    },
    /// The configuration asks for no resize, and the size is not the model's.
    #[error(
        "the image is {} × {} pixels (height × width), but must be {} × {}: preprocessor_config.json says not to resize",
        .found.0, .found.1, .expected.0, .expected.1
    )]
    Size {
        /// Its height and width.
        found: (usize, usize),
        /// The model's.
        expected: (usize, usize),
    },
    /// The file ends too early.
    #[error("the {format} image is truncated")]
    Truncated {
        /// The format.
        format: Format,
    },
    /// A JPEG file is damaged, or of a kind that is not read.
    #[error("the JPEG image cannot be read: {0}")]
    Jpeg(#[from] JpegError),
    /// A file of another format is damaged, or of a kind that is not read.
    #[error("the {format} image cannot be read: {source}")]
    Decoder {
        /// The format.
        format: Format,
        /// What its decoder says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The place for the result has the wrong length.
    #[error("the output has room for {found} values, but an image has {expected}")]
    Output {
        /// Its length.
        found: usize,
        /// 3 × height × width.
        expected: usize,
    },
}

impl ImageError {
    /// Wraps what the decoder of `format` says.
    pub(super) fn decoder<E: std::error::Error + Send + Sync + 'static>(
        format: Format,
    ) -> impl Fn(E) -> ImageError {
        move |source| ImageError::Decoder { format, source: Box::new(source) }
    }
}
