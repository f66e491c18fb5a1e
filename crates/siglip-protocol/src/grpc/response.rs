//! Replies into their messages.

use bytes::Bytes;

use super::inference::ModelInferResponse;
use super::inference::model_infer_response::InferOutputTensor;
use crate::DataType;
use crate::classification::classify;
use crate::request::OutputRequest;
use crate::response::{InferResponse, append_f32_bytes, bytes_tensor};

impl InferResponse<'_> {
    /// Makes the message, with the output in its raw contents: empty, if it goes to shared memory.
    pub fn to_grpc(&self, requested: &[OutputRequest]) -> ModelInferResponse {
        let request = requested.iter().find(|request| request.name == self.output);
        let [rows, columns] = self.shape;
        let classes = request.map_or(0, |request| request.classes).min(columns);
        let (datatype, shape, contents) = if classes > 0 {
            let texts = self.data.chunks_exact(columns).flat_map(|row| classify(row, classes));
            (DataType::Bytes, [rows, classes], bytes_tensor(texts))
        } else if request.is_some_and(|request| request.shared_memory.is_some()) {
            (DataType::Fp32, self.shape, Vec::new())
        } else {
            let mut contents = Vec::with_capacity(self.data.len() * 4);
            append_f32_bytes(&mut contents, self.data);
            (DataType::Fp32, self.shape, contents)
        };
        let output = InferOutputTensor {
            name: self.output.to_owned(),
            datatype: datatype.name().to_owned(),
            shape: shape.into_iter().map(|dimension| i64::try_from(dimension).unwrap_or(i64::MAX)).collect(),
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
