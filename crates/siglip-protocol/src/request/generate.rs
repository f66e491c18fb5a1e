//! The `generate` extension: a request as one flat object, without types and shapes.
//!
//! A member that has the name of one of the model's tensors is that tensor, in as many rows as it has elements for; `id` is
//! what it is elsewhere; any other member is a parameter. `parameters` may hold more of both.
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md>

use bytes::Bytes;

use super::json::{field, parameter_value, read_data, read_strings, text};
use super::{InferRequest, Parameter};
use crate::DataType;
use crate::check::TensorSpec;
use crate::error::RequestError;
use crate::json::{self, AccessError, Kind, Value};
use crate::tensor::{InputTensor, TensorData};

impl InferRequest {
    /// Understands the body of a `generate` request. `find` gives the model's tensor of a name.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: the first thing that is wrong, in the order in which Triton looks.
    pub fn from_generate<'s>(
        body: &Bytes,
        find: impl Fn(&str) -> Option<&'s TensorSpec>,
    ) -> Result<Self, RequestError> {
        let root = json::parse(body)?;
        if root.kind() != Kind::Object {
            return Err(RequestError::Root(AccessError::NotObject));
        }
        let mut request = InferRequest::default();
        if let Some(id) = root.get("id") {
            request.id = text(&id.string().map_err(field("id"))?);
        }
        let mut reader = Reader { body, find, request };
        for member in root.members() {
            match &*member.name() {
                b"id" => {}
                b"parameters" => reader.parameters(&member.value)?,
                name => reader.member(text(name), &member.value)?,
            }
        }
        Ok(reader.request)
    }
}

struct Reader<'a, F> {
    body: &'a Bytes,
    find: F,
    request: InferRequest,
}

impl<'s, F: Fn(&str) -> Option<&'s TensorSpec>> Reader<'_, F> {
    fn parameters(&mut self, value: &Value<'_>) -> Result<(), RequestError> {
        if value.kind() != Kind::Object {
            return Err(RequestError::GenerateParameters);
        }
        for member in value.members() {
            self.member(text(&member.name()), &member.value)
                .map_err(|error| RequestError::WithinParameters(Box::new(error)))?;
        }
        Ok(())
    }

    fn member(&mut self, name: String, value: &Value<'_>) -> Result<(), RequestError> {
        match (self.find)(&name) {
            Some(spec) => self.tensor(spec, value),
            None => match parameter_value(value) {
                Some(value) => {
                    self.request.parameters.push(Parameter { name, value });
                    Ok(())
                }
                None => Err(RequestError::ParameterType(name)),
            },
        }
    }

    fn tensor(&mut self, spec: &TensorSpec, value: &Value<'_>) -> Result<(), RequestError> {
        let single = value.kind() != Kind::Array;
        let strings = match spec.datatype {
            DataType::Bytes if single => {
                let string = value.string().map_err(RequestError::BytesData)?;
                Some(vec![Bytes::copy_from_slice(&string)])
            }
            DataType::Bytes => Some(read_strings(value, self.body)?),
            _ => None,
        };
        let elements = if single { 1 } else { value.elements().count() };
        let shape = shape(spec, elements).ok_or_else(|| RequestError::NoBatch(spec.name.clone()))?;
        if self.request.inputs.iter().any(|input| input.name == spec.name) {
            let (id, input) = (self.request.prefix(), spec.name.clone());
            return Err(RequestError::DuplicateInput { id, input });
        }
        let data = match strings {
            Some(strings) => TensorData::Strings(strings),
            None if !single => read_data(&spec.name, Some(spec.datatype), &shape, Some(*value), self.body)?,
            None if spec.datatype == DataType::Int64 => {
                TensorData::Int64(vec![value.signed().map_err(field("data"))?])
            }
            None => TensorData::Fp32(vec![value.double().map_err(field("data"))? as f32]),
        };
        let (name, datatype) = (spec.name.clone(), Some(spec.datatype));
        self.request.inputs.push(InputTensor { name, datatype, shape, data });
        Ok(())
    }
}

