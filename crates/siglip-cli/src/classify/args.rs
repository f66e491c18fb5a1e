//! Options of `siglip classify`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::args::{EngineArgs, ModelArgs};
use crate::prompts::DEFAULT_PROMPT;

/// Options of `siglip classify`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClassifyArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// The images: folders, files, patterns such as 'photos/*.jpg', and @FILE for a file that lists any of these.
    #[arg(long, env = "SIGLIP_IMAGES", value_name = "DIR|FILE|PATTERN|@LIST", num_args = 1.., required = true)]
    pub(crate) images: Vec<OsString>,
    /// The labels: a file with one a line, or the labels themselves, separated by commas.
    #[arg(long, env = "SIGLIP_LABELS", value_name = "FILE|A,B,C")]
    pub(crate) labels: String,
    /// The sentence that is compared with an image, with {text} for the label; @FILE for a file of them, one a line.
    /// Given more than once, a label is the mean of its sentences.
    #[arg(long, env = "SIGLIP_PROMPT", value_name = "PROMPT|@FILE", default_value = DEFAULT_PROMPT)]
    pub(crate) prompt: Vec<String>,
    /// How many labels to show for an image, the best first.
    #[arg(long, env = "SIGLIP_TOP_K", value_name = "K", default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) top_k: u16,
    /// Print one line of JSON for each image, with the scores of all labels, instead of a table.
    #[arg(long, env = "SIGLIP_JSON")]
    pub(crate) json: bool,
    /// Also write a page that shows each image with bars of its scores: one file, with everything inside it.
    #[arg(long, env = "SIGLIP_HTML", value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Images of one batch.
    #[arg(long, env = "SIGLIP_BATCH_SIZE", default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) batch_size: u16,
    /// Cut sentences that are longer than the model's context instead of stopping with an error.
    #[arg(long, env = "SIGLIP_TRUNCATE")]
    pub(crate) truncate: bool,
}
