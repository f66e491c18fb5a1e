//! The JSON part of a request, read in the order in which Triton reads it, so that of several errors the same one is
//! reported.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;

use super::{InferRequest, OutputRequest, Parameter, ParameterValue, SharedMemorySpan};
use crate::DataType;
use crate::error::RequestError;
use crate::json::{self, AccessError, Kind, Value};
use crate::response::OutputForm;
use crate::tensor::{InputTensor, TensorData};

pub(super) fn read(body: &Bytes, header_length: usize, model: &str) -> Result<InferRequest, RequestError> {
    let header = body.slice(..header_length.min(body.len()));
    let fields = Fields::of(json::parse(&header)?);

    let mut request = InferRequest::default();
    if let Some(id) = fields.id {
        request.id = text(&id.string().map_err(field("id"))?);
    }
    if let Some(parameters) = fields.parameters {
        read_parameters(&parameters, &mut request)?;
    }
    let inputs = fields.inputs.ok_or(AccessError::Missing("inputs")).and_then(|inputs| inputs.array());
    let mut binary = body.slice(header.len()..);
    let mut names = HashSet::new();
    for item in inputs.map_err(field("inputs"))?.elements() {
        let input = read_input(&item, &header, &mut binary, &mut names, &request, model)?;
        request.inputs.push(input);
    }
    if !binary.is_empty() {
        return Err(RequestError::AdditionalBytes(model.to_owned()));
    }
    if let Some(outputs) = fields.outputs {
        for item in outputs.array().map_err(field("outputs"))?.elements() {
            request.outputs.push(read_output(&item)?);
        }
    }
    Ok(request)
}

/// The members of the whole that matter, the first of each name.
#[derive(Default)]
struct Fields<'a> {
    id: Option<Value<'a>>,
    parameters: Option<Value<'a>>,
    inputs: Option<Value<'a>>,
    outputs: Option<Value<'a>>,
}

impl<'a> Fields<'a> {
    fn of(root: Value<'a>) -> Self {
        let mut fields = Fields::default();
        for member in root.members() {
            let place = match &*member.name() {
                b"id" => &mut fields.id,
                b"parameters" => &mut fields.parameters,
                b"inputs" => &mut fields.inputs,
                b"outputs" => &mut fields.outputs,
                _ => continue,
            };
            place.get_or_insert(member.value);
        }
        fields
    }
}

pub(super) fn read_parameters(
    parameters: &Value<'_>,
    request: &mut InferRequest,
) -> Result<(), RequestError> {
    if parameters.kind() != Kind::Object {
        return Err(RequestError::Parameters(AccessError::NotObject));
    }
    for member in parameters.members() {
        let (name, value) = (member.name(), member.value);
        match &*name {
            // Sequences mean nothing to these models, but must be well formed.
            b"sequence_id" => match value.unsigned() {
                Ok(_) => {}
                Err(_) => drop(value.string().map_err(field("sequence_id"))?),
            },
            b"sequence_start" => drop(value.bool().map_err(field("sequence_start"))?),
            b"sequence_end" => drop(value.bool().map_err(field("sequence_end"))?),
            b"priority" => request.priority = value.unsigned().map_err(field("priority"))?,
            b"timeout" => request.timeout_us = value.unsigned().map_err(field("timeout"))?,
            b"binary_data_output" => {
                let binary = value.bool().map_err(field("binary_data_output"))?;
                request.default_form = if binary { OutputForm::Binary } else { OutputForm::Json };
            }
            name if name.starts_with(b"triton_") => return Err(RequestError::ReservedParameter),
            name => {
                let name = text(name);
                let value =
                    parameter_value(&value).ok_or_else(|| RequestError::ParameterType(name.clone()))?;
                request.parameters.push(Parameter { name, value });
            }
        }
    }
    Ok(())
}

pub(super) fn parameter_value(value: &Value<'_>) -> Option<ParameterValue> {
    match value.kind() {
        Kind::String => value.string().ok().map(|value| ParameterValue::String(text(&value))),
        Kind::Bool => value.bool().ok().map(ParameterValue::Bool),
        Kind::Number => match value.signed() {
            Ok(value) => Some(ParameterValue::Int(value)),
            Err(_) => value.double().ok().map(ParameterValue::Double),
        },
        Kind::Object | Kind::Array | Kind::Null => None,
    }
}

