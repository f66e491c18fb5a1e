//! A request's way from any door to the engine and back.

use std::time::Instant;

use siglip_protocol::{InferRequest, InferResponse, OutputRequest, TensorData};

use crate::batcher::Answer;
use crate::endpoint::{EMBEDDING, Endpoint};
use crate::error::InferError;
use crate::regions::RegionError;
use crate::registry::VERSION;
use crate::state::ServerState;

/// Answers a request that a door has understood. Outputs for shared memory are there afterwards.
pub(crate) async fn infer(
    state: &ServerState,
    endpoint: &Endpoint,
    request: &mut InferRequest,
    received: Instant,
) -> Result<Answer, InferError> {
    for input in &mut request.inputs {
        if let TensorData::SharedMemory(span) = &input.data {
            input.data = TensorData::Raw(state.regions.read(span)?);
        }
    }
    for span in request.outputs.iter().filter_map(|output| output.shared_memory.as_ref()) {
        state.regions.find(span)?;
    }
    let answer = endpoint.infer(request, received).await?;
    if let Some(output) = request.outputs.iter().find(|output| output.name == EMBEDDING) {
        write_output(state, output, &answer).map_err(InferError::OutputRegion)?;
    }
    Ok(answer)
}

fn write_output(state: &ServerState, output: &OutputRequest, answer: &Answer) -> Result<(), RegionError> {
    let Some(span) = &output.shared_memory else { return Ok(()) };
    let bytes = siglip_protocol::f32_bytes(&answer.embeddings);
    if span.byte_size < bytes.len() as u64 {
        let (output, given) = (output.name.clone(), span.byte_size);
        return Err(RegionError::OutputSize { output, given, needed: bytes.len() });
    }
    state.regions.write(span, &bytes)
}

/// The answer as the reply to the request.
pub(crate) fn response<'a>(
    endpoint: &'a Endpoint,
    request: &'a InferRequest,
    answer: &'a Answer,
) -> InferResponse<'a> {
    let columns = endpoint.batcher().info().embedding_size;
    InferResponse {
        id: &request.id,
        model: &endpoint.spec().name,
        version: VERSION,
        output: EMBEDDING,
        // The size was checked not to be 0 when the engine was taken in.
        shape: [answer.embeddings.len() / columns.max(1), columns],
        data: &answer.embeddings,
    }
}
