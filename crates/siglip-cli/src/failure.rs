//! What ends the program before its work is done.

use std::io;
use std::path::PathBuf;

use siglip::engine::{EngineError, Tower};
use siglip::hub::HubError;
use siglip::knn::KnnError;
use siglip::model::ModelError;
use siglip::preprocessor::PreprocessorError;
use siglip::tokenizer::TokenizeError;
use siglip_cpu::BuildError;
use siglip_cuda::CudaError;
use siglip_server::ServeError;

use crate::images::FindError;
use crate::prompts::PromptError;
use crate::store::StoreError;
use crate::validate::DatasetError;

/// Every way to fail, each one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(
        "`{}` is not a folder, and no model's name on the Hub either: --model takes a folder in the Hub's layout \
         (config.json, model.safetensors, spiece.model), or a name such as google/siglip-base-patch16-224", .0.display()
    )]
    NotAFolder(PathBuf),
    #[error("the output `{}` must end in .npy, .parquet or .jsonl", .0.display())]
    OutputFormat(PathBuf),
    #[error("the model `{model}` has no {tower} tower: {missing}")]
    NoTower { model: String, tower: Tower, missing: String },
    #[error("the model `{model}` has no tokenizer: {missing}")]
    NoTokenizer { model: String, missing: String },
    #[error("the model `{model}` takes no image files: {missing}")]
    NoImages { model: String, missing: String },
    #[error("{0}")]
    Usage(&'static str),
    #[error(
        "--model names two models that are called `{0}`: rename the folder of one, so that requests can tell them apart"
    )]
    SameName(String),
    #[error("the model `{model}` gives no scores: {missing}")]
    NoScores { model: String, missing: String },
    #[error("`{text}`: {error}; shorten it, or give --truncate to have long texts cut")]
    LabelTooLong { text: String, error: TokenizeError },
    #[error("interrupted after {done} of {total} {unit}")]
    Stopped { done: usize, total: usize, unit: &'static str },
    #[error("{}: {error}", path.display())]
    BadImage { path: PathBuf, error: String },
    #[error("none of the {0} images could be embedded")]
    NoneEmbedded(usize),
    #[error(
        "interrupted: {} was not written; {done} of {total} images are kept in {}, and the same command goes on from \
         there", output.display(), partial.display()
    )]
    Kept { output: PathBuf, done: usize, total: usize, partial: PathBuf },
    #[error("{} cannot be continued: {error}{}", path.display(), match error {
        StoreError::Foreign | StoreError::NotAStore => "; give the options of that run, or delete the file to start over",
        StoreError::InUse | StoreError::Io(_) => "",
    })]
    Partial { path: PathBuf, error: StoreError },
    #[error("line {line} of {input}: {error}; shorten it, or give --truncate to have long lines cut")]
    TooLong { input: String, line: u64, error: TokenizeError },
    #[error("line {line} of {input} is not UTF-8")]
    NotUtf8 { input: String, line: u64 },
    #[error("{input} cannot be read: {error}")]
    Read { input: String, error: io::Error },
    #[error("{} cannot be written: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("standard output cannot be written: {0}")]
    Stdout(io::Error),
    #[error("interrupted: {} was not written", .0.display())]
    Interrupted(PathBuf),
    #[error("the system refuses {what}: {error}")]
    System { what: &'static str, error: io::Error },
    #[error(
        "no model is named, so {model} is meant: {error}; --model names another, --demo the model in this program"
    )]
    DefaultModel { model: &'static str, error: Box<Failure> },
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Preprocessor(#[from] PreprocessorError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Neighbours(#[from] KnnError),
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error("--device cuda:{card}: {error}")]
    Card { card: usize, error: CudaError },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Failure {
    /// 2 where the command line was wrong, 1 where the work failed.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) | Failure::SameName(_) => 2,
            Failure::Prompt(error) if !matches!(error, PromptError::Read { .. }) => 2,
            Failure::OutputFormat(_) | Failure::Hub(HubError::Name { .. }) => 2,
            Failure::Cuda(error) | Failure::Card { error, .. } if error.is_usage() => 2,
            Failure::Build(BuildError::Precision { .. } | BuildError::Isa { .. }) => 2,
            _ => 1,
        }
    }

    /// Whether the reader of standard output went away.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
