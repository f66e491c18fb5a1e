//! What a card must compute right before an engine on it is handed out: each of our kernels at the tower's sizes, beside
//! plain loops in f64. The products are proved where their algorithms are chosen (`plan::proof`).
//!
//! The kernels are compiled on the spot by a compiler that we do not ship, for cards that we may never have seen; a wrong
//! embedding looks like a right one. What differs by more than rounding explains is [`CudaError::Wrong`].

use std::sync::Arc;

use crate::error::CudaError;
use crate::gpu::Gpu;
use crate::kernels::Kernels;
use crate::kernels::attention::Attention;
use crate::kernels::attention_rows::AttentionRows;
use crate::kernels::embedding::{self, PatchShape, Patches, TokenEmbedding};
use crate::kernels::layer_norm::{LayerNorm, LayerNormFp8};
use crate::memory::{DeviceBuffer, View};
use crate::number::Number;
use crate::random::Random;
use crate::stream::Stream;

pub(crate) mod exact;

const EPSILON: f32 = 1e-6;
const ITEMS: usize = 2;

/// Runs all kernels of a tower, which has `patch` if it is one for images.
pub(crate) fn check(bench: &Bench<'_>, positions: usize, patch: Option<PatchShape>) -> Result<(), CudaError> {
    match patch {
        Some(shape) => bench.patches(shape)?,
        None => bench.token_embedding(positions)?,
    }
    bench.layer_norm(false)?;
    bench.layer_norm(true)?;
    if bench.kernels.constants.number == Number::E4m3 {
        bench.layer_norm_fp8()?;
    }
    bench.attention(positions)?;
    bench.attention_rows(positions)
}

/// Where kernels are tried.
pub(crate) struct Bench<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    pub(crate) kernels: &'a Kernels,
    pub(crate) stream: &'a Stream,
}

