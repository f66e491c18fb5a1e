//! What goes wrong: at start, and with a request.

use std::net::SocketAddr;

use siglip::engine::Tower;
use siglip::image::{Base64Error, ImageError};
use siglip::prompt::TemplateError;
use siglip_protocol::compression::{DecompressError, UnsupportedEncoding};
use siglip_protocol::grpc::GrpcRequestError;
use siglip_protocol::{CheckError, Code, RequestError};

use crate::batcher::BatchError;
use crate::regions::RegionError;
use crate::tokenize::TokenizeError;

/// Why the server did not start or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A port is taken.
    #[error("port {} on {} is in use: stop what listens there, or choose another port with {flag}", addr.port(), addr.ip())]
    PortInUse {
        /// The address and port.
        addr: SocketAddr,
        /// The option that sets the port.
        flag: &'static str,
    },
    /// A port cannot be listened on for another reason.
    #[error("cannot listen on {addr} (set with --host and {flag}): {source}")]
    Bind {
        /// The address and port.
        addr: SocketAddr,
        /// The option that sets the port.
        flag: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is nothing to serve.
    #[error("there is no model to serve")]
    NoModel,
    /// Two models would answer to one name.
    #[error(
        "two of the models to serve are called '{0}': rename one, so that 'embed_model' can tell them apart"
    )]
    DuplicateModel(String),
    /// A model cannot be served.
    #[error("a model cannot be served: {0}")]
    Load(String),
    /// An engine is not for the tower that it was given for, or its sizes make no sense.
    #[error("the engine for the {tower} tower of '{model}' cannot serve it: {reason}")]
    Engine {
        /// The tower.
        tower: Tower,
        /// The model.
        model: String,
        /// What is wrong.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The file for traces cannot be written.
    #[error("cannot create the trace file {} (set with --trace-file): {source}", path.display())]
    TraceFile {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl From<LoadError> for ServeError {
    fn from(error: LoadError) -> Self {
        ServeError::Load(error.to_string())
    }
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("failed to load '{0}', failed to poll from model repository")]
    UnknownModel(String),
    #[error("there is no {0} tower")]
    NoTower(Tower),
    #[error("the engine cannot be built: {0}")]
    Engine(String),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A model that was asked for is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("Request for unknown model: '{0}' is not found")]
    Model(String),
    #[error("Request for unknown model: '{model}' version {version} is not found")]
    Version { model: String, version: i64 },
    #[error("Request for unknown model: '{0}' has no available versions")]
    Unloaded(String),
    #[error("Request for unknown model: '{0}' version 1 is not at ready state")]
    VersionUnloaded(String),
    #[error(
        "failed to get model version from specified version string '{0}' (details: stol), version should be an \
         integral value > 0"
    )]
    VersionFormat(String),
    #[error("invalid model version specified '{0}' , version should be an integral value > 0")]
    NegativeVersion(String),
}

impl LookupError {
    /// What it says when statistics were asked for. Triton has other words there, and another class: an invalid
    /// argument.
    pub(crate) fn statistics_message(&self) -> String {
        match self {
            LookupError::Model(model) | LookupError::Unloaded(model) => {
                format!("requested model '{model}' is not available")
            }
            LookupError::Version { model, .. } | LookupError::VersionUnloaded(model) => {
                format!("requested model version is not available for model '{model}'")
            }
            other => other.to_string(),
        }
    }

    /// Whether a question about readiness is answered with "no" rather than with an error.
    pub(crate) fn means_not_ready(&self) -> bool {
        !matches!(self, LookupError::VersionFormat(_) | LookupError::NegativeVersion(_))
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            LookupError::Model(_) | LookupError::Version { .. } | LookupError::Unloaded(_) => Code::NotFound,
            LookupError::VersionUnloaded(_) => Code::Unavailable,
            LookupError::VersionFormat(_) | LookupError::NegativeVersion(_) => Code::InvalidArgument,
        }
    }
}