/// The shape of so many elements: they fill the fixed dimensions, and what is left is the last one that is not fixed, which
/// the rows of a batch are if there is no other. `None` if they do not fill the fixed ones.
fn shape(spec: &TensorSpec, elements: usize) -> Option<Vec<i64>> {
    let mut left = i64::try_from(elements).ok()?;
    let mut shape = vec![-1];
    shape.extend_from_slice(&spec.dims);
    for &dimension in shape.iter().filter(|&&dimension| dimension != -1) {
        if left.checked_rem(dimension)? != 0 {
            return None;
        }
        left /= dimension;
    }
    for dimension in shape.iter_mut().rev().filter(|dimension| **dimension == -1) {
        *dimension = std::mem::replace(&mut left, 1);
    }
    Some(shape)
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
            ("LABELS", DataType::Bytes, vec![-1]),
        ]
        .map(|(name, datatype, dims)| TensorSpec { name: name.to_owned(), datatype, dims });
        let find = |name: &str| specs.iter().find(|spec| spec.name == name);
        InferRequest::from_generate(&Bytes::copy_from_slice(body.as_bytes()), find)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn tensors_parameters_and_id() {
        let request = read(
            r#"{"id":"x","TEXT":"a\nb","IDS":[1,2,3,4],"P":[1,2,3.5,4,5,6,7,8],"k":1,"parameters":{"m":true,"LABELS":["a","b"],"id":7}}"#,
        );
        let request = request.unwrap();
        assert_eq!(request.id, "x");
        let shapes: Vec<_> = request.inputs.iter().map(|input| input.shape.as_slice()).collect();
        assert_eq!(shapes, [&[1, 1][..], &[1, 4], &[2, 2, 2], &[1, 2]]);
        assert!(matches!(&request.inputs[0].data, TensorData::Strings(strings) if strings[..] == ["a\nb"]));
        assert!(matches!(&request.inputs[1].data, TensorData::Int64(ids) if ids[..] == [1, 2, 3, 4]));
        assert!(matches!(&request.inputs[2].data, TensorData::Fp32(values) if values[2] == 3.5));
        assert_eq!(request.parameter("k"), Some(&ParameterValue::Int(1)));
        assert_eq!(request.parameter("m"), Some(&ParameterValue::Bool(true)));
        assert_eq!(request.parameter("id"), Some(&ParameterValue::Int(7)));
        assert_eq!(read(r#"{"TEXT":["a","b"]}"#).unwrap().inputs[0].shape, [2, 1]);
        assert_eq!(read(r#"{"IDS":[]}"#).unwrap().inputs[0].shape, [0, 4]);
        assert_eq!(read(r#"{"IDS":[[1],[2],[3],[4]]}"#).unwrap().inputs[0].shape, [1, 4]);
        assert!(read("{}").unwrap().inputs.is_empty());
        // What a request has elsewhere is a parameter here.
        let request = read(r#"{"timeout":"x","parameters":{"priority":-1}}"#).unwrap();
        assert_eq!((request.priority, request.timeout_us, request.parameters.len()), (0, 0, 2));
    }

    #[test]
    fn what_is_wrong() {
        let no_schema = "The schema can not convert input 'IDS' to tensor with proper shape";
        for (body, words) in [
            ("{", "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
            ("[]", "attempt to get members for non-object"),
            (r#"{"IDS":7,"parameters":5}"#, no_schema),
            (r#"{"IDS":{}}"#, no_schema),
            (r#"{"IDS":[1,2,3]}"#, no_schema),
            (r#"{"IDS":[[1,2,3,4]]}"#, no_schema),
            (
                r#"{"IDS":["a",1,2,3]}"#,
                "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
            ),
            (
                r#"{"IDS":[1,2,3,[4,5]]}"#,
                "Unable to parse 'data': Shape does not match true shape of 'data' field",
            ),
            (
                r#"{"IDS":[1,2,3,4],"IDS":[1,2,3,4]}"#,
                "[request id: <id_unknown>] input 'IDS' already exists in request",
            ),
            (
                r#"{"TEXT":5}"#,
                "Unable to parse JSON bytes array: attempt to access JSON non-string as string",
            ),
            (
                r#"{"k":{}}"#,
                "parameter 'k' has invalid type. It should be either 'int', 'bool', or 'string'.",
            ),
            (r#"{"k":{},"id":5}"#, "Unable to parse 'id': attempt to access JSON non-string as string"),
            (
                r#"{"parameters":null}"#,
                "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object",
            ),
            (
                r#"{"parameters":{"parameters":{}}}"#,
                "Converting keyword: 'parameters': parameter 'parameters' has invalid type. It should be either 'int', \
                 'bool', or 'string'.",
            ),
            (
                r#"{"parameters":{"IDS":5}}"#,
                "Converting keyword: 'parameters': The schema can not convert input 'IDS' to tensor with proper shape",
            ),
        ] {
            assert_eq!(read(body).map(drop), Err(words.to_owned()), "{body}");
        }
    }
}
