//! Options of `siglip validate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::{EngineArgs, ModelArgs};
use crate::prompts::DEFAULT_PROMPT;

/// Options of `siglip validate`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// The images that are classified: DIR/{synset}/*.JPEG, a folder for each class of --synsets.
    #[arg(long, env = "SIGLIP_VALID", value_name = "DIR")]
    pub(crate) valid: Option<PathBuf>,
    /// The images that few-shot-knn learns from, in the same layout: of each class the first ten by name.
    #[arg(long, env = "SIGLIP_TRAIN", value_name = "DIR")]
    pub(crate) train: Option<PathBuf>,
    /// The classes, one a line: the name of the folder and what is in its pictures, as "n01440764 tench, Tinca tinca" in
    /// ImageNet's LOC_synset_mapping.txt.
    #[arg(long, env = "SIGLIP_SYNSETS", value_name = "FILE")]
    pub(crate) synsets: Option<PathBuf>,
    /// The sentence that stands for a class, with {text} for its text; @FILE for a file of them, one a line. Given more
    /// than once, a class is the mean of its sentences' embeddings.
    #[arg(long, env = "SIGLIP_PROMPT", value_name = "PROMPT|@FILE", default_value = DEFAULT_PROMPT)]
    pub(crate) prompt: Vec<String>,
    /// How to classify; may be given several times. By default all, few-shot-knn if --train is given.
    #[arg(long, env = "SIGLIP_METHOD", value_enum, value_name = "METHOD", value_delimiter = ',')]
    pub(crate) method: Vec<Method>,
    /// Instead: compare with published logits. DIR holds logits.json and folders of images (docs/validate.md).
    #[arg(long, env = "SIGLIP_REFERENCE", value_name = "DIR", conflicts_with_all = ["valid", "train", "synsets"])]
    pub(crate) reference: Option<PathBuf>,
    /// Print one JSON object with every prediction instead of tables.
    #[arg(long, env = "SIGLIP_JSON")]
    pub(crate) json: bool,
    /// Also write a page with a picture of what is confused with what: one file, with everything inside it.
    #[arg(long, env = "SIGLIP_HTML", value_name = "FILE", conflicts_with = "reference")]
    pub(crate) html: Option<PathBuf>,
    /// Where embeddings are kept, so that another run takes seconds. They are found again by the model's weights, the
    /// precision, and each file's path, size and time of change. By default siglip/embeddings in $XDG_CACHE_HOME or
    /// ~/.cache.
    #[arg(long, env = "SIGLIP_CACHE", value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Keep no embeddings, and use none that were kept.
    #[arg(long, env = "SIGLIP_NO_CACHE", conflicts_with = "cache")]
    pub(crate) no_cache: bool,
    /// Rows of one batch.
    #[arg(long, env = "SIGLIP_BATCH_SIZE", default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) batch_size: u16,
    /// Cut sentences that are longer than the model's context instead of stopping with an error.
    #[arg(long, env = "SIGLIP_TRUNCATE")]
    pub(crate) truncate: bool,
}

/// A way to classify an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// The ten texts nearest to an image vote with 1/distance, as in the original's validation.
    ZeroShotKnn,
    /// The text nearest to an image.
    ZeroShot,
    /// The ten training images nearest to an image vote with 1/distance.
    FewShotKnn,
}

impl Method {
    /// All of them, in the order in which they are reported.
    pub(crate) const ALL: [Method; 3] = [Method::ZeroShotKnn, Method::ZeroShot, Method::FewShotKnn];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::ZeroShotKnn => "zero-shot-knn",
            Method::ZeroShot => "zero-shot",
            Method::FewShotKnn => "few-shot-knn",
        }
    }
}
