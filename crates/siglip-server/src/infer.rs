//! A request's way from any door to the engine and back.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt;
use siglip_protocol::{DataType, InferRequest, InferResponse, TensorData};

use crate::endpoint::{Endpoint, Outcome};
use crate::error::InferError;
use crate::regions::RegionError;
use crate::registry::VERSION;
use crate::state::ServerState;
use crate::statistics::Failure;

/// Spans from this size on are not read on a thread that others wait for.
const LARGE_SPAN: u64 = 1 << 20;

/// Answers a request that a door has understood. Outputs for shared memory are there afterwards.
pub(crate) async fn infer(
    state: &ServerState,
    endpoint: &Endpoint,
    request: &mut InferRequest,
    received: Instant,
) -> Result<Outcome, InferError> {
    read_inputs(state, endpoint, request)?;
    for span in request.outputs.iter().filter_map(|output| output.shared_memory.as_ref()) {
        state.regions.find(span)?;
    }
    let traced = state.tracer.as_ref().and_then(|tracer| {
        let model = &endpoint.spec().name;
        let sample = state.settings.sample_trace(model)?;
        Some((tracer, tracer.begin(model, request, received, sample)))
    });
    // A connection is not to end by one request's panic, and a client is to be answered.
    let answer = AssertUnwindSafe(endpoint.infer(request, received)).catch_unwind().await;
    let answer = answer.unwrap_or_else(|_| {
        tracing::error!("answering a request for {} panicked", endpoint.spec().name);
        Err(InferError::Panicked)
    });
    if answer.as_ref().is_err_and(InferError::is_of_model) {
        endpoint.counters().record_failure(Failure::Other, received.elapsed());
    }
    let result = answer.and_then(|outcome| {
        write_output(state, request, &outcome).map_err(InferError::OutputRegion)?;
        Ok(outcome)
    });
    if let Some((tracer, trace)) = traced {
        tracer.end(trace, result.as_ref().ok());
    }
    result
}

/// Reads the inputs that are in shared memory, unless the model refuses the request whatever they hold: a region may be
/// far larger than any tensor, and larger than the memory.
fn read_inputs(
    state: &ServerState,
    endpoint: &Endpoint,
    request: &mut InferRequest,
) -> Result<(), InferError> {
    let mut any = false;
    for input in &request.inputs {
        if let TensorData::SharedMemory(span) = &input.data {
            state.regions.find(span)?;
            any = true;
        }
    }
    if !any || !endpoint.takes(request) {
        return Ok(());
    }
    let limit = state.options.max_body_bytes;
    for input in &mut request.inputs {
        let TensorData::SharedMemory(span) = &input.data else { continue };
        // The size of other types is that of the shape, which the model takes.
        if input.datatype == Some(DataType::Bytes) && span.byte_size > limit as u64 {
            let (input, given) = (input.name.clone(), span.byte_size);
            return Err(RegionError::InputSize { input, given, limit }.into());
        }
        let read = || state.regions.read(span);
        let bytes = if span.byte_size < LARGE_SPAN { read() } else { tokio::task::block_in_place(read) };
        input.data = TensorData::Raw(bytes?);
    }
    Ok(())
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
