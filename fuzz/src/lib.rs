//! What is done with every input that the fuzzer comes up with, and what must hold for it whatever it is.
//!
//! Not to panic, not to read past a buffer and not to run out of memory or time is what the fuzzer itself looks at. The
//! assertions here are about the answers: nothing is accepted that is not what the model takes, and no byte is lost.

use bytes::Bytes;
use prost::Message;
use siglip_protocol::grpc::inference::ModelInferRequest;
use siglip_protocol::{
    BytesTensorError, DataType, InferRequest, InferResponse, ModelSpec, OutputData, TensorData, TensorSpec,
    json, split_bytes_tensor,
};

/// The body of an infer request without binary tensors.
pub fn infer_json(body: &[u8]) {
    let valid = json::parse(body).map(drop);
    if serde_json::from_slice::<serde_json::Value>(body).is_ok() {
        assert_eq!(valid, Ok(()), "what another reader takes for JSON is JSON");
    }
    let body = Bytes::copy_from_slice(body);
    if let Ok(request) = InferRequest::from_body(&body, body.len(), "siglip_text")
        && !body.is_empty()
    {
        assert_eq!(valid, Ok(()), "a request is JSON");
        check_and_answer(&request);
    }
}

/// The body of an infer request with binary tensors: two bytes, little-endian, for the length of the JSON, and the body.
pub fn infer_binary(data: &[u8]) {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return };
    let body = Bytes::copy_from_slice(body);
    let header_length = usize::from(u16::from_le_bytes(*length)).min(body.len());
    if let Ok(request) = InferRequest::from_body(&body, header_length, "siglip_text") {
        let binary = request.inputs.iter().map(|input| match &input.data {
            TensorData::Raw(bytes) => bytes.len(),
            _ => 0,
        });
        assert_eq!(binary.sum::<usize>(), body.len() - header_length, "every byte belongs to a tensor");
        check_and_answer(&request);
    }
}

/// A BYTES tensor in binary form.
pub fn bytes_tensor(tensor: &[u8]) {
    let mut strings = Vec::new();
    let result = split_bytes_tensor(&Bytes::copy_from_slice(tensor), &mut strings);
    let mut written = Vec::new();
    for string in &strings {
        written.extend_from_slice(&(string.len() as u32).to_le_bytes());
        written.extend_from_slice(string);
    }
    let rest = tensor.strip_prefix(&*written).expect("the strings are what the tensor starts with");
    match result {
        Ok(()) => assert!(rest.is_empty()),
        Err(BytesTensorError::IncompleteLength { available }) => {
            assert!(available == rest.len() && (1..4).contains(&available));
        }
        Err(BytesTensorError::IncompleteString { length, available }) => {
            assert!(available == rest.len() - 4 && length > available);
        }
    }
}

/// The message of `ModelInfer` and `ModelStreamInfer`.
pub fn grpc_request(message: &[u8]) {
    let Ok(message) = ModelInferRequest::decode(message) else { return };
    let (id, inputs) = (message.id.clone(), message.inputs.len());
    if let Ok(request) = InferRequest::from_grpc(message) {
        assert_eq!((&request.id, request.inputs.len()), (&id, inputs));
        check_and_answer(&request);
    }
}

/// Checks a request against models of all kinds, and answers it.
fn check_and_answer(request: &InferRequest) {
    for spec in models() {
        let mut request = request.clone();
        let Ok((rows, inputs)) = spec.check(&mut request) else { continue };
        assert!((1..=spec.max_batch_size).contains(&rows));
        assert_eq!(inputs.len(), spec.inputs.len());
        for (spec, input) in spec.inputs.iter().zip(&inputs) {
            assert_eq!(input.shape.first(), Some(&(rows as i64)));
            let elements = match &input.data {
                TensorData::Int64(values) => values.len(),
                TensorData::Fp32(values) => values.len(),
                TensorData::Strings(strings) => strings.len(),
                TensorData::Raw(bytes) => bytes.len() / spec.datatype.size().expect("BYTES are split"),
                // The door resolves it, and checks again.
                TensorData::SharedMemory(_) => continue,
                TensorData::Discarded => panic!("elements that were not kept were accepted"),
            };
            assert_eq!(input.shape.iter().product::<i64>(), elements as i64);
        }
        answer(&request, &spec, rows);
    }
}

/// The JSON part of the answer is JSON, and says whose it is, whatever the request's names are made of.
fn answer(request: &InferRequest, spec: &ModelSpec, rows: usize) {
    let data: Vec<f32> = (0..rows * 3).map(|index| index as f32 / 7.0).collect();
    let response = InferResponse {
        id: &request.id,
        model: &spec.name,
        version: "1",
        output: "EMBEDDING",
        shape: &[rows, 3],
        data: OutputData::Fp32(&data),
    };
    let encoded = response.encode(&request.outputs, request.default_form);
    let header = &encoded.body[..encoded.header_length.unwrap_or(encoded.body.len())];
    let header: serde_json::Value = serde_json::from_slice(header).expect("an answer is JSON");
    assert_eq!(header["id"].as_str().unwrap_or_default(), request.id);
    response.to_grpc(&request.outputs);
}

/// A model of each kind: fixed and free dimensions, numbers and strings, one input and two.
fn models() -> [ModelSpec; 4] {
    let input = |name: &str, datatype, dims: &[i64]| TensorSpec {
        name: name.to_owned(),
        datatype,
        dims: dims.to_vec(),
    };
    let model = |name: &str, inputs| ModelSpec {
        name: name.to_owned(),
        inputs,
        outputs: vec![input("EMBEDDING", DataType::Fp32, &[3])],
        max_batch_size: 32,
    };
    [
        model("siglip_text", vec![input("INPUT_IDS", DataType::Int64, &[64])]),
        model("embed_text", vec![input("INPUT_TEXT", DataType::Bytes, &[1])]),
        model("siglip_vision", vec![input("PIXEL_VALUES", DataType::Fp32, &[3, 2, 2])]),
        model(
            "zero_shot_image",
            vec![input("INPUT_IMAGE", DataType::Bytes, &[1]), input("LABELS", DataType::Bytes, &[-1])],
        ),
    ]
}
