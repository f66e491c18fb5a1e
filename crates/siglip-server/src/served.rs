//! What the program gives the server to serve.

use std::sync::Arc;

use siglip::engine::Engine;
use siglip::image::ImageProcessor;

use crate::tokenize::Tokenize;

/// A model to serve: one tower, or both.
pub struct ServedModel {
    /// Its own name, e.g. `google/siglip-so400m-patch14-384`.
    pub name: String,
    /// Its text tower.
    pub text: Option<ServedText>,
    /// Its image tower.
    pub vision: Option<ServedVision>,
    /// What makes scores of cosines; without it, or with one tower only, images are not classified.
    pub similarity: Option<Similarity>,
}

/// A text tower to serve.
pub struct ServedText {
    /// What computes it: one engine, or one for each batch that is to be computed at once. They take their batches from
    /// one queue, and all have the same sizes.
    pub engines: Vec<Box<dyn Engine>>,
    /// Builds the engines anew after the tower was unloaded; without it, unloading frees no memory.
    pub rebuild: Option<BuildEngines>,
    /// What one device can do at the engines' precision, in floating-point operations a second, for the metrics; 0 if
    /// nobody knows.
    pub peak_flops: f64,
    /// What makes token ids of texts; without it, clients have to.
    pub tokenizer: Option<Arc<dyn Tokenize>>,
}

/// An image tower to serve.
pub struct ServedVision {
    /// What computes it: one engine, or one for each batch that is to be computed at once. They take their batches from
    /// one queue, and all have the same sizes.
    pub engines: Vec<Box<dyn Engine>>,
    /// Builds the engines anew after the tower was unloaded; without it, unloading frees no memory.
    pub rebuild: Option<BuildEngines>,
    /// What one device can do at the engines' precision, in floating-point operations a second, for the metrics; 0 if
    /// nobody knows.
    pub peak_flops: f64,
    /// Channels, height and width of an image.
    pub dims: [usize; 3],
    /// What makes pixel values of image files; without it, clients have to.
    pub processor: Option<ImageProcessor>,
}

/// Builds a tower's engines, or says in one sentence why it cannot.
pub type BuildEngines = Arc<dyn Fn() -> Result<Vec<Box<dyn Engine>>, String> + Send + Sync>;

/// The two learned numbers of [`siglip::similarity::score`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// The logarithm of the factor on the cosine.
    pub logit_scale: f32,
    /// What is added to the scaled cosine.
    pub logit_bias: f32,
}
