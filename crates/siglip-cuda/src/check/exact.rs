//! What kernels and products compute, in f64, as one would write it down.

/// One row.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f64) -> Vec<f64> {
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + epsilon).sqrt();
    let rows = x.iter().zip(weight).zip(bias);
    rows.map(|((x, w), b)| (x - mean) * scale * f64::from(*w) + f64::from(*b)).collect()
}

/// One query: `q` is `[head_dim]`, `k` and `v` are `[keys, head_dim]`.
pub(crate) fn attention(q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
    let dot = |key: &[f32]| q.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
    let scores: Vec<f64> = k.chunks(q.len()).map(|key| dot(key) / (q.len() as f64).sqrt()).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let column = |i| {
        let products =
            weights.iter().zip(v.chunks(q.len())).map(|(weight, value)| weight * f64::from(value[i]));
        products.sum::<f64>() / sum
    };
    (0..q.len()).map(column).collect()
}

/// In its tanh form.
pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}
