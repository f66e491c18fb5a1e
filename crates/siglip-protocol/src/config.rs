//! A model's configuration as Triton shows it, every field in its place.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::check::{ModelSpec, TensorSpec};

/// A model's configuration.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of Triton's model configuration, documented there")]
pub struct ModelConfig<'a> {
    pub name: &'a str,
    pub platform: &'a str,
    pub backend: &'a str,
    pub runtime: &'a str,
    pub version_policy: VersionPolicy,
    pub max_batch_size: usize,
    pub input: Vec<InputConfig<'a>>,
    pub output: Vec<OutputConfig<'a>>,
    pub batch_input: [(); 0],
    pub batch_output: [(); 0],
    pub optimization: Optimization,
    pub dynamic_batching: DynamicBatching,
    pub instance_group: [InstanceGroup; 1],
    pub default_model_filename: &'a str,
    pub cc_model_filenames: Map<String, Value>,
    pub metric_tags: Map<String, Value>,
    pub parameters: Map<String, Value>,
    pub model_warmup: [(); 0],
}

/// What differs from model to model, apart from its [`ModelSpec`].
#[derive(Clone, Debug)]
pub struct ConfigDetails<'a> {
    /// What runs the model.
    pub backend: &'a str,
    /// The GPUs that it runs on, if any.
    pub gpus: Vec<u32>,
    /// Batches that it computes at once, on each GPU.
    pub instances: u32,
    /// How long a batch waits for more rows, in microseconds.
    pub max_queue_delay_us: u64,
    /// The bound of the queue; 0 for none.
    pub max_queue_size: usize,
    /// Levels of priority; 0 if all requests are alike.
    pub priority_levels: u32,
    /// The level of requests that ask for none.
    pub default_priority_level: u32,
    /// How long a request may wait, in microseconds; 0 for as long as it takes.
    pub default_timeout_us: u64,
    /// Whether requests may say how long they wait.
    pub allow_timeout_override: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct VersionPolicy {
    pub latest: Latest,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct Latest {
    pub num_versions: u32,
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct InputConfig<'a> {
    pub name: &'a str,
    pub data_type: &'static str,
    pub format: &'static str,
    pub dims: &'a [i64],
    pub is_shape_tensor: bool,
    pub allow_ragged_batch: bool,
    pub optional: bool,
    pub is_non_linear_format_io: bool,
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct OutputConfig<'a> {
    pub name: &'a str,
    pub data_type: &'static str,
    pub dims: &'a [i64],
    pub label_filename: &'static str,
    pub is_shape_tensor: bool,
    pub is_non_linear_format_io: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct Optimization {
    pub priority: &'static str,
    pub input_pinned_memory: Enable,
    pub output_pinned_memory: Enable,
    pub gather_kernel_buffer_threshold: u32,
    pub eager_batching: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct Enable {
    pub enable: bool,
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct DynamicBatching {
    pub preferred_batch_size: [usize; 1],
    pub max_queue_delay_microseconds: u64,
    pub preserve_ordering: bool,
    pub priority_levels: u32,
    pub default_priority_level: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_queue_policy: Option<QueuePolicy>,
    pub priority_queue_policy: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct QueuePolicy {
    pub timeout_action: &'static str,
    pub default_timeout_microseconds: u64,
    pub allow_timeout_override: bool,
    pub max_queue_size: usize,
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "Triton's")]
pub struct InstanceGroup {
    pub name: String,
    pub kind: &'static str,
    pub count: u32,
    pub gpus: Vec<u32>,
    pub secondary_devices: [(); 0],
    pub profile: [(); 0],
    pub passive: bool,
    pub host_policy: &'static str,
}

impl<'a> ModelConfig<'a> {
    /// The configuration of a model that is batched dynamically.
    pub fn of(spec: &'a ModelSpec, details: &ConfigDetails<'a>) -> Self {
        let max_queue_size = details.max_queue_size;
        let policy = QueuePolicy {
            timeout_action: "REJECT",
            default_timeout_microseconds: details.default_timeout_us,
            allow_timeout_override: details.allow_timeout_override,
            max_queue_size,
        };
        ModelConfig {
            name: &spec.name,
            platform: "",
            backend: details.backend,
            runtime: "",
            version_policy: VersionPolicy { latest: Latest { num_versions: 1 } },
            max_batch_size: spec.max_batch_size,
            input: spec.inputs.iter().map(InputConfig::of).collect(),
            output: spec.outputs.iter().map(OutputConfig::of).collect(),
            batch_input: [],
            batch_output: [],
            optimization: Optimization {
                priority: "PRIORITY_DEFAULT",
                input_pinned_memory: Enable { enable: true },
                output_pinned_memory: Enable { enable: true },
                gather_kernel_buffer_threshold: 0,
                eager_batching: false,
            },
            dynamic_batching: DynamicBatching {
                preferred_batch_size: [spec.max_batch_size],
                max_queue_delay_microseconds: details.max_queue_delay_us,
                preserve_ordering: false,
                priority_levels: details.priority_levels,
                default_priority_level: details.default_priority_level,
                default_queue_policy: (max_queue_size > 0).then_some(policy),
                priority_queue_policy: Map::new(),
            },
            instance_group: [InstanceGroup {
                name: format!("{}_0", spec.name),
                kind: if details.gpus.is_empty() { "KIND_CPU" } else { "KIND_GPU" },
                count: details.instances,
                gpus: details.gpus.clone(),
                secondary_devices: [],
                profile: [],
                passive: false,
                host_policy: "",
            }],
            default_model_filename: "",
            cc_model_filenames: Map::new(),
            metric_tags: Map::new(),
            parameters: Map::new(),
            model_warmup: [],
        }
    }
}

impl<'a> InputConfig<'a> {
    fn of(spec: &'a TensorSpec) -> Self {
        InputConfig {
            name: &spec.name,
            data_type: spec.datatype.config_name(),
            format: "FORMAT_NONE",
            dims: &spec.dims,
            is_shape_tensor: false,
            allow_ragged_batch: false,
            optional: false,
            is_non_linear_format_io: false,
        }
    }
}

impl<'a> OutputConfig<'a> {
    fn of(spec: &'a TensorSpec) -> Self {
        OutputConfig {
            name: &spec.name,
            data_type: spec.datatype.config_name(),
            dims: &spec.dims,
            label_filename: "",
            is_shape_tensor: false,
            is_non_linear_format_io: false,
        }
    }
}
