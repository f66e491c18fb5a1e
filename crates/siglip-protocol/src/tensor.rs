//! Tensors as they arrive.

use bytes::Bytes;

use crate::DataType;
use crate::request::SharedMemorySpan;

/// A tensor of a request, not yet checked against any model.
#[derive(Clone, Debug)]
pub struct InputTensor {
    /// Its name.
    pub name: String,
    /// Its element type; `None` if the request named one that does not exist.
    pub datatype: Option<DataType>,
    /// Its dimensions, the batch's first.
    pub shape: Vec<i64>,
    /// Its elements.
    pub data: TensorData,
}

/// The elements of a tensor, in the form in which they arrived.
#[derive(Clone, Debug)]
pub enum TensorData {
    /// Little-endian bytes, row-major; BYTES as length, string, length, string, …: a slice of the request's body.
    Raw(Bytes),
    /// Integers from JSON or from typed contents.
    Int64(Vec<i64>),
    /// Numbers from JSON or from typed contents.
    Fp32(Vec<f32>),
    /// Strings from JSON or from typed contents: slices of the request's body where nothing was escaped.
    Strings(Vec<Bytes>),
    /// Elements of a type that no model here takes. They were read to report what is wrong with them, not kept.
    Discarded,
    /// Elsewhere: in a registered shared-memory region.
    SharedMemory(SharedMemorySpan),
}
