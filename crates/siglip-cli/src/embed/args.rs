//! Options of `siglip embed`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::args::{EngineArgs, ModelArgs};

/// Options of `siglip embed`.
#[derive(Args, Clone, Debug)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// The texts, one a line, in UTF-8; `-` for standard input.
    #[arg(long, env = "SIGLIP_TEXT", value_name = "FILE|-", conflicts_with = "images")]
    pub(crate) text: Option<PathBuf>,
    /// The images: folders, which are searched at any depth in the order of names; files; patterns such as
    /// 'photos/*.jpg'; and @FILE for a file that lists any of these, one a line. JPEG, PNG, WebP, GIF, BMP and TIFF.
    ///
    /// What is done is kept in OUTPUT.partial until the output is whole: after an interruption, a crash or a full disk
    /// the same command goes on from there.
    #[arg(long, env = "SIGLIP_IMAGES", value_name = "DIR|FILE|PATTERN|@LIST", num_args = 1..)]
    pub(crate) images: Vec<OsString>,
    /// The file to write; it appears under this name only when it is whole.
    ///
    /// .parquet and .jsonl have a row for each text (text, embedding) or image (path, width, height, format, embedding,
    /// error). .npy is an f32 array [rows, D]: a text's row is its line; for images, which have a row only if they could
    /// be read, OUTPUT with the ending .files.jsonl instead of .npy says for each path its row or its error.
    #[arg(long, short, env = "SIGLIP_OUTPUT", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Rows of one batch. By default 32 texts or 8 images.
    #[arg(long, env = "SIGLIP_BATCH_SIZE", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) batch_size: Option<u16>,
    /// Cut texts that are longer than the model's context instead of stopping with an error.
    #[arg(long, env = "SIGLIP_TRUNCATE")]
    pub(crate) truncate: bool,
    /// Stop at the first image that cannot be read, with exit code 1, instead of reporting and leaving it out.
    #[arg(long, env = "SIGLIP_STRICT")]
    pub(crate) strict: bool,
    /// Scale every embedding to length 1, so that a dot product is a cosine.
    #[arg(long, env = "SIGLIP_NORMALIZE")]
    pub(crate) normalize: bool,
}
