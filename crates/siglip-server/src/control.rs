//! Loading and unloading on a client's word.

use crate::error::LoadError;
use crate::options::ModelControl;
use crate::state::ServerState;
use siglip_protocol::Code;

/// Why a model was not loaded or unloaded. The words are Triton's where it has any.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("explicit model load / unload is not allowed if polling is enabled")]
    NotAllowed,
    #[error("failed to load '{0}', failed to poll from model repository")]
    UnknownModel(String),
    #[error(
        "the configuration of '{0}' is not changed by loading it: it follows from the model's files and the options that \
         the server was started with"
    )]
    Override(String),
    #[error("load failed for model '{model}': version 1 is at UNAVAILABLE state: {error}")]
    Load { model: String, error: LoadError },
}

impl ControlError {
    pub(crate) fn code(&self) -> Code {
        match self {
            ControlError::NotAllowed => Code::Unavailable,
            ControlError::UnknownModel(_) => Code::Internal,
            ControlError::Override(_) | ControlError::Load { .. } => Code::InvalidArgument,
        }
    }
}

/// Loads a model that is not loaded. `config` is the configuration that it is to have.
pub(crate) async fn load(state: &ServerState, name: &str, config: Option<&str>) -> Result<(), ControlError> {
    allow(state)?;
    match config {
        None => {}
        Some(config) if siglip_protocol::json::parse(config.as_bytes()).is_err() => {
            return Err(ControlError::UnknownModel(name.to_owned()));
        }
        Some(_) => return Err(ControlError::Override(name.to_owned())),
    }
    let (registry, model) = (state.registry.clone(), name.to_owned());
    // Building an engine takes seconds of a thread.
    let loaded = tokio::task::spawn_blocking(move || registry.load(&model)).await;
    let failed = |error| match error {
        LoadError::UnknownModel(model) => ControlError::UnknownModel(model),
        error => ControlError::Load { model: name.to_owned(), error },
    };
    loaded.unwrap_or_else(|panic| Err(LoadError::Engine(panic.to_string()))).map_err(failed)?;
    tracing::info!("{name} is loaded");
    Ok(())
}

/// Unloads a model; one that is not loaded, or does not exist, is none afterwards either.
pub(crate) async fn unload(state: &ServerState, name: &str) -> Result<(), ControlError> {
    allow(state)?;
    let (registry, model) = (state.registry.clone(), name.to_owned());
    // An engine is freed by its own thread, after the batch that it computes; what was kept of its results is freed here.
    let unloaded = tokio::task::spawn_blocking(move || registry.unload(&model)).await;
    if unloaded.is_ok() {
        tracing::info!("{name} is unloaded");
    }
    Ok(())
}

fn allow(state: &ServerState) -> Result<(), ControlError> {
    match state.options.model_control {
        ModelControl::Explicit => Ok(()),
        ModelControl::None => {
            tracing::info!(
                "a client asked to load or unload a model, which is refused: --model-control explicit allows it"
            );
            Err(ControlError::NotAllowed)
        }
    }
}
