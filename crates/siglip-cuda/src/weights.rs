//! Weights on the card, in their final format.

use std::num::NonZero;
use std::sync::Arc;
use std::{panic, thread};

use siglip::weights::{Linear, Norm, Tensor};

use crate::error::CudaError;
use crate::gpu::Gpu;
use crate::matmul::{Operands, ResultKind, Scales};
use crate::memory::{DeviceBuffer, View};
use crate::number::Number;
use crate::scales::weight_scale;

/// Puts tensors onto a card.
pub(crate) struct Uploader<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    /// Of all but the products of [`Uploader::fp8_layer`].
    pub(crate) number: Number,
}

/// What fp8 values of a layer are divided by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fp8Scales {
    pub(crate) input: f32,
    /// If the result is fp8.
    pub(crate) out: f32,
}

impl Uploader<'_> {
    /// Uploads parts of a model on all processors: what takes the time is the conversion. `upload` gets each part with its
    /// index.
    pub(crate) fn in_parallel<T: Sync, U: Send>(
        &self,
        parts: &[T],
        upload: impl Fn(usize, &T) -> Result<U, CudaError> + Sync,
    ) -> Result<Vec<U>, CudaError> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let per_thread = parts.len().div_ceil(processors).max(1);
        let run = |(chunk, parts): (usize, &[T])| -> Result<Vec<U>, CudaError> {
            self.gpu.make_current()?;
            parts.iter().enumerate().map(|(i, part)| upload(chunk * per_thread + i, part)).collect()
        };
        let run = &run;
        let uploaded: Result<Vec<Vec<U>>, CudaError> = thread::scope(|scope| {
            let threads: Vec<_> =
                parts.chunks(per_thread).enumerate().map(|chunk| scope.spawn(move || run(chunk))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        Ok(uploaded?.into_iter().flatten().collect())
    }

    /// A tensor in the operands' format.
    pub(crate) fn tensor(&self, tensor: &Tensor) -> Result<DeviceBuffer, CudaError> {
        self.encoded(&self.number.encode_tensor(tensor), [tensor])
    }

    /// A tensor in f32.
    pub(crate) fn wide(&self, tensor: &Tensor) -> Result<DeviceBuffer, CudaError> {
        self.encoded(&Number::F32.encode_tensor(tensor), [tensor])
    }

    pub(crate) fn norm(&self, norm: &Norm) -> Result<LayerNormWeights, CudaError> {
        Ok(LayerNormWeights { weight: self.wide(&norm.weight)?, bias: self.wide(&norm.bias)? })
    }

    /// Layers of the same input as one, outputs after outputs. `result` is what its product's result will be.
    pub(crate) fn layer(&self, parts: &[&Linear], result: ResultKind) -> Result<Layer, CudaError> {
        self.layer_with_rows_of(parts, result, None)
    }

    /// The same with rows of the weight padded with zeroes to `inputs` values.
    pub(crate) fn padded_layer(
        &self,
        part: &Linear,
        result: ResultKind,
        inputs: usize,
    ) -> Result<Layer, CudaError> {
        self.layer_with_rows_of(&[part], result, Some(inputs))
    }

    /// Layers of the same input as one, with weights in e4m3 and a scale for all of them.
    pub(crate) fn fp8_layer(
        &self,
        parts: &[&Linear],
        result: ResultKind,
        scales: Fp8Scales,
    ) -> Result<Layer, CudaError> {
        let outputs: usize = parts.iter().map(|part| part.bias.len()).sum();
        let values = parts.iter().map(|part| part.weight.to_f32()).collect::<Vec<_>>().concat();
        let scale = weight_scale(&values);
        let scaled: Vec<f32> = values.iter().map(|value| value / scale).collect();
        let bias_number = result.bias_number(Number::E4m3);
        let bias: Vec<u8> = parts.iter().flat_map(|part| bias_number.encode_tensor(&part.bias)).collect();
        Ok(Layer {
            number: Number::E4m3,
            bias_number,
            inputs: values.len() / outputs.max(1),
            outputs,
            weight: self.encoded(&Number::E4m3.encode(&scaled), parts.iter().map(|part| &part.weight))?,
            bias: self.encoded(&bias, parts.iter().map(|part| &part.bias))?,
            fp8: Some((scales, Scales::upload(self.gpu, [scale, scales.input, 1.0 / scales.out])?)),
        })
    }

    fn layer_with_rows_of(
        &self,
        parts: &[&Linear],
        result: ResultKind,
        padded_inputs: Option<usize>,
    ) -> Result<Layer, CudaError> {
        let bias_number = result.bias_number(self.number);
        let outputs: usize = parts.iter().map(|part| part.bias.len()).sum();
        let mut inputs = parts.iter().map(|part| part.weight.len()).sum::<usize>() / outputs.max(1);
        let encoded: Vec<Vec<u8>> =
            parts.iter().map(|part| self.number.encode_tensor(&part.weight)).collect();
        let mut weight = encoded.concat();
        if let Some(padded) = padded_inputs.filter(|padded| *padded != inputs) {
            let (from, to) = (inputs * self.number.size(), padded * self.number.size());
            let mut wider = vec![0; outputs * to];
            for (to, from) in wider.chunks_mut(to).zip(weight.chunks(from)) {
                to[..from.len()].copy_from_slice(from);
            }
            (weight, inputs) = (wider, padded);
        }
        // Beside a residual stream that has a scale.
        let bias_scale = if result == ResultKind::Add { self.number.residual_scale() } else { 1.0 };
        let scaled = |part: &&Linear| {
            let values: Vec<f32> = part.bias.to_f32().iter().map(|value| value * bias_scale).collect();
            bias_number.encode(&values)
        };
        let bias: Vec<u8> = parts.iter().flat_map(scaled).collect();
        Ok(Layer {
            number: self.number,
            bias_number,
            inputs,
            outputs,
            weight: self.encoded(&weight, parts.iter().map(|part| &part.weight))?,
            bias: self.encoded(&bias, parts.iter().map(|part| &part.bias))?,
            fp8: None,
        })
    }

    fn encoded<'t>(
        &self,
        bytes: &[u8],
        of: impl IntoIterator<Item = &'t Tensor>,
    ) -> Result<DeviceBuffer, CudaError> {
        let buffer = DeviceBuffer::with(self.gpu, "a tensor of the weights", bytes)?;
        // The card has it now: one copy in memory is enough.
        of.into_iter().for_each(Tensor::release);
        Ok(buffer)
    }
}

