//! The service's methods, each a line or two to what does the work.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{Stream, StreamExt};
use siglip_protocol::grpc::inference as grpc;
use tonic::{Request, Response, Status, Streaming};

use super::generated::grpc_inference_service_server::GrpcInferenceService;
use super::{infer, manage, settings};
use crate::describe;
use crate::regions::RegionError;
use crate::state::ServerState;

/// Requests of one stream that are in work at once. They are answered in order.
const IN_WORK: usize = 64;

pub(super) struct Service {
    state: Arc<ServerState>,
}

impl Service {
    pub(super) fn new(state: Arc<ServerState>) -> Self {
        Service { state }
    }
}

type StreamOf<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<grpc::ServerLiveRequest>,
    ) -> Result<Response<grpc::ServerLiveResponse>, Status> {
        Ok(Response::new(grpc::ServerLiveResponse {
            live: self.state.registry.is_live(self.state.options.stuck_after),
        }))
    }

    async fn server_ready(
        &self,
        _: Request<grpc::ServerReadyRequest>,
    ) -> Result<Response<grpc::ServerReadyResponse>, Status> {
        Ok(Response::new(grpc::ServerReadyResponse { ready: self.state.registry.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<grpc::ModelReadyRequest>,
    ) -> Result<Response<grpc::ModelReadyResponse>, Status> {
        let grpc::ModelReadyRequest { name, version } = request.into_inner();
        let ready = manage::model_ready(&self.state, &name, &version)?;
        Ok(Response::new(grpc::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<grpc::ServerMetadataRequest>,
    ) -> Result<Response<grpc::ServerMetadataResponse>, Status> {
        Ok(Response::new(manage::server_metadata()))
    }

    async fn model_metadata(
        &self,
        request: Request<grpc::ModelMetadataRequest>,
    ) -> Result<Response<grpc::ModelMetadataResponse>, Status> {
        let grpc::ModelMetadataRequest { name, version } = request.into_inner();
        let endpoint = self.state.registry.find(&name, Some(&version))?;
        Ok(Response::new((&describe::metadata(&endpoint)).into()))
    }

    async fn model_infer(
        &self,
        request: Request<grpc::ModelInferRequest>,
    ) -> Result<Response<grpc::ModelInferResponse>, Status> {
        let received = Instant::now();
        Ok(infer::unary(&self.state, request.into_inner(), received).await?)
    }

    type ModelStreamInferStream = StreamOf<grpc::ModelStreamInferResponse>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<grpc::ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let state = self.state.clone();
        let answers = request
            .into_inner()
            .map(move |message| {
                let state = state.clone();
                async move { Ok(infer::streamed(&state, message?).await) }
            })
            .buffered(IN_WORK);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_config(
        &self,
        request: Request<grpc::ModelConfigRequest>,
    ) -> Result<Response<grpc::ModelConfigResponse>, Status> {
        let grpc::ModelConfigRequest { name, version } = request.into_inner();
        let endpoint = self.state.registry.find(&name, Some(&version))?;
        let config = (&describe::config(&self.state, &endpoint)).into();
        Ok(Response::new(grpc::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<grpc::ModelStatisticsRequest>,
    ) -> Result<Response<grpc::ModelStatisticsResponse>, Status> {
        let grpc::ModelStatisticsRequest { name, version } = request.into_inner();
        let model_stats = manage::statistics(&self.state, &name, &version)?;
        Ok(Response::new(grpc::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<grpc::RepositoryIndexRequest>,
    ) -> Result<Response<grpc::RepositoryIndexResponse>, Status> {
        let models = manage::index(&self.state, &request.into_inner())?;
        Ok(Response::new(grpc::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<grpc::RepositoryModelLoadRequest>,
    ) -> Result<Response<grpc::RepositoryModelLoadResponse>, Status> {
        manage::load(&self.state, request.into_inner()).await?;
        Ok(Response::new(Default::default()))
    }

    async fn repository_model_unload(
        &self,
        request: Request<grpc::RepositoryModelUnloadRequest>,
    ) -> Result<Response<grpc::RepositoryModelUnloadResponse>, Status> {
        manage::unload(&self.state, &request.into_inner()).await?;
        Ok(Response::new(Default::default()))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<grpc::SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<grpc::SystemSharedMemoryStatusResponse>, Status> {
        Ok(Response::new(manage::memory_status(&self.state, &request.into_inner().name)?))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<grpc::SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<grpc::SystemSharedMemoryRegisterResponse>, Status> {
        let grpc::SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request.into_inner();
        self.state.regions.register(&name, &key, offset, byte_size)?;
        Ok(Response::new(Default::default()))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<grpc::SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<grpc::SystemSharedMemoryUnregisterResponse>, Status> {
        let name = request.into_inner().name;
        self.state.regions.unregister(Some(name.as_str()).filter(|name| !name.is_empty()));
        Ok(Response::new(Default::default()))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<grpc::CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<grpc::CudaSharedMemoryStatusResponse>, Status> {
        match request.into_inner().name {
            name if name.is_empty() => Ok(Response::new(Default::default())),
            name => Err(RegionError::UnknownCuda(name).into()),
        }
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<grpc::CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<grpc::CudaSharedMemoryRegisterResponse>, Status> {
        Err(RegionError::NoCuda.into())
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<grpc::CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<grpc::CudaSharedMemoryUnregisterResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn trace_setting(
        &self,
        request: Request<grpc::TraceSettingRequest>,
    ) -> Result<Response<grpc::TraceSettingResponse>, Status> {
        Ok(Response::new(settings::trace(&self.state, request.into_inner())?))
    }

    async fn log_settings(
        &self,
        request: Request<grpc::LogSettingsRequest>,
    ) -> Result<Response<grpc::LogSettingsResponse>, Status> {
        Ok(Response::new(settings::log(&self.state, &request.into_inner())?))
    }
}
