//! The table from errors to gRPC's statuses.

use siglip_protocol::Code;
use tonic::Status;

use crate::control::ControlError;
use crate::error::{InferError, LookupError};
use crate::regions::RegionError;
use crate::trace_update::TraceSettingError;

/// Why a request other than for inference is not answered. The words are Triton's.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManageError {
    #[error("'repository_name' specification is not supported")]
    RepositoryName,
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("invalid value type for load parameter '{0}', expected string_param.")]
    LoadParameterType(String),
    #[error("unrecognized load parameter '{0}'.")]
    LoadParameter(String),
    #[error("invalid value type for 'unload_dependents' parameter, expected bool_param.")]
    UnloadParameterType,
    #[error("Request for unknown model : {0}")]
    TraceModel(String),
    #[error("{0} file location can not be updated through network protocol")]
    FileLocation(&'static str),
    #[error("invalid argument for log_format, got: {0}")]
    LogFormat(String),
    #[error("expect {expected} for '{setting}'")]
    SettingType { setting: &'static str, expected: &'static str },
    #[error("Unable to parse 'trace_count'. Expecting value >= -1, got: {0}")]
    NegativeCount(i32),
    #[error(transparent)]
    TraceSetting(TraceSettingError),
}

impl ManageError {
    fn code(&self) -> Code {
        match self {
            ManageError::RepositoryName | ManageError::FileLocation(_) => Code::Unsupported,
            ManageError::Control(error) => error.code(),
            ManageError::LoadParameterType(_)
            | ManageError::LoadParameter(_)
            | ManageError::UnloadParameterType
            | ManageError::TraceModel(_)
            | ManageError::LogFormat(_)
            | ManageError::SettingType { .. }
            | ManageError::NegativeCount(_) => Code::InvalidArgument,
            ManageError::TraceSetting(error) => error.code(),
        }
    }
}

impl From<TraceSettingError> for ManageError {
    fn from(error: TraceSettingError) -> Self {
        match error {
            // With a space that HTTP's words lack.
            TraceSettingError::NegativeCount(count) => ManageError::NegativeCount(count),
            error => ManageError::TraceSetting(error),
        }
    }
}

impl From<ManageError> for Status {
    fn from(error: ManageError) -> Self {
        status(error.code(), error.to_string())
    }
}

impl From<LookupError> for Status {
    fn from(error: LookupError) -> Self {
        status(error.code(), error.to_string())
    }
}

impl From<RegionError> for Status {
    fn from(error: RegionError) -> Self {
        status(error.code(), error.to_string())
    }
}

impl From<InferError> for Status {
    fn from(error: InferError) -> Self {
        status(error.code(), error.to_string())
    }
}

pub(super) fn status(code: Code, message: String) -> Status {
    let code = match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::Internal => tonic::Code::Internal,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Unsupported => tonic::Code::Unimplemented,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::Cancelled => tonic::Code::Cancelled,
    };
    Status::new(code, message)
}