/// A layer norm's scale and shift, in f32.
pub(crate) struct LayerNormWeights {
    pub(crate) weight: DeviceBuffer,
    pub(crate) bias: DeviceBuffer,
}

impl LayerNormWeights {
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.bytes()
    }
}

/// A linear layer's weight and bias.
pub(crate) struct Layer {
    number: Number,
    bias_number: Number,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// `[outputs, inputs]`.
    weight: DeviceBuffer,
    /// `[outputs]`.
    pub(crate) bias: DeviceBuffer,
    /// The scales, and where they are on the card.
    fp8: Option<(Fp8Scales, DeviceBuffer)>,
}

impl Layer {
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.bytes()
    }

    /// What its input is divided by, if that is fp8.
    pub(crate) fn fp8_scales(&self) -> Option<Fp8Scales> {
        self.fp8.as_ref().map(|(scales, _)| *scales)
    }

    /// All of its outputs.
    pub(crate) fn all(&self) -> Outputs<'_> {
        self.part(0, self.outputs)
    }

    /// Some of its outputs.
    pub(crate) fn part(&self, start: usize, outputs: usize) -> Outputs<'_> {
        Outputs {
            number: self.number,
            inputs: self.inputs,
            outputs,
            scales: self.fp8.as_ref().map(|(_, buffer)| Scales::of(buffer)),
            weight: self.weight.view().skip(start * self.inputs * self.number.size()),
            bias: self.bias.view().skip(start * self.bias_number.size()),
        }
    }
}

/// Some outputs of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Outputs<'a> {
    /// Of the operands.
    pub(crate) number: Number,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    scales: Option<Scales<'a>>,
    weight: View<'a>,
    bias: View<'a>,
}

impl<'a> Outputs<'a> {
    pub(crate) fn operands(self, input: View<'a>, out: View<'a>) -> Operands<'a> {
        Operands { input, weight: self.weight, bias: self.bias, scales: self.scales, out }
    }
}
