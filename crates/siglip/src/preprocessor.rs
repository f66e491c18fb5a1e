//! How an image becomes pixel values, read from the Hub's `preprocessor_config.json`.
//!
//! Defaults are those of `transformers`' `SiglipImageProcessor`.

use serde::Deserialize;

use crate::config::VisionConfig;

/// What `preprocessor_config.json` says: resize to exactly this size, rescale, normalise.
#[derive(Clone, Debug, PartialEq)]
pub struct PreprocessorConfig {
    /// Height and width in pixels, if images are resized.
    pub size: Option<(usize, usize)>,
    /// The filter of the resize.
    pub resample: Resample,
    /// The factor on 8-bit values, if there is one: 1/255.
    pub rescale_factor: Option<f64>,
    /// What is subtracted from each channel, and what it is then divided by, if images are normalised.
    pub normalize: Option<Normalize>,
}

/// A normalisation, channel by channel: `(value − mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    /// The mean of each channel.
    pub mean: Vec<f64>,
    /// The standard deviation of each channel.
    pub std: Vec<f64>,
}

/// The filter with which an image is resized; the numbers in the file are Pillow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resample {
    /// Pillow's 2, which SigLIP 2 uses.
    Bilinear,
    /// Pillow's 3, which SigLIP 1 uses.
    Bicubic,
}

impl PreprocessorConfig {
    /// Reads the bytes of a `preprocessor_config.json`.
    ///
    /// # Errors
    ///
    /// [`PreprocessorError`], if it is not JSON of this form or asks for something that is not supported.
    pub fn from_json(bytes: &[u8]) -> Result<PreprocessorConfig, PreprocessorError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(PreprocessorError::Json)?;
        let resample = match raw.resample.unwrap_or(3) {
            2 => Resample::Bilinear,
            3 => Resample::Bicubic,
            found => {
                return Err(PreprocessorError::Field {
                    field: "resample",
                    found: found.to_string(),
                    allowed: "2 (bilinear) or 3 (bicubic)".to_owned(),
                });
            }
        };
        let normalize = raw.do_normalize.unwrap_or(true).then(|| Normalize {
            mean: raw.image_mean.unwrap_or_else(|| vec![0.5; 3]),
            std: raw.image_std.unwrap_or_else(|| vec![0.5; 3]),
        });
        if let Some(Normalize { mean, std }) = &normalize
            && (mean.is_empty() || mean.len() != std.len() || std.contains(&0.0))
        {
            let allowed = format!("one number for each of image_mean, {}, none of them 0", mean.len());
            return Err(PreprocessorError::Field { field: "image_std", found: format!("{std:?}"), allowed });
        }
        let size = raw.size.unwrap_or(Size { height: 224, width: 224 });
        Ok(PreprocessorConfig {
            size: raw.do_resize.unwrap_or(true).then_some((size.height, size.width)),
            resample,
            rescale_factor: raw.do_rescale.unwrap_or(true).then(|| raw.rescale_factor.unwrap_or(1.0 / 255.0)),
            normalize,
        })
    }

    /// Checks that it makes pixel values that the vision tower takes.
    ///
    /// # Errors
    ///
    /// [`PreprocessorError::Field`], if it does not.
    pub fn check(&self, vision: &VisionConfig) -> Result<(), PreprocessorError> {
        let side = vision.image_size;
        if self.size.is_some_and(|size| size != (side, side)) {
            let (height, width) = self.size.unwrap_or_default();
            return Err(PreprocessorError::Field {
                field: "size",
                found: format!("{height} × {width}"),
                allowed: format!("the model's image_size, {side} × {side}"),
            });
        }
        if let Some(Normalize { mean, .. }) = &self.normalize
            && mean.len() != vision.num_channels
        {
            return Err(PreprocessorError::Field {
                field: "image_mean",
                found: format!("{mean:?}"),
                allowed: format!("one number for each of the model's num_channels, {}", vision.num_channels),
            });
        }
        Ok(())
    }
}

/// Why a `preprocessor_config.json` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessorError {
    /// The file is not JSON, or not of this form.
    #[error("preprocessor_config.json is not valid: {0}")]
    Json(serde_json::Error),
    /// A field holds something that is not allowed.
    #[error("preprocessor_config.json: `{field}` is {found}, but must be {allowed}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it may hold.
        allowed: String,
    },
}

/// The fields that matter, as they stand in the file. Each may be absent or `null`.
#[derive(Deserialize)]
struct Raw {
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<u32>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Vec<f64>>,
    image_std: Option<Vec<f64>>,
}

#[derive(Deserialize)]
struct Size {
    height: usize,
    width: usize,
}
