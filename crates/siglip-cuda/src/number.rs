//! The number format of weights and activations.

use std::ffi::c_int;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use siglip::engine::Precision;
use siglip::weights::{Dtype, Tensor};

use crate::e4m3;
use crate::error::CudaError;
use crate::ffi::cublaslt::{R_8F_E4M3, R_16BF, R_16F, R_32F};

/// A format that operands of matrix products have. Sums and the arithmetic of norms are f32 with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Number {
    Bf16,
    F16,
    F32,
    /// With a scale for each tensor, and only for the large products of the blocks; bf16 is everywhere else.
    E4m3,
}

impl Number {
    /// The format of a precision's largest products.
    pub(crate) fn of(precision: Precision) -> Result<Number, CudaError> {
        match precision {
            Precision::Bf16 => Ok(Number::Bf16),
            Precision::F16 => Ok(Number::F16),
            Precision::F32 => Ok(Number::F32),
            Precision::Fp8 => Ok(Number::E4m3),
            Precision::Int8 => Err(CudaError::Precision(precision)),
        }
    }

    /// The format of everything beside those: the kernels', that of the other products, and the residual stream's.
    pub(crate) fn beside(self) -> Number {
        match self {
            Number::E4m3 => Number::Bf16,
            other => other,
        }
    }

    /// What values of the residual stream are multiplied by where they lie. f16 ends at 65,504, and trained models have
    /// single values that are far larger than the rest; a norm does not see the factor.
    pub(crate) fn residual_scale(self) -> f32 {
        match self {
            Number::F16 => 1.0 / 16.0,
            Number::Bf16 | Number::F32 | Number::E4m3 => 1.0,
        }
    }

    /// Bytes of one.
    pub(crate) fn size(self) -> usize {
        match self {
            Number::F32 => 4,
            Number::Bf16 | Number::F16 => 2,
            Number::E4m3 => 1,
        }
    }

    /// What the kernels are compiled with. With e4m3 they read and write bf16, but for what is said to be fp8.
    pub(crate) fn define(self) -> &'static str {
        match self {
            Number::Bf16 | Number::E4m3 => "NUMBER_BF16",
            Number::F16 => "NUMBER_F16",
            Number::F32 => "NUMBER_F32",
        }
    }

    /// The precision whose largest products have it, which is what people call it.
    pub(crate) fn precision(self) -> Precision {
        match self {
            Number::Bf16 => Precision::Bf16,
            Number::F16 => Precision::F16,
            Number::F32 => Precision::F32,
            Number::E4m3 => Precision::Fp8,
        }
    }

    /// The `cudaDataType`.
    pub(crate) fn data_type(self) -> c_int {
        match self {
            Number::Bf16 => R_16BF,
            Number::F16 => R_16F,
            Number::F32 => R_32F,
            Number::E4m3 => R_8F_E4M3,
        }
    }

    /// The bytes of values in this format, each rounded to the nearest.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Number::F32 => bytes_of(values, |value| value.to_le_bytes()),
            Number::E4m3 => values.iter().map(|value| e4m3::encode(*value)).collect(),
            Number::Bf16 => {
                let mut rounded = vec![bf16::ZERO; values.len()];
                rounded.convert_from_f32_slice(values);
                bytes_of(&rounded, |value| value.to_le_bytes())
            }
            Number::F16 => {
                let mut rounded = vec![f16::ZERO; values.len()];
                rounded.convert_from_f32_slice(values);
                bytes_of(&rounded, |value| value.to_le_bytes())
            }
        }
    }

    /// A tensor's elements in this format.
    pub(crate) fn encode_tensor(self, tensor: &Tensor) -> Vec<u8> {
        match (self, tensor.dtype()) {
            (Number::Bf16, Dtype::BF16) | (Number::F16, Dtype::F16) | (Number::F32, Dtype::F32) => {
                tensor.bytes().to_vec()
            }
            _ => self.encode(&tensor.to_f32()),
        }
    }

    /// The value nearest to `value` that the format has.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Number::Bf16 => bf16::from_f32(value).to_f32(),
            Number::F16 => f16::from_f32(value).to_f32(),
            Number::F32 => value,
            Number::E4m3 => e4m3::decode(e4m3::encode(value)),
        }
    }

    /// The values of bytes in this format.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match self {
            Number::Bf16 => pairs().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            Number::F16 => pairs().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            Number::E4m3 => bytes.iter().map(|byte| e4m3::decode(*byte)).collect(),
            Number::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        }
    }
}

/// The bytes of all values, one after the other.
fn bytes_of<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut all = vec![0; values.len() * N];
    // Written so that it becomes a copy; collecting byte by byte takes as long as reading the file.
    for (to, value) in all.as_chunks_mut().0.iter_mut().zip(values) {
        *to = bytes(*value);
    }
    all
}
