//! Inference requests.

use bytes::Bytes;

use crate::error::RequestError;
use crate::number::leading_integer;
use crate::response::OutputForm;
use crate::tensor::InputTensor;

mod generate;
mod json;

/// An inference request, understood but not yet checked against the model that it is for.
#[derive(Clone, Debug, Default)]
pub struct InferRequest {
    /// The caller's name for the request, given back in the reply; empty if there is none.
    pub id: String,
    /// The request's parameters, in order, without those that are about the protocol itself.
    pub parameters: Vec<Parameter>,
    /// The tensors.
    pub inputs: Vec<InputTensor>,
    /// The outputs that are asked for; all, if the list is empty.
    pub outputs: Vec<OutputRequest>,
    /// The level in the queue that is asked for, 1 for the highest; 0 for the usual one.
    pub priority: u64,
    /// How long the request may wait for its batch, in microseconds; 0 for as long as the server has it.
    pub timeout_us: u64,
    /// The form of outputs that are not in [`InferRequest::outputs`].
    pub default_form: OutputForm,
    /// Whether the body was one bare tensor, whose name, type and shape are the model's to say.
    pub raw: bool,
}

/// A named parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: ParameterValue,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the types say it")]
pub enum ParameterValue {
    Bool(bool),
    Int(i64),
    Double(f64),
    String(String),
}

/// An output that a request asks for, and how it wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRequest {
    /// Its name.
    pub name: String,
    /// Its form, unless it goes to shared memory.
    pub form: OutputForm,
    /// If not 0: as a list of so many `value:index` strings, largest values first.
    pub classes: usize,
    /// Where in shared memory it is to be written.
    pub shared_memory: Option<SharedMemorySpan>,
}

/// A part of a registered shared-memory region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMemorySpan {
    /// The region's registered name.
    pub region: String,
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub byte_size: u64,
}

/// The name that Triton gives the tensor of a raw request.
const RAW_INPUT: &str = "raw_input";

impl InferRequest {
    /// Understands a body whose first `header_length` bytes are JSON, followed by the binary tensors that the JSON
    /// announces. A `header_length` of 0 means that the body is one bare tensor. `model` is for messages only.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: the first thing that is wrong, in the order in which Triton looks.
    pub fn from_body(body: &Bytes, header_length: usize, model: &str) -> Result<Self, RequestError> {
        if header_length == 0 {
            return Ok(InferRequest::from_raw(body.clone()));
        }
        json::read(body, header_length, model)
    }

    /// A request whose body is one bare tensor, answered in binary form.
    fn from_raw(tensor: Bytes) -> Self {
        InferRequest {
            inputs: vec![InputTensor {
                name: RAW_INPUT.to_owned(),
                datatype: None,
                shape: Vec::new(),
                data: crate::TensorData::Raw(tensor),
            }],
            default_form: OutputForm::Binary,
            raw: true,
            ..InferRequest::default()
        }
    }

    /// The length of the JSON part of a body of `body_length` bytes, as `Inference-Header-Content-Length` has it: the
    /// whole body without the header; otherwise the number that it starts with, and 0 if it starts with none.
    ///
    /// # Errors
    ///
    /// [`RequestError::HeaderLength`] if the number does not lie within the body.
    pub fn header_length(header: Option<&[u8]>, body_length: usize) -> Result<usize, RequestError> {
        let Some(header) = header else { return Ok(body_length) };
        match usize::try_from(leading_integer(header).unwrap_or(0)) {
            Ok(length) if length <= body_length => Ok(length),
            _ => {
                let got = String::from_utf8_lossy(header).into_owned();
                Err(RequestError::HeaderLength { body: body_length, got })
            }
        }
    }

    /// What messages about this request start with.
    pub(crate) fn prefix(&self) -> String {
        id_prefix(&self.id)
    }

    /// The parameter of that name; of several, the last.
    pub fn parameter(&self, name: &str) -> Option<&ParameterValue> {
        self.parameters
            .iter()
            .rev()
            .find(|parameter| parameter.name == name)
            .map(|parameter| &parameter.value)
    }
}

/// What messages about the request of that id start with.
pub(crate) fn id_prefix(id: &str) -> String {
    let id = if id.is_empty() { "<id_unknown>" } else { id };
    format!("[request id: {id}] ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_lengths_are_read_as_by_atoi() {
        let read = |header: &str| InferRequest::header_length(Some(header.as_bytes()), 627).ok();
        assert_eq!(InferRequest::header_length(None, 627).unwrap(), 627);
        assert_eq!(read("115"), Some(115));
        assert_eq!(read(""), Some(0));
        assert_eq!(read("abc"), Some(0));
        assert_eq!(read("12abc"), Some(12));
        assert_eq!(read("12.5"), Some(12));
        assert_eq!(read(" 5 "), Some(5));
        assert_eq!(read("627"), Some(627));
        assert_eq!(read("628"), None);
        assert_eq!(read("-5"), None);
        assert_eq!(read("99999999999999999999999999"), None);
    }
}
