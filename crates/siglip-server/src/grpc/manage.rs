//! Everything but inference and settings: metadata, statistics, the repository, shared memory.

use siglip_protocol::Code;
use siglip_protocol::grpc::inference as grpc;
use siglip_protocol::grpc::inference::model_repository_parameter::ParameterChoice;
use siglip_protocol::grpc::inference::repository_index_response::ModelIndex;
use siglip_protocol::grpc::inference::system_shared_memory_status_response::RegionStatus;
use tonic::Status;

use super::error::{ManageError, status};
use crate::control;
use crate::describe;
use crate::endpoint::Endpoint;
use crate::regions::RegionError;
use crate::registry;
use crate::state::ServerState;

pub(super) fn server_metadata() -> grpc::ServerMetadataResponse {
    let metadata = describe::server();
    grpc::ServerMetadataResponse {
        name: metadata.name.to_owned(),
        version: metadata.version.to_owned(),
        extensions: metadata.extensions.iter().map(|extension| (*extension).to_owned()).collect(),
    }
}

pub(super) fn model_ready(state: &ServerState, name: &str, version: &str) -> Result<bool, Status> {
    match state.registry.find(name, Some(version)) {
        Ok(endpoint) => Ok(endpoint.fault().is_none()),
        Err(error) if error.means_not_ready() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn statistics(
    state: &ServerState,
    name: &str,
    version: &str,
) -> Result<Vec<grpc::ModelStatistics>, Status> {
    let of = |endpoint: &Endpoint| describe::statistics(endpoint).into();
    if name.is_empty() {
        // All versions are the only one, whichever is named; but it must be one.
        registry::parse_version(version)?;
        return Ok(state.registry.endpoints().iter().map(|endpoint| of(endpoint)).collect());
    }
    match state.registry.find(name, Some(version)) {
        Ok(endpoint) => Ok(vec![of(&endpoint)]),
        Err(error) => Err(status(Code::InvalidArgument, error.statistics_message())),
    }
}

pub(super) fn index(
    state: &ServerState,
    request: &grpc::RepositoryIndexRequest,
) -> Result<Vec<ModelIndex>, ManageError> {
    if !request.repository_name.is_empty() {
        return Err(ManageError::RepositoryName);
    }
    let entries = describe::index(state, request.ready).map(|entry| ModelIndex {
        name: entry.name.to_owned(),
        version: entry.version.to_owned(),
        state: entry.state.to_owned(),
        reason: entry.reason,
    });
    Ok(entries.collect())
}

pub(super) async fn load(
    state: &ServerState,
    request: grpc::RepositoryModelLoadRequest,
) -> Result<(), ManageError> {
    if !request.repository_name.is_empty() {
        return Err(ManageError::RepositoryName);
    }
    let mut config = None;
    for (name, parameter) in request.parameters {
        match (name.as_str(), parameter.parameter_choice) {
            ("config", Some(ParameterChoice::StringParam(value))) => config = Some(value),
            ("config", _) => return Err(ManageError::LoadParameterType(name)),
            (file, _) if file.starts_with("file:") => {}
            _ => return Err(ManageError::LoadParameter(name)),
        }
    }
    Ok(control::load(state, &request.model_name, config.as_deref()).await?)
}

pub(super) async fn unload(
    state: &ServerState,
    request: &grpc::RepositoryModelUnloadRequest,
) -> Result<(), ManageError> {
    if !request.repository_name.is_empty() {
        return Err(ManageError::RepositoryName);
    }
    match request.parameters.get("unload_dependents").map(|parameter| &parameter.parameter_choice) {
        None | Some(Some(ParameterChoice::BoolParam(_))) => {}
        Some(_) => return Err(ManageError::UnloadParameterType),
    }
    Ok(control::unload(state, &request.model_name).await?)
}

pub(super) fn memory_status(
    state: &ServerState,
    name: &str,
) -> Result<grpc::SystemSharedMemoryStatusResponse, RegionError> {
    let regions = state.regions.status((!name.is_empty()).then_some(name))?;
    let status = |(name, region): (String, std::sync::Arc<crate::regions::Region>)| {
        let key = region.key.clone();
        let status =
            RegionStatus { name: name.clone(), key, offset: region.offset, byte_size: region.byte_size };
        (name, status)
    };
    Ok(grpc::SystemSharedMemoryStatusResponse { regions: regions.into_iter().map(status).collect() })
}
