//! Inference requests out of their messages.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use super::inference::infer_parameter::ParameterChoice;
use super::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::inference::{InferParameter, InferTensorContents, ModelInferRequest};
use crate::request::{InferRequest, OutputRequest, Parameter, ParameterValue, SharedMemorySpan, id_prefix};
use crate::response::OutputForm;
use crate::tensor::{InputTensor, TensorData};
use crate::{Code, DataType};

/// Why a message is no inference request. The words are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the words are right there")]
pub enum GrpcRequestError {
    #[error("invalid value type for '{name}' parameter, expected {expected}")]
    ParameterType { name: String, expected: &'static str },
    #[error(
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with \
         'triton_' are allowed: triton_enable_empty_final_response"
    )]
    ReservedParameter,
    #[error(
        "unexpected explicit tensor data for input tensor '{input}' for model '{model}' of type '{got}', expected \
         datatype '{expected}'"
    )]
    ContentsType { input: String, model: String, got: DataType, expected: &'static str },
    #[error(
        "unexpected explicit tensor data for input tensor '{input}' for model '{model}', binary data was already supplied."
    )]
    TwoFields { input: String, model: String },
    #[error(
        "contents field must not be specified when using raw_input_contents for '{input}' for model '{model}'"
    )]
    TwoContents { input: String, model: String },
    #[error(
        "unexpected 'content' provided when using shared memory for input tensor '{input}' for model '{model}'"
    )]
    ContentsAndSharedMemory { input: String, model: String },
    #[error("unable to find data for input tensor '{input}' for model '{model}' in request.")]
    NoContents { input: String, model: String },
    #[error(
        "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor '{0}'"
    )]
    NoByteSize(String),
    #[error("'{name}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor}'")]
    NoRegion { name: &'static str, tensor: String },
    #[error("invalid value for 'priority', expected value >= 0.")]
    NegativePriority,
    #[error("invalid value for 'classification' parameter, expected >= 0")]
    NoClasses,
    #[error("output can't set both 'shared_memory_region' and 'classification'")]
    TwoForms,
    #[error("invalid value type for '{name}' parameter for tensor '{tensor}', expected {expected}.")]
    TensorParameterType { name: &'static str, tensor: String, expected: &'static str },
    #[error("{id}input '{input}' already exists in request")]
    DuplicateInput { id: String, input: String },
}

