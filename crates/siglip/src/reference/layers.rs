//! The layers that both towers are made of. Each takes rows, one per position, and returns rows.

use crate::weights::{Block, Linear, Norm};

/// One position's values.
pub(super) type Row = Vec<f32>;

/// One pre-norm block: attention and MLP, each on the normalised input and added to it.
pub(super) fn transformer_block(block: &Block, heads: usize, eps: f32, x: &[Row]) -> Vec<Row> {
    let normed = layer_norm(&block.layer_norm1, eps, x);
    let query = linear(&block.q, &normed);
    let key = linear(&block.k, &normed);
    let value = linear(&block.v, &normed);
    let attended = linear(&block.out, &attention(&query, &key, &value, heads));
    let x = add_rows(x, &attended);

    let normed = layer_norm(&block.layer_norm2, eps, &x);
    add_rows(&x, &mlp(&block.fc1, &block.fc2, &normed))
}

/// Multi-head attention without a mask: `softmax(query · keyᵀ / √head_dim) · value`, head by head.
pub(super) fn attention(query: &[Row], key: &[Row], value: &[Row], heads: usize) -> Vec<Row> {
    let hidden = query[0].len();
    let head_dim = hidden / heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut out = vec![vec![0.0; hidden]; query.len()];
    for head in 0..heads {
        let part = head * head_dim..(head + 1) * head_dim;
        for (query, out) in query.iter().zip(&mut out) {
            let mut weights: Row =
                key.iter().map(|key| scale * dot(&query[part.clone()], &key[part.clone()])).collect();
            softmax(&mut weights);
            for (weight, value) in weights.iter().zip(value) {
                for (out, value) in out[part.clone()].iter_mut().zip(&value[part.clone()]) {
                    *out += weight * value;
                }
            }
        }
    }
    out
}

/// Two linear layers with the GELU between them.
pub(super) fn mlp(fc1: &Linear, fc2: &Linear, x: &[Row]) -> Vec<Row> {
    let mut inner = linear(fc1, x);
    for value in inner.iter_mut().flatten() {
        *value = gelu_tanh(*value);
    }
    linear(fc2, &inner)
}

/// `weight · x + bias` for each row. A weight of more than two dimensions counts as `[out, everything else]`.
pub(super) fn linear(layer: &Linear, x: &[Row]) -> Vec<Row> {
    let (weights, biases) = (layer.weight.to_f32(), layer.bias.to_f32());
    let inputs = weights.len() / biases.len();
    let outputs = |x: &Row| {
        weights.chunks_exact(inputs).zip(&biases).map(|(weight, bias)| dot(weight, x) + bias).collect()
    };
    x.iter().map(outputs).collect()
}

/// Each row to mean 0 and variance 1, then scaled and shifted.
pub(super) fn layer_norm(norm: &Norm, eps: f32, x: &[Row]) -> Vec<Row> {
    let (weight, bias) = (norm.weight.to_f32(), norm.bias.to_f32());
    let normalise = |x: &Row| {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let scale = 1.0 / (variance + eps).sqrt();
        x.iter()
            .zip(&weight)
            .zip(&bias)
            .map(|((x, weight), bias)| (x - mean) * scale * weight + bias)
            .collect()
    };
    x.iter().map(normalise).collect()
}

/// The sum of two rows.
pub(super) fn add(a: &[f32], b: &[f32]) -> Row {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn add_rows(a: &[Row], b: &[Row]) -> Vec<Row> {
    a.iter().zip(b).map(|(a, b)| add(a, b)).collect()
}

/// Scores to weights that sum to 1. The maximum is taken off first, so that no exponential overflows.
fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// GELU in the tanh form: x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³))).
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)).tanh())
}

/// The scalar product, as 16 partial sums: closer to the exact sum than one long one, and the compiler can
/// compute them side by side, which keeps the tests of whole models bearable.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
