//! A request's way from any door to the engine and back.

use std::time::Instant;

use siglip_protocol::{InferRequest, InferResponse, TensorData};

use crate::endpoint::{Endpoint, Outcome};
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
) -> Result<Outcome, InferError> {
    for input in &mut request.inputs {
        if let TensorData::SharedMemory(span) = &input.data {
            input.data = TensorData::Raw(state.regions.read(span)?);
        }
    }
    for span in request.outputs.iter().filter_map(|output| output.shared_memory.as_ref()) {
        state.regions.find(span)?;
    }
    let traced = state.tracer.as_ref().and_then(|tracer| {
        let model = &endpoint.spec().name;
        let sample = state.settings.sample_trace(model)?;
        Some((tracer, tracer.begin(model, request, received, sample)))
    });
    let result = endpoint.infer(request, received).await.and_then(|outcome| {
        write_output(state, request, &outcome).map_err(InferError::OutputRegion)?;
        Ok(outcome)
    });
    if let Some((tracer, trace)) = traced {
        tracer.end(trace, result.as_ref().ok());
    }
    result
}

fn write_output(state: &ServerState, request: &InferRequest, outcome: &Outcome) -> Result<(), RegionError> {
    let Some(output) = request.outputs.iter().find(|output| output.name == outcome.output) else {
        return Ok(());
    };
    let Some(span) = &output.shared_memory else { return Ok(()) };
    let data = outcome.values.as_data();
    if span.byte_size < data.byte_size() as u64 {
        let (output, given) = (output.name.clone(), span.byte_size);
        return Err(RegionError::OutputSize { output, given, needed: data.byte_size() });
    }
    let mut bytes = Vec::with_capacity(data.byte_size());
    data.append_bytes(&mut bytes);
    state.regions.write(span, &bytes)
}

/// The outcome as the reply to the request.
pub(crate) fn response<'a>(
    endpoint: &'a Endpoint,
    request: &'a InferRequest,
    outcome: &'a Outcome,
) -> InferResponse<'a> {
    InferResponse {
        id: &request.id,
        model: &endpoint.spec().name,
        version: VERSION,
        output: outcome.output,
        shape: &outcome.shape,
        data: outcome.values.as_data(),
    }
}