impl GrpcRequestError {
    /// Its class.
    pub fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

type Parameters = BTreeMap<String, InferParameter>;

impl InferRequest {
    /// Understands a message, apart from the model and version that it names. Outputs are always binary.
    ///
    /// # Errors
    ///
    /// [`GrpcRequestError`]: the first thing that is wrong, in the order in which Triton looks.
    pub fn from_grpc(message: ModelInferRequest) -> Result<Self, GrpcRequestError> {
        let ModelInferRequest {
            model_name: model, id, parameters, inputs, outputs, raw_input_contents, ..
        } = message;
        let mut request = InferRequest { id, default_form: OutputForm::Binary, ..InferRequest::default() };
        read_parameters(parameters, &mut request)?;
        let any_raw = !raw_input_contents.is_empty();
        let mut raw = raw_input_contents.into_iter();
        // Millions of inputs fit into a message: those before are not searched one by one.
        let mut names = HashSet::new();
        if let Some(second) = inputs.iter().find(|input| !names.insert(input.name.as_str())) {
            let (id, input) = (id_prefix(&request.id), second.name.clone());
            return Err(GrpcRequestError::DuplicateInput { id, input });
        }
        for input in inputs {
            request.inputs.push(read_input(input, &mut raw, any_raw, &model)?);
        }
        request.outputs = outputs.into_iter().map(read_output).collect::<Result<_, _>>()?;
        // Of an output that is named more than once, whichever asks for classes counts.
        request.outputs.sort_by_key(|output| output.classes == 0);
        Ok(request)
    }
}

fn read_parameters(parameters: Parameters, request: &mut InferRequest) -> Result<(), GrpcRequestError> {
    for (name, InferParameter { parameter_choice: value }) in parameters {
        use ParameterChoice as P;
        // Sequences mean nothing to these models, but must be well formed.
        let (allowed, expected) = match name.as_str() {
            "sequence_id" => {
                (matches!(value, Some(P::Int64Param(_) | P::StringParam(_))), "int64_param or string_param.")
            }
            "sequence_start" | "sequence_end" => (matches!(value, Some(P::BoolParam(_))), "bool_param."),
            "priority" => {
                request.priority = match value {
                    Some(P::Int64Param(level)) => {
                        u64::try_from(level).map_err(|_| GrpcRequestError::NegativePriority)?
                    }
                    Some(P::Uint64Param(level)) => level,
                    _ => 0,
                };
                (matches!(value, Some(P::Int64Param(_) | P::Uint64Param(_))), "int64_param or uint64_param.")
            }
            "timeout" => {
                if let Some(P::Int64Param(timeout)) = value {
                    request.timeout_us = u64::try_from(timeout).unwrap_or(0);
                }
                (matches!(value, Some(P::Int64Param(_))), "int64_param.")
            }
            "triton_enable_empty_final_response" => (matches!(value, Some(P::BoolParam(_))), "bool_param."),
            name if name.starts_with("triton_") => return Err(GrpcRequestError::ReservedParameter),
            _ => {
                let value = match value {
                    Some(P::BoolParam(value)) => ParameterValue::Bool(value),
                    Some(P::Int64Param(value)) => ParameterValue::Int(value),
                    Some(P::DoubleParam(value)) => ParameterValue::Double(value),
                    Some(P::StringParam(value)) => ParameterValue::String(value),
                    Some(P::Uint64Param(_)) | None => {
                        let expected = "int64_param, bool_param, or string_param.";
                        return Err(GrpcRequestError::ParameterType { name, expected });
                    }
                };
                request.parameters.push(Parameter { name, value });
                continue;
            }
        };
        if !allowed {
            return Err(GrpcRequestError::ParameterType { name, expected });
        }
    }
    Ok(())
}

fn read_input(
    input: InferInputTensor,
    raw: &mut impl Iterator<Item = Bytes>,
    any_raw: bool,
    model: &str,
) -> Result<InputTensor, GrpcRequestError> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let model = || model.to_owned();
    let data = match (read_span(&name, &parameters)?, contents) {
        (Some(_), Some(_)) => {
            return Err(GrpcRequestError::ContentsAndSharedMemory { input: name, model: model() });
        }
        (Some(span), None) => TensorData::SharedMemory(span),
        (None, Some(_)) if any_raw => {
            return Err(GrpcRequestError::TwoContents { input: name, model: model() });
        }
        (None, Some(contents)) => {
            let datatype = DataType::from_name(datatype.as_bytes());
            read_contents(contents, datatype).map_err(|error| match error {
                ContentsError::Type(got) => GrpcRequestError::ContentsType {
                    input: name.clone(),
                    model: model(),
                    got,
                    expected: datatype.map_or("<invalid>", DataType::name),
                },
                ContentsError::TwoFields => {
                    GrpcRequestError::TwoFields { input: name.clone(), model: model() }
                }
            })?
        }
        (None, None) => match raw.next() {
            Some(bytes) => TensorData::Raw(bytes),
            None => return Err(GrpcRequestError::NoContents { input: name, model: model() }),
        },
    };
    Ok(InputTensor { datatype: DataType::from_name(datatype.as_bytes()), name, shape, data })
}

enum ContentsError {
    /// A field that has elements goes with this other type.
    Type(DataType),
    /// The right field has elements, and so has one after it.
    TwoFields,
}