impl Bench<'_> {
    /// The format that the kernels read and write.
    pub(crate) fn number(&self) -> Number {
        self.kernels.constants.number.beside()
    }

    /// An input. It may be dropped after the launch: freeing waits for the card.
    pub(crate) fn upload(&self, number: Number, values: &[f32]) -> Result<DeviceBuffer, CudaError> {
        self.upload_bytes(&number.encode(values))
    }

    pub(crate) fn upload_bytes(&self, bytes: &[u8]) -> Result<DeviceBuffer, CudaError> {
        DeviceBuffer::with(self.gpu, WHAT, bytes)
    }

    pub(crate) fn output(&self, len: usize, number: Number) -> Result<DeviceBuffer, CudaError> {
        DeviceBuffer::new(self.gpu, WHAT, len * number.size())
    }

    pub(crate) fn download(&self, buffer: &DeviceBuffer, number: Number) -> Result<Vec<f32>, CudaError> {
        let mut bytes = vec![0; buffer.bytes()];
        buffer.download(0, &mut bytes)?;
        Ok(number.decode(&bytes))
    }

    /// What `launch` writes into a buffer of `len` values.
    pub(crate) fn run(
        &self,
        len: usize,
        number: Number,
        launch: impl FnOnce(View<'_>) -> Result<(), CudaError>,
    ) -> Result<Vec<f32>, CudaError> {
        let out = self.output(len, number)?;
        launch(out.view())?;
        self.stream.wait()?;
        self.download(&out, number)
    }

    /// Rounded values for a kernel to read.
    fn values(&self, seed: u32, len: usize, most: f32) -> Vec<f32> {
        let values = Random::seeded(seed).values(len, most);
        values.into_iter().map(|value| self.number().round(value)).collect()
    }

    fn compare(&self, what: &str, got: &[f32], expected: &[f64], number: Number) -> Result<(), CudaError> {
        compare(self.gpu, || format!("{what} in {}", number.precision()), got, expected, number)
    }

    fn token_embedding(&self, positions_len: usize) -> Result<(), CudaError> {
        let hidden = self.kernels.constants.hidden;
        let (vocabulary, rows) = (11, ITEMS * positions_len);
        let tokens = self.values(1, vocabulary * hidden, 1.0);
        let positions = Random::seeded(2).values(positions_len * hidden, 1.0);
        let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7 % vocabulary as u32).collect();
        let id_bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let (on_card, positions_on_card) =
            (self.upload(self.number(), &tokens)?, self.upload(Number::F32, &positions)?);
        let id_bytes = self.upload_bytes(&id_bytes)?;
        let got = self.run(rows * hidden, self.number(), |x| {
            TokenEmbedding {
                ids: id_bytes.view(),
                tokens: on_card.view(),
                positions: positions_on_card.view(),
                x,
                rows,
                vocabulary,
                positions_len,
            }
            .launch(self.kernels, self.stream)
        })?;
        let expected = embedding::twin::token_embedding(&ids, &tokens, &positions, hidden, self.number());
        self.compare("the lookup of tokens", &got, &wide(&expected), self.number())
    }

    fn patches(&self, shape: PatchShape) -> Result<(), CudaError> {
        let hidden = self.kernels.constants.hidden;
        let positions_len = shape.grid() * shape.grid();
        let pixels = Random::seeded(1).values(ITEMS * shape.channels * shape.side * shape.side, 1.0);
        let positions = Random::seeded(2).values(positions_len * hidden, 1.0);
        let x = self.output(ITEMS * positions_len * hidden, self.number())?;
        let (on_card, positions_on_card) =
            (self.upload(Number::F32, &pixels)?, self.upload(Number::F32, &positions)?);
        let got = self.run(ITEMS * positions_len * shape.stride(), self.number(), |patches| {
            Patches {
                pixels: on_card.view(),
                positions: positions_on_card.view(),
                patches,
                x: x.view(),
                items: ITEMS,
                shape,
            }
            .launch(self.kernels, self.stream)
        })?;
        let expected = embedding::twin::patches(&pixels, shape, self.number());
        self.compare("cutting images into patches", &got, &wide(&expected), self.number())?;
        let scale = f64::from(self.number().residual_scale());
        let expected: Vec<f64> = wide(&positions).iter().map(|position| position * scale).collect();
        let got = self.download(&x, self.number())?;
        self.compare("the patches' positions", &got, &expected.repeat(ITEMS), self.number())
    }

    fn layer_norm(&self, x_is_wide: bool) -> Result<(), CudaError> {
        let hidden = self.kernels.constants.hidden;
        let (rows, stride) = (7, 2 * hidden);
        let x_number = if x_is_wide { Number::F32 } else { self.number() };
        let x = self.values(1, (rows - 1) * stride + hidden, 3.0);
        let [weight, bias] = [2, 3].map(|seed| Random::seeded(seed).values(hidden, 1.0));
        let on_card = self.upload(x_number, &x)?;
        let (weight_on_card, bias_on_card) =
            (self.upload(Number::F32, &weight)?, self.upload(Number::F32, &bias)?);
        let got = self.run(rows * hidden, self.number(), |out| {
            LayerNorm {
                x: on_card.view(),
                x_is_wide,
                stride,
                weight: weight_on_card.view(),
                bias: bias_on_card.view(),
                out,
                rows,
                epsilon: EPSILON,
            }
            .launch(self.kernels, self.stream)
        })?;
        let expected: Vec<f64> = x
            .chunks(stride)
            .flat_map(|row| exact::layer_norm(&row[..hidden], &weight, &bias, f64::from(EPSILON)))
            .collect();
        self.compare("layer norm", &got, &expected, self.number())
    }

    fn layer_norm_fp8(&self) -> Result<(), CudaError> {
        let hidden = self.kernels.constants.hidden;
        let (rows, scale) = (7, 0.25);
        let x = self.values(1, rows * hidden, 3.0);
        let [weight, bias, add] = [2, 3, 4].map(|seed| Random::seeded(seed).values(hidden, 1.0));
        let on_card = self.upload(self.number(), &x)?;
        let (weight_on_card, bias_on_card, add_on_card) = (
            self.upload(Number::F32, &weight)?,
            self.upload(Number::F32, &bias)?,
            self.upload(Number::F32, &add)?,
        );
        let got = self.run(rows * hidden, Number::E4m3, |out| {
            LayerNormFp8 {
                x: on_card.view(),
                stride: hidden,
                weight: weight_on_card.view(),
                bias: bias_on_card.view(),
                out,
                then_add: Some(add_on_card.view()),
                rows,
                epsilon: EPSILON,
                scale,
            }
            .launch(self.kernels, self.stream)
        })?;
        let expected: Vec<f64> = x
            .chunks(hidden)
            .flat_map(|row| exact::layer_norm(row, &weight, &bias, f64::from(EPSILON)))
            .map(|value| value / f64::from(scale))
            .collect();
        self.compare("layer norm", &got, &expected, Number::E4m3)?;
        let expected: Vec<f64> = x
            .chunks(hidden)
            .flat_map(|row| row.iter().zip(&add))
            .map(|(x, add)| f64::from(x + add))
            .collect();
        self.compare(
            "adding to rows that were normed",
            &self.download(&on_card, self.number())?,
            &expected,
            self.number(),
        )
    }

    fn attention(&self, positions: usize) -> Result<(), CudaError> {
        let hidden = self.kernels.constants.hidden;
        let mut qkv = self.values(1, ITEMS * positions * 3 * hidden, 1.0);
        // Scores far apart in the first tile and the last: the softmax is rescaled on the way.
        for row in qkv.chunks_mut(3 * hidden).step_by(5) {
            row.iter_mut().for_each(|value| *value *= 4.0);
        }
        let on_card = self.upload(self.number(), &qkv)?;
        let got = self.run(ITEMS * positions * hidden, self.number(), |out| {
            Attention { qkv: on_card.view(), out, items: ITEMS, positions }.launch(self.kernels, self.stream)
        })?;
        // A few queries of each head, and the last: what is wrong is wrong in more than one of them.
        let mut queries: Vec<usize> = (0..positions).step_by(positions.div_ceil(8)).collect();
        queries.push(positions - 1);
        let size = 3 * hidden;
        for item in 0..ITEMS {
            let qkv = &qkv[item * positions * size..][..positions * size];
            let got = &got[item * positions * hidden..][..positions * hidden];
            for head in self.heads() {
                let [q, k, v] = [0, 1, 2].map(|which| part(qkv, size, which * hidden, &head));
                let got = part(got, hidden, 0, &head);
                let width = head.len();
                for query in &queries {
                    let expected = exact::attention(&q[query * width..][..width], &k, &v);
                    self.compare("attention", &got[query * width..][..width], &expected, self.number())?;
                }
            }
        }
        Ok(())
    }

    fn attention_rows(&self, keys: usize) -> Result<(), CudaError> {
        let hidden = self.kernels.constants.hidden;
        let (q, kv) = (self.values(1, ITEMS * hidden, 2.0), self.values(2, ITEMS * keys * 2 * hidden, 2.0));
        let (q_on_card, kv_on_card) = (self.upload(self.number(), &q)?, self.upload(self.number(), &kv)?);
        let got = self.run(ITEMS * hidden, self.number(), |out| {
            AttentionRows {
                q: q_on_card.view(),
                q_item: hidden,
                q_row: 0,
                k: kv_on_card.view(),
                v: kv_on_card.view().skip(hidden * self.number().size()),
                kv_row: 2 * hidden,
                out,
                items: ITEMS,
                queries: 1,
                keys,
            }
            .launch(self.kernels, self.stream)
        })?;
        for item in 0..ITEMS {
            let kv = &kv[item * keys * 2 * hidden..][..keys * 2 * hidden];
            for head in self.heads() {
                let [k, v] = [0, 1].map(|which| part(kv, 2 * hidden, which * hidden, &head));
                let expected = exact::attention(&q[item * hidden..][head.clone()], &k, &v);
                self.compare(
                    "attention of one query",
                    &got[item * hidden..][head],
                    &expected,
                    self.number(),
                )?;
            }
        }
        Ok(())
    }

    /// Where each head's values are in a row.
    pub(crate) fn heads(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let width = self.kernels.constants.head_dim();
        (0..self.kernels.constants.heads).map(move |head| head * width..(head + 1) * width)
    }
}

