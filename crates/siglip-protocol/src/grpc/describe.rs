//! The documents about a server and its models, as messages.

use super::inference as grpc;
use crate::DataType;
use crate::config::ModelConfig;
use crate::metadata::{ModelMetadata, TensorMetadata};
use crate::statistics::{BatchStatistics, DurationStatistics, InferenceStatistics, ModelStatistics};

impl From<DataType> for grpc::DataType {
    fn from(datatype: DataType) -> Self {
        match datatype {
            DataType::Bool => grpc::DataType::TypeBool,
            DataType::Uint8 => grpc::DataType::TypeUint8,
            DataType::Uint16 => grpc::DataType::TypeUint16,
            DataType::Uint32 => grpc::DataType::TypeUint32,
            DataType::Uint64 => grpc::DataType::TypeUint64,
            DataType::Int8 => grpc::DataType::TypeInt8,
            DataType::Int16 => grpc::DataType::TypeInt16,
            DataType::Int32 => grpc::DataType::TypeInt32,
            DataType::Int64 => grpc::DataType::TypeInt64,
            DataType::Fp16 => grpc::DataType::TypeFp16,
            DataType::Fp32 => grpc::DataType::TypeFp32,
            DataType::Fp64 => grpc::DataType::TypeFp64,
            DataType::Bytes => grpc::DataType::TypeString,
            DataType::Bf16 => grpc::DataType::TypeBf16,
        }
    }
}

impl From<&ModelMetadata<'_>> for grpc::ModelMetadataResponse {
    fn from(metadata: &ModelMetadata<'_>) -> Self {
        let tensors = |tensors: &[TensorMetadata<'_>]| {
            tensors
                .iter()
                .map(|tensor| grpc::model_metadata_response::TensorMetadata {
                    name: tensor.name.to_owned(),
                    datatype: tensor.datatype.to_owned(),
                    shape: tensor.shape.clone(),
                })
                .collect()
        };
        grpc::ModelMetadataResponse {
            name: metadata.name.to_owned(),
            versions: metadata.versions.iter().map(|version| (*version).to_owned()).collect(),
            platform: metadata.platform.to_owned(),
            inputs: tensors(&metadata.inputs),
            outputs: tensors(&metadata.outputs),
        }
    }
}

impl From<&ModelConfig<'_>> for grpc::ModelConfig {
    fn from(config: &ModelConfig<'_>) -> Self {
        use grpc::model_config::SchedulingChoice;
        use grpc::model_instance_group::Kind;
        use grpc::model_optimization_policy::PinnedMemoryBuffer;
        use grpc::model_version_policy::{Latest, PolicyChoice};

        let data_type = |name: &str| grpc::DataType::from_str_name(name).unwrap_or_default().into();
        let latest = Latest { num_versions: config.version_policy.latest.num_versions };
        let batching = &config.dynamic_batching;
        let [group] = &config.instance_group;
        grpc::ModelConfig {
            name: config.name.to_owned(),
            platform: config.platform.to_owned(),
            version_policy: Some(grpc::ModelVersionPolicy {
                policy_choice: Some(PolicyChoice::Latest(latest)),
            }),
            max_batch_size: to_i32(config.max_batch_size),
            input: config
                .input
                .iter()
                .map(|input| grpc::ModelInput {
                    name: input.name.to_owned(),
                    data_type: data_type(input.data_type),
                    dims: input.dims.to_vec(),
                    ..grpc::ModelInput::default()
                })
                .collect(),
            output: config
                .output
                .iter()
                .map(|output| grpc::ModelOutput {
                    name: output.name.to_owned(),
                    data_type: data_type(output.data_type),
                    dims: output.dims.to_vec(),
                    ..grpc::ModelOutput::default()
                })
                .collect(),
            instance_group: vec![grpc::ModelInstanceGroup {
                name: group.name.clone(),
                count: i32::try_from(group.count).unwrap_or(i32::MAX),
                gpus: group.gpus.iter().map(|gpu| i32::try_from(*gpu).unwrap_or(i32::MAX)).collect(),
                kind: Kind::from_str_name(group.kind).unwrap_or_default().into(),
                ..grpc::ModelInstanceGroup::default()
            }],
            default_model_filename: config.default_model_filename.to_owned(),
            scheduling_choice: Some(SchedulingChoice::DynamicBatching(grpc::ModelDynamicBatching {
                preferred_batch_size: batching.preferred_batch_size.map(to_i32).to_vec(),
                max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
                default_queue_policy: batching.default_queue_policy.map(|policy| grpc::ModelQueuePolicy {
                    max_queue_size: u32::try_from(policy.max_queue_size).unwrap_or(u32::MAX),
                    default_timeout_microseconds: policy.default_timeout_microseconds,
                    allow_timeout_override: policy.allow_timeout_override,
                    ..grpc::ModelQueuePolicy::default()
                }),
                priority_levels: batching.priority_levels.into(),
                default_priority_level: batching.default_priority_level.into(),
                ..grpc::ModelDynamicBatching::default()
            })),
            optimization: Some(grpc::ModelOptimizationPolicy {
                input_pinned_memory: Some(PinnedMemoryBuffer { enable: true }),
                output_pinned_memory: Some(PinnedMemoryBuffer { enable: true }),
                ..grpc::ModelOptimizationPolicy::default()
            }),
            backend: config.backend.to_owned(),
            runtime: config.runtime.to_owned(),
        }
    }
}

impl From<ModelStatistics> for grpc::ModelStatistics {
    fn from(statistics: ModelStatistics) -> Self {
        grpc::ModelStatistics {
            name: statistics.name,
            version: statistics.version,
            last_inference: statistics.last_inference,
            inference_count: statistics.inference_count,
            execution_count: statistics.execution_count,
            inference_stats: Some(statistics.inference_stats.into()),
            batch_stats: statistics.batch_stats.into_iter().map(Into::into).collect(),
            ..grpc::ModelStatistics::default()
        }
    }
}

impl From<InferenceStatistics> for grpc::InferStatistics {
    fn from(statistics: InferenceStatistics) -> Self {
        grpc::InferStatistics {
            success: Some(statistics.success.into()),
            fail: Some(statistics.fail.into()),
            queue: Some(statistics.queue.into()),
            compute_input: Some(statistics.compute_input.into()),
            compute_infer: Some(statistics.compute_infer.into()),
            compute_output: Some(statistics.compute_output.into()),
            cache_hit: Some(statistics.cache_hit.into()),
            cache_miss: Some(statistics.cache_miss.into()),
        }
    }
}

impl From<BatchStatistics> for grpc::InferBatchStatistics {
    fn from(statistics: BatchStatistics) -> Self {
        grpc::InferBatchStatistics {
            batch_size: statistics.batch_size,
            compute_input: Some(statistics.compute_input.into()),
            compute_infer: Some(statistics.compute_infer.into()),
            compute_output: Some(statistics.compute_output.into()),
        }
    }
}

impl From<DurationStatistics> for grpc::StatisticDuration {
    fn from(statistics: DurationStatistics) -> Self {
        grpc::StatisticDuration { count: statistics.count, ns: statistics.ns }
    }
}

fn to_i32(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
