//! The KServe v2 / Triton inference protocol as pure functions over bytes.
//!
//! Nothing here opens a socket, knows a model or starts a thread. A door of the server (HTTP or gRPC) hands over the
//! bytes that it received and gets an [`InferRequest`]; it hands back an [`InferResponse`] and gets bytes. What a model
//! takes is a [`ModelSpec`], against which every request is checked the same way, whichever door it came through.
//!
//! The behaviour, down to the order of the checks and the words of the errors, is that of the NVIDIA Triton Inference
//! Server, so that clients written for it cannot tell the difference. Where Triton would read past a buffer, abort or
//! answer with invalid JSON, this crate returns an error.
//!
//! - [`InferRequest`]: from JSON, from JSON followed by binary tensors, from a raw tensor.
//! - [`ModelSpec`]: inputs, outputs and batch size of a model, and the check of a request against them.
//! - [`InferResponse`]: to JSON, or to JSON followed by binary tensors.
//! - [`metadata`], [`config`], [`statistics`], [`repository`]: the documents that describe a server and its models.
//! - [`compression`]: gzip and deflate bodies.
//! - [`grpc`]: the same over gRPC.
//! - [`json`]: a reader for JSON that builds no document.
#![forbid(unsafe_code)]

mod bytes_tensor;
mod check;
mod classification;
pub mod compression;
pub mod config;
mod datatype;
mod error;
mod float;
pub mod grpc;
pub mod json;
pub mod metadata;
mod number;
pub mod repository;
mod request;
mod response;
pub mod statistics;
mod tensor;

pub use bytes_tensor::{BytesTensorError, split_bytes_tensor};
pub use check::{CheckError, CheckedInput, ModelSpec, TensorSpec};
pub use datatype::DataType;
pub use error::{Code, RequestError};
pub use float::write_f32_list;
pub use number::leading_integer;
pub use request::{InferRequest, OutputRequest, Parameter, ParameterValue, SharedMemorySpan};
pub use response::{Encoded, InferResponse, OutputData, OutputForm, error_body};
pub use tensor::{InputTensor, TensorData};
