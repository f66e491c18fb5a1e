//! `kernels/layer_norm.cu`.

use siglip::engine::Precision;

use super::{Kernels, WARPS};
use crate::error::CudaError;
use crate::memory::View;
use crate::stream::Stream;

/// Each row to mean 0 and variance 1, then scaled and shifted.
pub(crate) struct LayerNorm<'a> {
    /// Rows of `hidden` values, `stride` values apart.
    pub(crate) x: View<'a>,
    /// Whether `x` is f32, or else of the kernels' format.
    pub(crate) x_is_wide: bool,
    pub(crate) stride: usize,
    /// f32, `[hidden]`.
    pub(crate) weight: View<'a>,
    /// f32, `[hidden]`.
    pub(crate) bias: View<'a>,
    /// `[rows, hidden]`.
    pub(crate) out: View<'a>,
    pub(crate) rows: usize,
    pub(crate) epsilon: f32,
}

#[repr(C)]
struct Parameters {
    x: u64,
    weight: u64,
    bias: u64,
    out: u64,
    stride: u64,
    rows: u32,
    epsilon: f32,
}

impl LayerNorm<'_> {
    pub(crate) fn launch(&self, kernels: &Kernels, stream: &Stream) -> Result<(), CudaError> {
        let constants = &kernels.constants;
        let (hidden, size) = (constants.hidden, constants.number.beside().size());
        let (function, x_size) =
            if self.x_is_wide { (kernels.layer_norm_wide, 4) } else { (kernels.layer_norm, size) };
        let parameters = Parameters {
            x: self.x.holding(((self.rows - 1) * self.stride + hidden) * x_size),
            weight: self.weight.holding(hidden * 4),
            bias: self.bias.holding(hidden * 4),
            out: self.out.holding(self.rows * hidden * size),
            stride: self.stride as u64,
            rows: self.rows as u32,
            epsilon: self.epsilon,
        };
        // SAFETY: the sizes were checked above; a warp a row, and what there is of warps too many returns at once.
        unsafe { kernels.launch(function, [self.rows.div_ceil(WARPS), 1, 1], parameters, stream) }
    }
}

/// The same in e4m3: what a row is divided by `scale` is written, and then something is added to the row itself.
pub(crate) struct LayerNormFp8<'a> {
    /// bf16, rows of `hidden` values, `stride` values apart.
    pub(crate) x: View<'a>,
    pub(crate) stride: usize,
    /// f32, `[hidden]`.
    pub(crate) weight: View<'a>,
    /// f32, `[hidden]`.
    pub(crate) bias: View<'a>,
    /// e4m3, `[rows, hidden]`.
    pub(crate) out: View<'a>,
    /// f32, `[hidden]`: added to each row of `x` after it was read.
    pub(crate) then_add: Option<View<'a>>,
    pub(crate) rows: usize,
    pub(crate) epsilon: f32,
    /// A power of two.
    pub(crate) scale: f32,
}

#[repr(C)]
struct Fp8Parameters {
    x: u64,
    weight: u64,
    bias: u64,
    out: u64,
    /// Null for nothing.
    then_add: u64,
    stride: u64,
    rows: u32,
    epsilon: f32,
    inverse_scale: f32,
}

impl LayerNormFp8<'_> {
    pub(crate) fn launch(&self, kernels: &Kernels, stream: &Stream) -> Result<(), CudaError> {
        let hidden = kernels.constants.hidden;
        let function = kernels.layer_norm_fp8.ok_or(CudaError::Precision(Precision::Fp8))?;
        let parameters = Fp8Parameters {
            x: self
                .x
                .holding(((self.rows - 1) * self.stride + hidden) * kernels.constants.number.beside().size()),
            weight: self.weight.holding(hidden * 4),
            bias: self.bias.holding(hidden * 4),
            out: self.out.holding(self.rows * hidden),
            then_add: self.then_add.map_or(0, |values| values.holding(hidden * 4)),
            stride: self.stride as u64,
            rows: self.rows as u32,
            epsilon: self.epsilon,
            inverse_scale: 1.0 / self.scale,
        };
        // SAFETY: as above; rows are written by the warp that read them.
        unsafe { kernels.launch(function, [self.rows.div_ceil(WARPS), 1, 1], parameters, stream) }
    }
}

#[cfg(test)]
pub(crate) mod twin {
    use crate::number::Number;

    /// One row. Lane i of 32 adds parts i, i + 32, …, of four values each where the width is a multiple of four.
    pub(crate) fn layer_norm(
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        epsilon: f32,
        number: Number,
    ) -> Vec<f32> {
        let width = if x.len().is_multiple_of(4) { 4 } else { 1 };
        let over_lanes = |add: &dyn Fn(f32, f32) -> f32| {
            let mut lanes = [0.0; 32];
            for (part, values) in x.chunks(width).enumerate() {
                for value in values {
                    lanes[part % 32] = add(lanes[part % 32], *value);
                }
            }
            warp_sum(lanes)
        };
        let n = x.len() as f32;
        let mean = over_lanes(&|sum, x| sum + x) / n;
        let variance = over_lanes(&|sum, x| (x - mean).mul_add(x - mean, sum)) / n;
        let scale = 1.0 / (variance + epsilon).sqrt();
        let normalise = |((x, weight), bias): ((&f32, &f32), &f32)| {
            number.round(((x - mean) * scale).mul_add(*weight, *bias))
        };
        x.iter().zip(weight).zip(bias).map(normalise).collect()
    }

    /// What every lane has after adding those 16, 8, 4, 2 and 1 apart.
    pub(crate) fn warp_sum(mut lanes: [f32; 32]) -> f32 {
        for distance in [16, 8, 4, 2, 1] {
            lanes = std::array::from_fn(|lane| lanes[lane] + lanes[lane ^ distance]);
        }
        lanes[0]
    }
}
