//! Everything but inference: health, metadata, configuration, statistics, the repository.

use http::{Method, StatusCode};
use siglip_protocol::json::{self, AccessError, Kind, SyntaxError, Value};
use siglip_protocol::repository::IndexEntry;
use siglip_protocol::statistics::StatisticsReply;
use siglip_protocol::{Code, RequestError};

use super::reply::{self, Reply};
use super::route::{ModelAction, RepositoryAction, Route};
use super::{memory, settings};
use crate::describe;
use crate::regions::RegionError;
use crate::state::ServerState;

/// Why a request other than for inference is not answered. The words are Triton's.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManageError {
    #[error("failed to parse the request JSON buffer: {0}")]
    Syntax(#[from] SyntaxError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error("Shared memory register request has no '{0}' field")]
    NoField(&'static str),
    #[error("'repository_name' specification is not supported")]
    RepositoryName,
    #[error(
        "explicit model load / unload is not allowed: this server serves the models that it was started with"
    )]
    ModelControl,
    #[error("Request for unknown model : {0}")]
    TraceModel(String),
    #[error("{0} file location can not be updated through network protocol")]
    FileLocation(&'static str),
    #[error("invalid argument for --log_format, got: {0}")]
    LogFormat(String),
    #[error("Unable to parse '{setting}', got: {got}")]
    TraceValue { setting: &'static str, got: String },
}

impl ManageError {
    fn code(&self) -> Code {
        match self {
            ManageError::Syntax(error) => RequestError::from(*error).code(),
            ManageError::Access(_) => Code::Internal,
            ManageError::Region(error) => error.code(),
            ManageError::NoField(_) | ManageError::TraceModel(_) | ManageError::TraceValue { .. } => {
                Code::InvalidArgument
            }
            ManageError::RepositoryName | ManageError::FileLocation(_) => Code::Unsupported,
            ManageError::ModelControl | ManageError::LogFormat(_) => Code::Unavailable,
        }
    }
}

pub(super) fn answer(state: &ServerState, route: &Route<'_>, method: &Method, body: &[u8]) -> Reply {
    let result = match *route {
        Route::Server => Ok(document(&describe::server())),
        Route::Live | Route::Ready => Ok(reply::health(true)),
        Route::AllStatistics => {
            let model_stats = state.registry.endpoints().map(describe::statistics).collect();
            Ok(document(&StatisticsReply { model_stats }))
        }
        Route::Model { name, version, action } => Ok(model(state, name, version, action)),
        Route::RepositoryIndex => index(state, body),
        Route::RepositoryModel { repository, action } => Err(refuse_control(repository, action, body)),
        Route::SystemMemory { region, action } => memory::system(state, region, action, body),
        Route::CudaMemory { region, action } => memory::cuda(region, action),
        Route::Trace { model } => settings::trace(state, model, method, body),
        Route::Logging => settings::log(state, method, body),
        Route::Unknown => Ok(reply::not_found()),
    };
    result.unwrap_or_else(|error| reply::protocol_error(error.code(), &error.to_string()))
}

fn model(state: &ServerState, name: &str, version: Option<&str>, action: ModelAction) -> Reply {
    match (action, state.registry.find(name, version)) {
        (ModelAction::Ready, Ok(_)) => reply::health(true),
        (ModelAction::Ready, Err(error)) if error.means_not_ready() => {
            reply::plain_error(StatusCode::BAD_REQUEST, "Model version not ready")
        }
        (ModelAction::Statistics, Err(error)) => {
            reply::protocol_error(Code::InvalidArgument, &error.statistics_message())
        }
        (_, Err(error)) => reply::lookup_error(&error),
        (ModelAction::Config, Ok(endpoint)) => document(&describe::config(state, endpoint)),
        (ModelAction::Statistics, Ok(endpoint)) => {
            document(&StatisticsReply { model_stats: vec![describe::statistics(endpoint)] })
        }
        (_, Ok(endpoint)) => document(&describe::metadata(endpoint)),
    }
}

fn index(state: &ServerState, body: &[u8]) -> Result<Reply, ManageError> {
    if !body.is_empty() {
        json::validate(body)?;
        Value::root(body).get("ready").map(|ready| ready.bool()).transpose()?;
    }
    Ok(document(&describe::index(state).collect::<Vec<IndexEntry<'_>>>()))
}

/// Models are neither loaded nor unloaded here, as by a Triton without explicit model control; a request that makes no
/// sense is told so first.
fn refuse_control(repository: Option<&str>, action: RepositoryAction, body: &[u8]) -> ManageError {
    if repository.is_some() {
        return ManageError::RepositoryName;
    }
    let checked = match action {
        RepositoryAction::Load => check_load_request(body),
        RepositoryAction::Unload => Ok(()),
    };
    checked.err().unwrap_or(ManageError::ModelControl)
}

fn check_load_request(body: &[u8]) -> Result<(), ManageError> {
    if body.is_empty() {
        return Ok(());
    }
    json::validate(body)?;
    let Some(parameters) = Value::root(body).get("parameters") else { return Ok(()) };
    if parameters.kind() != Kind::Object {
        return Err(AccessError::NotObject.into());
    }
    for member in parameters.members() {
        member.value.string()?;
    }
    Ok(())
}

pub(super) fn document(document: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(document) {
        Ok(body) => reply::json(body),
        // Plain structures of strings and numbers, which serialise.
        Err(error) => reply::protocol_error(Code::Internal, &error.to_string()),
    }
}
