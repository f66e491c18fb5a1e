//! Inference over gRPC.

use std::time::{Duration, Instant};

use siglip_protocol::InferRequest;
use siglip_protocol::grpc::inference::infer_parameter::ParameterChoice;
use siglip_protocol::grpc::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use tonic::Response;
use tonic::metadata::MetadataValue;

use crate::endpoint::Outcome;
use crate::error::InferError;
use crate::state::ServerState;

/// Answers one request; how it was computed goes along as metadata.
pub(super) async fn unary(
    state: &ServerState,
    message: ModelInferRequest,
    received: Instant,
) -> Result<Response<ModelInferResponse>, InferError> {
    let (message, outcome) = infer(state, message, received).await?;
    let mut response = Response::new(message);
    let metadata = response.metadata_mut();
    metadata.insert("x-siglip-batch-size", MetadataValue::from(outcome.batch_rows));
    metadata.insert("x-siglip-queue-us", micros(outcome.queue()));
    metadata.insert("x-siglip-compute-us", micros(outcome.compute()));
    Ok(response)
}

/// Answers one request of a stream; an error is a message like any other, and the stream goes on.
pub(super) async fn streamed(state: &ServerState, message: ModelInferRequest) -> ModelStreamInferResponse {
    let id = message.id.clone();
    match infer(state, message, Instant::now()).await {
        Ok((mut response, _)) => {
            let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
            response.parameters.insert("triton_final_response".to_owned(), last);
            ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
        }
        Err(error) => {
            let response = ModelInferResponse { id, ..ModelInferResponse::default() };
            ModelStreamInferResponse { error_message: error.to_string(), infer_response: Some(response) }
        }
    }
}

async fn infer(
    state: &ServerState,
    message: ModelInferRequest,
    received: Instant,
) -> Result<(ModelInferResponse, Outcome), InferError> {
    let endpoint = state.registry.find(&message.model_name, Some(&message.model_version))?;
    let mut request = InferRequest::from_grpc(message)?;
    let outcome = crate::infer::infer(state, &endpoint, &mut request, received).await?;
    let response = crate::infer::response(&endpoint, &request, &outcome).to_grpc(&request.outputs);
    Ok((response, outcome))
}

fn micros(duration: Duration) -> MetadataValue<tonic::metadata::Ascii> {
    MetadataValue::from(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