/// The members of an input that matter, the first of each name.
#[derive(Default)]
struct InputFields<'a> {
    name: Option<Value<'a>>,
    datatype: Option<Value<'a>>,
    shape: Option<Value<'a>>,
    data: Option<Value<'a>>,
    parameters: Option<Value<'a>>,
}

impl<'a> InputFields<'a> {
    fn of(item: &Value<'a>) -> Self {
        let mut fields = InputFields::default();
        for member in item.members() {
            let place = match &*member.name() {
                b"name" => &mut fields.name,
                b"datatype" => &mut fields.datatype,
                b"shape" => &mut fields.shape,
                b"data" => &mut fields.data,
                b"parameters" => &mut fields.parameters,
                _ => continue,
            };
            place.get_or_insert(member.value);
        }
        fields
    }

    fn parameter(&self, name: &str) -> Option<Value<'a>> {
        self.parameters.and_then(|parameters| parameters.get(name))
    }
}

fn read_input(
    item: &Value<'_>,
    header: &Bytes,
    binary: &mut Bytes,
    names: &mut HashSet<String>,
    request: &InferRequest,
    model: &str,
) -> Result<InputTensor, RequestError> {
    let fields = InputFields::of(item);
    let binary_size = fields.parameter("binary_data_size");
    let region = fields.parameter("shared_memory_region");
    check_source(fields.data.is_some(), binary_size.is_some(), region.is_some())?;

    let name = required(fields.name, "name").and_then(|name| name.string());
    let name = text(&name.map_err(field("name"))?);
    let datatype = required(fields.datatype, "datatype").and_then(|datatype| datatype.string());
    let datatype = DataType::from_name(&datatype.map_err(field("datatype"))?);
    let shape = required(fields.shape, "shape").and_then(|shape| shape.array());
    let shape: Result<Vec<i64>, AccessError> = shape
        .map_err(field("shape"))?
        .elements()
        .map(|dimension| dimension.unsigned().map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
        .collect();
    let shape = shape.map_err(field("shape"))?;
    // Millions of inputs fit into a body: those before are not searched one by one.
    if !names.insert(name.clone()) {
        return Err(RequestError::DuplicateInput { id: request.prefix(), input: name });
    }

    let data = if let Some(size) = binary_size {
        let size = size.unsigned().map_err(field("binary_data_size"))?;
        let available = usize::try_from(size).ok().filter(|&size| size <= binary.len());
        let size = available.ok_or_else(|| RequestError::MissingBytes {
            input: name.clone(),
            missing: size - binary.len() as u64,
            model: model.to_owned(),
        })?;
        TensorData::Raw(binary.split_to(size))
    } else if let Some(span) = read_span(fields.parameters)? {
        TensorData::SharedMemory(span)
    } else {
        read_data(&name, datatype, &shape, fields.data, header)?
    };
    Ok(InputTensor { name, datatype, shape, data })
}

fn check_source(data: bool, binary: bool, shared_memory: bool) -> Result<(), RequestError> {
    Err(RequestError::DataSource(match (data, binary, shared_memory) {
        (true, false, false) | (false, true, false) | (false, false, true) => return Ok(()),
        (false, false, false) => "no field is set",
        (true, true, false) => "set 'data' 'binary_data_size'",
        (true, false, true) => "set 'data' 'shared_memory_region'",
        (false, true, true) => "set 'binary_data_size' 'shared_memory_region'",
        (true, true, true) => "set 'data' 'binary_data_size' 'shared_memory_region'",
    }))
}

/// Triton counts the elements of a request with a signed 32-bit integer.
const MAX_ELEMENTS: i64 = i32::MAX as i64;

pub(super) fn read_data(
    input: &str,
    datatype: Option<DataType>,
    shape: &[i64],
    data: Option<Value<'_>>,
    header: &Bytes,
) -> Result<TensorData, RequestError> {
    // Triton takes a tensor without dimensions for one without elements.
    if shape.is_empty() || shape.contains(&0) {
        return Ok(TensorData::Raw(Bytes::new()));
    }
    let data = required(data, "data").and_then(|data| data.array()).map_err(field("data"))?;
    if datatype == Some(DataType::Bytes) {
        return Ok(TensorData::Strings(read_strings(&data, header)?));
    }
    let count = shape.iter().try_fold(1_i64, |count, &dimension| count.checked_mul(dimension));
    let count = count.filter(|&count| count <= MAX_ELEMENTS).and_then(|count| usize::try_from(count).ok());
    let count = count
        .ok_or_else(|| RequestError::TooManyElements { input: input.to_owned(), shape: shape.to_owned() })?;
    let check: fn(&Value<'_>) -> Result<(), AccessError> = match datatype {
        Some(DataType::Int64) => return Ok(TensorData::Int64(json::read_i64(&data, count)?)),
        Some(DataType::Fp32) => return Ok(TensorData::Fp32(json::read_f32(&data, count)?)),
        Some(DataType::Bool) => |value| value.bool().map(drop),
        Some(DataType::Uint8 | DataType::Uint16 | DataType::Uint32 | DataType::Uint64) => {
            |value| value.unsigned().map(drop)
        }
        Some(DataType::Int8 | DataType::Int16 | DataType::Int32) => |value| value.signed().map(drop),
        Some(DataType::Fp64) => |value| value.double().map(drop),
        Some(datatype @ (DataType::Fp16 | DataType::Bf16 | DataType::Bytes)) => {
            return Err(RequestError::NoJsonForm { datatype, input: input.to_owned() });
        }
        None => return Err(RequestError::DataType(input.to_owned())),
    };
    json::read_other(&data, count, check)?;
    Ok(TensorData::Discarded)
}

/// The strings of an array in `header`: slices of it where nothing was escaped.
pub(super) fn read_strings(data: &Value<'_>, header: &Bytes) -> Result<Vec<Bytes>, RequestError> {
    let mut strings = Vec::new();
    json::read_strings(data, |quoted| {
        strings.push(match json::unescape(quoted) {
            // `quoted` is a part of `header`, which is what `slice_ref` asks for.
            Cow::Borrowed(plain) => header.slice_ref(plain),
            Cow::Owned(text) => Bytes::from(text),
        });
    })
    .map_err(RequestError::BytesData)?;
    Ok(strings)
}

fn read_output(item: &Value<'_>) -> Result<OutputRequest, RequestError> {
    let parameters = item.get("parameters");
    let parameter = |name| parameters.and_then(|parameters| parameters.get(name));
    if parameter("shared_memory_region").is_some() {
        if parameter("classification").is_some() {
            return Err(RequestError::OutputConflict("classification"));
        }
        let binary = parameter("binary_data").map_or(Ok(false), |binary| binary.bool());
        if binary.map_err(|error| RequestError::OutputField { field: "binary_data", error })? {
            return Err(RequestError::OutputConflict("binary_data"));
        }
    }
    let name = item.member("name").and_then(|name| name.string()).map_err(field("name"))?;
    let classes = parameter("classification").map_or(Ok(0), |classes| classes.unsigned());
    let classes = classes.map_err(|error| RequestError::OutputField { field: "classification", error })?;
    let shared_memory = read_span(parameters)?;
    let binary = match shared_memory {
        Some(_) => false,
        None => parameter("binary_data")
            .map_or(Ok(false), |binary| binary.bool())
            .map_err(field("binary_data"))?,
    };
    Ok(OutputRequest {
        name: text(&name),
        form: if binary { OutputForm::Binary } else { OutputForm::Json },
        // Triton keeps 32 bits of it.
        classes: classes as u32 as usize,
        shared_memory,
    })
}

fn read_span(parameters: Option<Value<'_>>) -> Result<Option<SharedMemorySpan>, RequestError> {
    let parameter = |name| parameters.and_then(|parameters| parameters.get(name));
    let number = |name| parameter(name).map_or(Ok(0), |value| value.unsigned()).map_err(field(name));
    let region = parameter("shared_memory_region")
        .map(|region| region.string().map(|region| text(&region)))
        .transpose()
        .map_err(field("shared_memory_region"))?;
    let offset = number("shared_memory_offset")?;
    let byte_size = number("shared_memory_byte_size")?;
    Ok(region.map(|region| SharedMemorySpan { region, offset, byte_size }))
}

fn required<'a>(value: Option<Value<'a>>, name: &'static str) -> Result<Value<'a>, AccessError> {
    value.ok_or(AccessError::Missing(name))
}

pub(super) fn field(field: &'static str) -> impl Fn(AccessError) -> RequestError {
    move |error| RequestError::Field { field, error }
}

/// Names and ids are given back in replies, which are always UTF-8.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
