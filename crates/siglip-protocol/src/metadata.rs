//! The documents that describe a server and a model.

use serde::Serialize;

use crate::check::{ModelSpec, TensorSpec};

/// The protocol's extensions that the server knows, as it lists them.
pub const EXTENSIONS: [&str; 13] = [
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
];

/// What the server says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct ServerMetadata<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The extensions that it knows.
    pub extensions: &'a [&'a str],
}

/// What the server says of a model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelMetadata<'a> {
    /// Its name.
    pub name: &'a str,
    /// The versions that are served.
    pub versions: &'a [&'a str],
    /// What runs it.
    pub platform: &'a str,
    /// What it takes.
    pub inputs: Vec<TensorMetadata<'a>>,
    /// What it gives.
    pub outputs: Vec<TensorMetadata<'a>>,
}

/// What the server says of a tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorMetadata<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub datatype: &'static str,
    /// Its dimensions, the batch's first; -1 for any.
    pub shape: Vec<i64>,
}

impl<'a> ModelMetadata<'a> {
    /// Describes a model.
    pub fn of(spec: &'a ModelSpec, versions: &'a [&'a str], platform: &'a str) -> Self {
        let tensors = |tensors: &'a [TensorSpec]| tensors.iter().map(TensorMetadata::of).collect();
        ModelMetadata {
            name: &spec.name,
            versions,
            platform,
            inputs: tensors(&spec.inputs),
            outputs: tensors(&spec.outputs),
        }
    }
}

impl<'a> TensorMetadata<'a> {
    fn of(spec: &'a TensorSpec) -> Self {
        TensorMetadata {
            name: &spec.name,
            datatype: spec.datatype.name(),
            shape: std::iter::once(-1).chain(spec.dims.iter().copied()).collect(),
        }
    }
}