/// The elements from the one field that goes with the tensor's type. Small integers travel in 32 bits.
fn read_contents(
    contents: InferTensorContents,
    datatype: Option<DataType>,
) -> Result<TensorData, ContentsError> {
    use DataType as D;
    let fields: [(bool, D, &[D]); 8] = [
        (contents.bool_contents.is_empty(), D::Bool, &[D::Bool]),
        (contents.int_contents.is_empty(), D::Int32, &[D::Int8, D::Int16, D::Int32]),
        (contents.int64_contents.is_empty(), D::Int64, &[D::Int64]),
        (contents.uint_contents.is_empty(), D::Uint32, &[D::Uint8, D::Uint16, D::Uint32]),
        (contents.uint64_contents.is_empty(), D::Uint64, &[D::Uint64]),
        (contents.fp32_contents.is_empty(), D::Fp32, &[D::Fp32]),
        (contents.fp64_contents.is_empty(), D::Fp64, &[D::Fp64]),
        (contents.bytes_contents.is_empty(), D::Bytes, &[D::Bytes]),
    ];
    let mut found = false;
    for (_, field, goes_with) in fields.into_iter().filter(|(empty, ..)| !empty) {
        if found {
            return Err(ContentsError::TwoFields);
        }
        if !datatype.is_some_and(|datatype| goes_with.contains(&datatype)) {
            return Err(ContentsError::Type(field));
        }
        found = true;
    }
    Ok(match datatype {
        Some(D::Int64) => TensorData::Int64(contents.int64_contents),
        Some(D::Fp32) => TensorData::Fp32(contents.fp32_contents),
        Some(D::Bytes) => TensorData::Strings(contents.bytes_contents),
        _ => TensorData::Discarded,
    })
}

fn read_output(output: InferRequestedOutputTensor) -> Result<OutputRequest, GrpcRequestError> {
    let InferRequestedOutputTensor { name, parameters } = output;
    let shared_memory = read_span(&name, &parameters)?;
    let classes = match parameters.get("classification").map(|parameter| &parameter.parameter_choice) {
        None => 0,
        Some(Some(ParameterChoice::Int64Param(..=0))) => return Err(GrpcRequestError::NoClasses),
        Some(Some(ParameterChoice::Int64Param(_))) if shared_memory.is_some() => {
            return Err(GrpcRequestError::TwoForms);
        }
        // Triton keeps 32 bits of it.
        Some(Some(ParameterChoice::Int64Param(classes))) => *classes as u32 as usize,
        Some(_) => {
            let (name, expected) = ("classification".to_owned(), "int64_param");
            return Err(GrpcRequestError::ParameterType { name, expected });
        }
    };
    Ok(OutputRequest { name, form: OutputForm::Binary, classes, shared_memory })
}