/// Why an inference request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InferError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Encoding(#[from] UnsupportedEncoding),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    GrpcRequest(#[from] GrpcRequestError),
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error(transparent)]
    OutputRegion(RegionError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(
        "token id {id} at row {row}, position {position} of INPUT_IDS is outside the vocabulary (0 to {})",
        vocab_size.saturating_sub(1)
    )]
    TokenId { id: i64, row: usize, position: usize, vocab_size: usize },
    #[error("row {row} of INPUT_TEXT is not UTF-8: byte {at} is not part of a character")]
    NotUtf8 { row: usize, at: usize },
    #[error("row {row} of INPUT_TEXT: {error}")]
    Tokenize { row: usize, error: TokenizeError },
    #[error("row {row} of INPUT_IMAGE: {error}{hint}")]
    Image { row: usize, error: ImageError, hint: &'static str },
    #[error("row {row} of INPUT_IMAGE: {error}")]
    Base64 { row: usize, error: Base64Error },
    #[error("LABELS is empty: at least one label a row is needed")]
    NoLabels,
    #[error("LABELS has more than {0} different labels: ask for them in several requests")]
    TooManyLabels(usize),
    #[error("label {column} of row {row} of LABELS is empty")]
    EmptyLabel { row: usize, column: usize },
    #[error("label {column} of row {row} of LABELS is not UTF-8: byte {at} is not part of a character")]
    LabelNotUtf8 { row: usize, column: usize, at: usize },
    #[error("the label in '{text}': {error}")]
    Label { text: String, error: TokenizeError },
    #[error("parameter 'prompt': {0}")]
    Prompt(TemplateError),
    #[error("parameter '{name}' must be {expected}")]
    ParameterType { name: &'static str, expected: &'static str },
    #[error("parameter 'embed_model' is '{got}', which is not served here; it can be {}", served.join(", "))]
    EmbedModel { got: String, served: Vec<String> },
    #[error("the model is not ready: {0}")]
    NotReady(String),
    #[error("preparing the request failed; the server's log has the reason")]
    Preparation,
    #[error("answering the request failed; the server's log has the reason")]
    Panicked,
    #[error("[request id: {}] {error}", if id.is_empty() { "<id_unknown>" } else { id })]
    Refused { id: String, error: BatchError },
    #[error(transparent)]
    Batch(BatchError),
}

impl InferError {
    /// Whether it is the model that refuses the request or fails at it, and neither the protocol nor the queue.
    pub(crate) fn is_of_model(&self) -> bool {
        match self {
            InferError::Check(CheckError::IncompleteString { .. })
            | InferError::TokenId { .. }
            | InferError::NotUtf8 { .. }
            | InferError::Tokenize { .. }
            | InferError::Image { .. }
            | InferError::Base64 { .. }
            | InferError::NoLabels
            | InferError::TooManyLabels(_)
            | InferError::EmptyLabel { .. }
            | InferError::LabelNotUtf8 { .. }
            | InferError::Label { .. }
            | InferError::Prompt(_)
            | InferError::ParameterType { .. }
            | InferError::EmbedModel { .. }
            | InferError::NotReady(_)
            | InferError::Preparation
            | InferError::Panicked => true,
            InferError::Lookup(_)
            | InferError::Encoding(_)
            | InferError::Decompress(_)
            | InferError::Request(_)
            | InferError::GrpcRequest(_)
            | InferError::Region(_)
            | InferError::OutputRegion(_)
            | InferError::Check(_)
            | InferError::Refused { .. }
            | InferError::Batch(_) => false,
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            InferError::Lookup(error) => error.code(),
            InferError::Encoding(_) => Code::Unsupported,
            InferError::Decompress(_) => Code::InvalidArgument,
            InferError::Request(error) => error.code(),
            InferError::GrpcRequest(error) => error.code(),
            InferError::Region(error) | InferError::OutputRegion(error) => error.code(),
            InferError::Check(error) => error.code(),
            InferError::TokenId { .. }
            | InferError::NotUtf8 { .. }
            | InferError::Image { .. }
            | InferError::Base64 { .. }
            | InferError::NoLabels
            | InferError::TooManyLabels(_)
            | InferError::EmptyLabel { .. }
            | InferError::LabelNotUtf8 { .. }
            | InferError::Prompt(_)
            | InferError::ParameterType { .. }
            | InferError::EmbedModel { .. } => Code::InvalidArgument,
            InferError::Tokenize { error, .. } | InferError::Label { error, .. } => match error {
                TokenizeError::TooLong { .. } => Code::InvalidArgument,
                TokenizeError::Other(_) => Code::Internal,
            },
            InferError::NotReady(_) => Code::Unavailable,
            InferError::Preparation | InferError::Panicked => Code::Internal,
            InferError::Refused { error, .. } | InferError::Batch(error) => error.code(),
        }
    }
}
