//! The `generate` extension: a request as one flat object, without types and shapes.
//!
//! A member that has the name of one of the model's tensors is that tensor, in a batch of one; `id` and `parameters`
//! are what they are elsewhere; any other member is a parameter.
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md>

use bytes::Bytes;

use super::json::{field, parameter_value, read_parameters, read_strings, text};
use super::{InferRequest, Parameter};
use crate::DataType;
use crate::check::TensorSpec;
use crate::error::RequestError;
use crate::json::{self, Kind, Value};
use crate::tensor::{InputTensor, TensorData};

impl InferRequest {
    /// Understands the body of a `generate` request. `find` gives the model's tensor of a name.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: the first thing that is wrong.
    pub fn from_generate<'s>(
        body: &Bytes,
        find: impl Fn(&str) -> Option<&'s TensorSpec>,
    ) -> Result<Self, RequestError> {
        json::validate(body)?;
        let mut request = InferRequest::default();
        for member in Value::root(body).members() {
            let (name, value) = (member.name(), member.value);
            match &*name {
                b"id" => request.id = text(&value.string().map_err(field("id"))?),
                b"parameters" => read_parameters(&value, &mut request)?,
                name => {
                    let name = text(name);
                    match find(&name) {
                        Some(spec) => request.inputs.push(read_tensor(spec, &value, body)?),
                        None => {
                            let value = parameter_value(&value)
                                .ok_or_else(|| RequestError::ParameterType(name.clone()))?;
                            request.parameters.push(Parameter { name, value });
                        }
                    }
                }
            }
        }
        Ok(request)
    }
}

/// A tensor of one row: of the model's shape if the number of elements is that, and of one dimension otherwise.
fn read_tensor(spec: &TensorSpec, value: &Value<'_>, body: &Bytes) -> Result<InputTensor, RequestError> {
    let single = value.kind() != Kind::Array;
    let (data, count) = match spec.datatype {
        DataType::Bytes if single => {
            let string = value.string().map_err(RequestError::BytesData)?;
            (TensorData::Strings(vec![Bytes::copy_from_slice(&string)]), 1)
        }
        DataType::Bytes => {
            let strings = read_strings(value, body)?;
            let count = strings.len();
            (TensorData::Strings(strings), count)
        }
        DataType::Int64 if single => (TensorData::Int64(vec![value.signed().map_err(field("data"))?]), 1),
        DataType::Int64 => {
            let count = json::count_scalars(value);
            (TensorData::Int64(json::read_i64(value, count)?), count)
        }
        _ if single => (TensorData::Fp32(vec![value.double().map_err(field("data"))? as f32]), 1),
        _ => {
            let count = json::count_scalars(value);
            (TensorData::Fp32(json::read_f32(value, count)?), count)
        }
    };
    let elements = spec.dims.iter().try_fold(1_usize, |elements, &dimension| {
        usize::try_from(dimension).ok().and_then(|dimension| elements.checked_mul(dimension))
    });
    let mut shape = vec![1];
    if elements == Some(count) {
        shape.extend_from_slice(&spec.dims);
    } else {
        shape.push(i64::try_from(count).unwrap_or(i64::MAX));
    }
    Ok(InputTensor { name: spec.name.clone(), datatype: Some(spec.datatype), shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ParameterValue;

    fn read(body: &str) -> Result<InferRequest, String> {
        let specs = [
            ("TEXT", DataType::Bytes, vec![1]),
            ("IDS", DataType::Int64, vec![4]),
            ("P", DataType::Fp32, vec![2, 2]),
        ]
        .map(|(name, datatype, dims)| TensorSpec { name: name.to_owned(), datatype, dims });
        let find = |name: &str| specs.iter().find(|spec| spec.name == name);
        InferRequest::from_generate(&Bytes::copy_from_slice(body.as_bytes()), find)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn tensors_parameters_and_id() {
        let request = read(
            r#"{"id":"x","TEXT":"a\nb","IDS":[1,[2,3],4],"P":[1,2,3.5,4],"k":1,"parameters":{"m":true}}"#,
        );
        let request = request.unwrap();
        assert_eq!(request.id, "x");
        let shapes: Vec<_> = request.inputs.iter().map(|input| input.shape.as_slice()).collect();
        assert_eq!(shapes, [&[1, 1][..], &[1, 4], &[1, 2, 2]]);
        assert!(matches!(&request.inputs[0].data, TensorData::Strings(strings) if strings[..] == ["a\nb"]));
        assert!(matches!(&request.inputs[1].data, TensorData::Int64(ids) if ids[..] == [1, 2, 3, 4]));
        assert!(matches!(&request.inputs[2].data, TensorData::Fp32(values) if values[2] == 3.5));
        assert_eq!(request.parameter("k"), Some(&ParameterValue::Int(1)));
        assert_eq!(request.parameter("m"), Some(&ParameterValue::Bool(true)));
        assert_eq!(read(r#"{"IDS":7}"#).unwrap().inputs[0].shape, [1, 1]);
        assert_eq!(read(r#"{"IDS":[1,2]}"#).unwrap().inputs[0].shape, [1, 2]);
        assert!(read("{}").unwrap().inputs.is_empty());
    }

    #[test]
    fn what_is_wrong() {
        assert!(read("{").unwrap_err().contains("failed to parse the request JSON buffer"));
        assert!(read(r#"{"IDS":["a"]}"#).unwrap_err().contains("signed-integer"));
        assert!(read(r#"{"TEXT":5}"#).unwrap_err().contains("string"));
        assert!(read(r#"{"k":{}}"#).unwrap_err().contains("parameter 'k' has invalid type"));
        assert!(read(r#"{"id":5}"#).unwrap_err().contains("Unable to parse 'id'"));
    }
}
