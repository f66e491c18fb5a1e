//! Replies into their messages.

use bytes::Bytes;

use super::inference::ModelInferResponse;
use super::inference::model_infer_response::InferOutputTensor;
use crate::DataType;
use crate::request::OutputRequest;
use crate::response::{InferResponse, bytes_tensor};

impl InferResponse<'_> {
    /// Makes the message, with the output in its raw contents: empty, if it goes to shared memory.
    pub fn to_grpc(&self, requested: &[OutputRequest]) -> ModelInferResponse {
        let request = requested.iter().find(|request| request.name == self.output);
        let columns = self.columns();
        let classes = request.map_or(0, |request| request.classes).min(columns);
        let mut contents = Vec::new();
        let (datatype, shape) = if classes > 0 {
            contents = bytes_tensor(&self.data.classify(columns, classes));
            (DataType::Bytes, &[self.rows(), classes][..])
        } else {
            if request.is_none_or(|request| request.shared_memory.is_none()) {
                contents.reserve_exact(self.data.byte_size());
                self.data.append_bytes(&mut contents);
            }
            (self.data.datatype(), self.shape)
        };
        let output = InferOutputTensor {
            name: self.output.to_owned(),
            datatype: datatype.name().to_owned(),
            shape: shape.iter().map(|&dimension| i64::try_from(dimension).unwrap_or(i64::MAX)).collect(),
            ..InferOutputTensor::default()
        };
        ModelInferResponse {
            model_name: self.model.to_owned(),
            model_version: self.version.to_owned(),
            id: self.id.to_owned(),
            outputs: vec![output],
            raw_output_contents: vec![Bytes::from(contents)],
            ..ModelInferResponse::default()
        }
    }
}
