//! What can be wrong with a request before any model is asked.

use crate::json::{AccessError, DataError, SyntaxError};

/// The class of an error: what a door turns into a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request asks for something that the model does not take.
    InvalidArgument,
    /// A model, a version or a region that does not exist.
    NotFound,
    /// The request cannot be understood (Triton's choice of class), or the server failed.
    Internal,
    /// Not now: the queue is full, the server is stopping, the model is not ready.
    Unavailable,
    /// A feature that this server does not have.
    Unsupported,
    /// Something of that name exists already.
    AlreadyExists,
    /// The caller went away.
    Cancelled,
}

/// Why an inference request could not be understood. The words are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The JSON part is no JSON.
    #[error("failed to parse the request JSON buffer: {0}")]
    Syntax(#[from] SyntaxError),
    /// A field is missing or of another type.
    #[error("Unable to parse '{field}': {error}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: AccessError,
    },
    /// The number of classes of an output is no number.
    #[error("Unable to set '{field}': {error}")]
    OutputField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: AccessError,
    },
    /// A tensor's data are of another type, or too many, or too few.
    #[error("Unable to parse 'data': {0}")]
    Data(#[from] DataError),
    /// A BYTES tensor's data are not strings.
    #[error("Unable to parse JSON bytes array: {0}")]
    BytesData(AccessError),
    /// The request's parameters are not an object.
    #[error("failed to get request params.: {0}")]
    Parameters(AccessError),
    /// The body of a `generate` request is not an object.
    #[error("{0}")]
    Root(AccessError),
    /// The parameters of a `generate` request are not an object.
    #[error("Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object")]
    GenerateParameters,
    /// Something among the parameters of a `generate` request is wrong.
    #[error("Converting keyword: 'parameters': {0}")]
    WithinParameters(Box<RequestError>),
    /// A tensor of a `generate` request has a number of elements that no batch has.
    #[error("The schema can not convert input '{0}' to tensor with proper shape")]
    NoBatch(String),
    /// A parameter is neither a number, a boolean nor a string.
    #[error("parameter '{0}' has invalid type. It should be either 'int', 'bool', or 'string'.")]
    ParameterType(String),
    /// A parameter's name is reserved.
    #[error(
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
    )]
    ReservedParameter,
    /// A tensor's data come from none or from several of the three places where they can be.
    #[error(
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', \
         'shared_memory_region' in 'parameters'. But {0}"
    )]
    DataSource(&'static str),
    /// The element type exists but has no JSON form.
    #[error(
        "receiving {datatype} data via JSON is not supported. Please use the binary data format for input {input}"
    )]
    NoJsonForm {
        /// The element type.
        datatype: crate::DataType,
        /// The tensor.
        input: String,
    },
    /// The element type does not exist.
    #[error("invalid datatype for input {0}")]
    DataType(String),
    /// Two tensors have one name.
    #[error("{id}input '{input}' already exists in request")]
    DuplicateInput {
        /// The request's id, in the form that messages start with.
        id: String,
        /// The tensor.
        input: String,
    },
    /// The shape has more elements than any request can hold.
    #[error(
        "input '{input}' has too many elements: its shape is {shape:?}, and a request holds 2147483647 at most"
    )]
    TooManyElements {
        /// The tensor.
        input: String,
        /// Its shape.
        shape: Vec<i64>,
    },
    /// The body ends before a tensor does.
    #[error("unexpected size for input '{input}', expecting {missing} additional bytes for model '{model}'")]
    MissingBytes {
        /// The tensor.
        input: String,
        /// How many bytes are missing.
        missing: u64,
        /// The model that was asked.
        model: String,
    },
    /// The body goes on after the last tensor.
    #[error("unexpected additional input data for model '{0}'")]
    AdditionalBytes(String),
    /// An output is asked for in two places.
    #[error("Output can't set both 'shared_memory_region' and '{0}'")]
    OutputConflict(&'static str),
    /// `Inference-Header-Content-Length` is not a length within the body.
    #[error("inference header size should be in range (0, {body}), got: {got}")]
    HeaderLength {
        /// The body's length.
        body: usize,
        /// What the header says.
        got: String,
    },
}

impl RequestError {
    /// Its class. A request that cannot be understood is `Internal` to Triton, and clients may rely on it.
    pub fn code(&self) -> Code {
        match self {
            RequestError::Syntax(error) if error.kind == crate::json::SyntaxErrorKind::TooDeep => {
                Code::InvalidArgument
            }
            RequestError::Syntax(_)
            | RequestError::Field { .. }
            | RequestError::OutputField { .. }
            | RequestError::Data(_)
            | RequestError::BytesData(_)
            | RequestError::Parameters(_)
            | RequestError::Root(_)
            | RequestError::GenerateParameters => Code::Internal,
            RequestError::WithinParameters(error) => error.code(),
            RequestError::ParameterType(_)
            | RequestError::NoBatch(_)
            | RequestError::ReservedParameter
            | RequestError::DataSource(_)
            | RequestError::NoJsonForm { .. }
            | RequestError::DataType(_)
            | RequestError::DuplicateInput { .. }
            | RequestError::TooManyElements { .. }
            | RequestError::MissingBytes { .. }
            | RequestError::AdditionalBytes(_)
            | RequestError::OutputConflict(_)
            | RequestError::HeaderLength { .. } => Code::InvalidArgument,
        }
    }
}