/// What the memory is for.
const WHAT: &str = "checking the kernels";

/// The columns `columns`, from `offset` on, of rows of `width` values.
pub(crate) fn part(rows: &[f32], width: usize, offset: usize, columns: &std::ops::Range<usize>) -> Vec<f32> {
    rows.chunks(width).flat_map(|row| row[offset..][columns.clone()].to_vec()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// An error if a value is further from what is expected than rounding to `number` explains by far: beside the largest value,
/// twice or more what the kernels' tests allow.
pub(crate) fn compare(
    gpu: &Gpu,
    what: impl FnOnce() -> String,
    got: &[f32],
    expected: &[f64],
    number: Number,
) -> Result<(), CudaError> {
    let tolerance = match number {
        Number::E4m3 => 0.1,
        Number::Bf16 => 2e-2,
        Number::F16 => 4e-3,
        Number::F32 => 1e-3,
    };
    match first_beyond(got, expected, tolerance) {
        None => Ok(()),
        Some((got, expected)) => {
            Err(CudaError::Wrong { index: gpu.index, name: gpu.name.clone(), what: what(), got, expected })
        }
    }
}

/// The first value that is not what is expected within `tolerance`, beside the size of the largest, and what is expected.
pub(crate) fn first_beyond(got: &[f32], expected: &[f64], tolerance: f64) -> Option<(f32, f64)> {
    let scale = expected.iter().fold(0.1_f64, |most, value| most.max(value.abs()));
    // A NaN is near nothing.
    let near = |(got, expected): &(f32, f64)| (f64::from(*got) - expected).abs() <= tolerance * scale;
    got.iter().copied().zip(expected.iter().copied()).find(|pair| !near(pair))
}