/// The place in shared memory that a tensor's parameters name.
fn read_span(tensor: &str, parameters: &Parameters) -> Result<Option<SharedMemorySpan>, GrpcRequestError> {
    let wrong =
        |name, expected| GrpcRequestError::TensorParameterType { name, tensor: tensor.to_owned(), expected };
    let number = |name| match parameters.get(name).map(|parameter| &parameter.parameter_choice) {
        None => Ok(None),
        Some(Some(ParameterChoice::Int64Param(value))) => Ok(Some(u64::try_from(*value).unwrap_or(u64::MAX))),
        Some(_) => Err(wrong(name, "int64_param")),
    };
    let region = match parameters.get("shared_memory_region").map(|parameter| &parameter.parameter_choice) {
        None => {
            let place = ["shared_memory_offset", "shared_memory_byte_size"];
            return match place.into_iter().find(|&name| parameters.contains_key(name)) {
                Some(name) => Err(GrpcRequestError::NoRegion { name, tensor: tensor.to_owned() }),
                None => Ok(None),
            };
        }
        Some(Some(ParameterChoice::StringParam(region))) => region.clone(),
        Some(_) => return Err(wrong("shared_memory_region", "string_param")),
    };
    let offset = number("shared_memory_offset")?.unwrap_or(0);
    let byte_size = number("shared_memory_byte_size")?;
    let byte_size = byte_size.ok_or_else(|| GrpcRequestError::NoByteSize(tensor.to_owned()))?;
    Ok(Some(SharedMemorySpan { region, offset, byte_size }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &str = "IDS";

    fn message() -> ModelInferRequest {
        let input = InferInputTensor {
            name: IDS.to_owned(),
            datatype: "INT64".to_owned(),
            shape: vec![1, 1],
            ..InferInputTensor::default()
        };
        ModelInferRequest {
            model_name: "m".to_owned(),
            inputs: vec![input],
            raw_input_contents: vec![Bytes::from_static(&[0; 8])],
            ..ModelInferRequest::default()
        }
    }

    fn output(parameters: &[(&str, ParameterChoice)]) -> InferRequestedOutputTensor {
        InferRequestedOutputTensor { name: "OUT".to_owned(), parameters: self::parameters(parameters) }
    }

    fn parameters(parameters: &[(&str, ParameterChoice)]) -> Parameters {
        let parameter = |choice: &ParameterChoice| InferParameter { parameter_choice: Some(choice.clone()) };
        parameters.iter().map(|(name, choice)| ((*name).to_owned(), parameter(choice))).collect()
    }

    fn refused(message: ModelInferRequest) -> String {
        InferRequest::from_grpc(message).unwrap_err().to_string()
    }

    /// As a real Triton 24.10 answered.
    #[test]
    fn what_is_wrong_in_order() {
        use ParameterChoice::{Int64Param, StringParam};
        let change = |change: &dyn Fn(&mut ModelInferRequest)| {
            let mut message = message();
            change(&mut message);
            refused(message)
        };
        let contents = |ids: usize, ints: usize| {
            Some(InferTensorContents {
                int64_contents: vec![1; ids],
                int_contents: vec![1; ints],
                ..InferTensorContents::default()
            })
        };
        let without_raw = |message: &mut ModelInferRequest| message.raw_input_contents.clear();
        for (got, words) in [
            (
                change(&|message| {
                    message.inputs.push(message.inputs[0].clone());
                    message.inputs[0].contents = contents(1, 0);
                }),
                "[request id: <id_unknown>] input 'IDS' already exists in request",
            ),
            (change(&without_raw), "unable to find data for input tensor 'IDS' for model 'm' in request."),
            (
                change(&|message| {
                    without_raw(message);
                    message.inputs[0].datatype = "int64".to_owned();
                    message.inputs[0].contents = contents(1, 0);
                }),
                "unexpected explicit tensor data for input tensor 'IDS' for model 'm' of type 'INT64', expected \
                 datatype '<invalid>'",
            ),
            (
                change(&|message| {
                    without_raw(message);
                    message.inputs[0].datatype = "INT32".to_owned();
                    message.inputs[0].contents = contents(1, 1);
                }),
                "unexpected explicit tensor data for input tensor 'IDS' for model 'm', binary data was already supplied.",
            ),
            (
                change(&|message| {
                    message.inputs[0].parameters = parameters(&[
                        ("shared_memory_byte_size", Int64Param(8)),
                        ("shared_memory_offset", Int64Param(0)),
                    ]);
                    message.outputs = vec![output(&[("classification", Int64Param(0))])];
                }),
                "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for tensor 'IDS'",
            ),
            (
                change(&|message| message.outputs = vec![output(&[("classification", Int64Param(0))])]),
                "invalid value for 'classification' parameter, expected >= 0",
            ),
            (
                change(&|message| {
                    message.outputs = vec![output(&[
                        ("classification", Int64Param(3)),
                        ("shared_memory_region", StringParam("r".to_owned())),
                        ("shared_memory_byte_size", Int64Param(8)),
                    ])];
                }),
                "output can't set both 'shared_memory_region' and 'classification'",
            ),
            (
                change(&|message| message.parameters = parameters(&[("priority", Int64Param(-1))])),
                "invalid value for 'priority', expected value >= 0.",
            ),
        ] {
            assert_eq!(got, words);
        }
    }

    #[test]
    fn classes_of_an_output_that_is_named_twice() {
        let mut message = message();
        let classes = ParameterChoice::Int64Param((1 << 32) + 2);
        message.outputs = vec![output(&[]), output(&[("classification", classes)])];
        let outputs = InferRequest::from_grpc(message).unwrap().outputs;
        assert_eq!(outputs.iter().map(|output| output.classes).collect::<Vec<_>>(), [2, 0]);
    }
}
