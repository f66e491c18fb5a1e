//! Images from files to embeddings.

mod embedder;
mod file;
mod find;
mod table;
mod thumbnail;

use siglip::image::{ImageProcessor, Options};
use siglip::model::Model;

pub(crate) use self::embedder::{Embedder, Outcome};
pub(crate) use self::file::{ImageFile, ImageMeta, Problem};
pub(crate) use self::find::{FindError, files, in_folder};
pub(crate) use self::table::Table;
use crate::failure::Failure;

/// The preparation that the model's vision tower asks for.
pub(crate) fn processor(model: &Model) -> Result<ImageProcessor, Failure> {
    match (&model.preprocessor, &model.vision) {
        (Some(config), Some(vision)) => Ok(ImageProcessor::new(config, &vision.config, Options::default())?),
        _ => Err(Failure::NoImages { model: model.name.clone(), missing: model.missing.join(" ") }),
    }
}
