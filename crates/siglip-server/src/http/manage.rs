//! Everything but inference: health, metadata, configuration, statistics, the repository.

use http::{Method, StatusCode};
use siglip_protocol::json::{self, AccessError, Kind, SyntaxError};
use siglip_protocol::repository::IndexEntry;
use siglip_protocol::statistics::StatisticsReply;
use siglip_protocol::{Code, RequestError};

use super::reply::{self, Reply};
use super::route::{ModelAction, RepositoryAction, Route};
use super::{memory, settings};
use crate::control::{self, ControlError};
use crate::describe;
use crate::regions::RegionError;
use crate::state::ServerState;
use crate::trace_update::TraceSettingError;

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
    #[error("unexpected error on creating Triton parameter")]
    LoadParameter,
    #[error("'repository_name' specification is not supported")]
    RepositoryName,
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("Request for unknown model : {0}")]
    TraceModel(String),
    #[error("{0} file location can not be updated through network protocol")]
    FileLocation(&'static str),
    #[error("invalid argument for --log_format, got: {0}")]
    LogFormat(String),
    #[error(transparent)]
    TraceSetting(#[from] TraceSettingError),
}

impl ManageError {
    fn code(&self) -> Code {
        match self {
            ManageError::Syntax(error) => RequestError::from(*error).code(),
            ManageError::Access(_) | ManageError::LoadParameter => Code::Internal,
            ManageError::Region(error) => error.code(),
            ManageError::NoField(_) | ManageError::TraceModel(_) => Code::InvalidArgument,
            ManageError::TraceSetting(error) => error.code(),
            ManageError::RepositoryName | ManageError::FileLocation(_) => Code::Unsupported,
            ManageError::Control(error) => error.code(),
            ManageError::LogFormat(_) => Code::Unavailable,
        }
    }
}

pub(super) async fn answer(state: &ServerState, route: &Route<'_>, method: &Method, body: &[u8]) -> Reply {
    let result = match *route {
        Route::Server => Ok(document(&describe::server())),
        Route::Live => Ok(reply::health(state.registry.is_live(state.options.stuck_after))),
        Route::Ready => Ok(reply::health(state.registry.is_ready())),
        Route::AllStatistics => {
            let model_stats =
                state.registry.endpoints().iter().map(|endpoint| describe::statistics(endpoint)).collect();
            Ok(document(&StatisticsReply { model_stats }))
        }
        Route::Model { name, version, action } => Ok(model(state, name, version, action)),
        Route::RepositoryIndex => index(state, body),
        Route::RepositoryModel { repository: Some(_), .. } => Err(ManageError::RepositoryName),
        Route::RepositoryModel { repository: None, model, action } => {
            control(state, model, action, body).await
        }
        Route::SystemMemory { region, action } => memory::system(state, region, action, body),
        Route::CudaMemory { region, action } => memory::cuda(region, action, body),
        Route::Trace { model } => settings::trace(state, model, method, body),
        Route::Logging => settings::log(state, method, body),
        Route::Unknown => Ok(reply::not_found()),
    };
    result.unwrap_or_else(|error| reply::protocol_error(error.code(), &error.to_string()))
}

fn model(state: &ServerState, name: &str, version: Option<&str>, action: ModelAction) -> Reply {
    match (action, state.registry.find(name, version)) {
        (ModelAction::Ready, Ok(endpoint)) if endpoint.fault().is_none() => reply::health(true),
        (ModelAction::Ready, Ok(_)) => reply::plain_error(StatusCode::BAD_REQUEST, "Model version not ready"),
        (ModelAction::Ready, Err(error)) if error.means_not_ready() => {
            reply::plain_error(StatusCode::BAD_REQUEST, "Model version not ready")
        }
        (ModelAction::Statistics, Err(error)) => {
            reply::protocol_error(Code::InvalidArgument, &error.statistics_message())
        }
        (_, Err(error)) => reply::lookup_error(&error),
        (ModelAction::Config, Ok(endpoint)) => document(&describe::config(state, &endpoint)),
        (ModelAction::Statistics, Ok(endpoint)) => {
            document(&StatisticsReply { model_stats: vec![describe::statistics(&endpoint)] })
        }
        (_, Ok(endpoint)) => document(&describe::metadata(&endpoint)),
    }
}

fn index(state: &ServerState, body: &[u8]) -> Result<Reply, ManageError> {
    let mut ready_only = false;
    if !body.is_empty()
        && let Some(ready) = json::parse(body)?.get("ready")
    {
        ready_only = ready.bool()?;
    }
    Ok(document(&describe::index(state, ready_only).collect::<Vec<IndexEntry<'_>>>()))
}

async fn control(
    state: &ServerState,
    model: &str,
    action: RepositoryAction,
    body: &[u8],
) -> Result<Reply, ManageError> {
    match action {
        RepositoryAction::Load => {
            let config = read_load_request(body)?;
            control::load(state, model, config.as_deref()).await?;
        }
        // Whatever the body is: so it is on Triton.
        RepositoryAction::Unload => control::unload(state, model).await?,
    }
    Ok(reply::json(Vec::new()))
}

/// The configuration that a model is to be loaded with, if the request has one.
fn read_load_request(body: &[u8]) -> Result<Option<String>, ManageError> {
    if body.is_empty() {
        return Ok(None);
    }
    let Some(parameters) = json::parse(body)?.get("parameters") else { return Ok(None) };
    if parameters.kind() != Kind::Object {
        return Err(AccessError::NotObject.into());
    }
    let mut config = None;
    for member in parameters.members() {
        let value = member.value.string()?;
        match &*member.name() {
            b"config" => config = Some(String::from_utf8_lossy(&value).into_owned()),
            name if name.starts_with(b"file:") => {}
            _ => return Err(ManageError::LoadParameter),
        }
    }
    Ok(config)
}

pub(super) fn document(document: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(document) {
        Ok(body) => reply::json(body),
        // Plain structures of strings and numbers, which serialise.
        Err(error) => reply::protocol_error(Code::Internal, &error.to_string()),
    }
}
