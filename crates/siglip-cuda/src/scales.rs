//! What fp8 values are divided by, so that they fit their range: a number for each tensor, found when weights are loaded.
//!
//! A row's bits must not depend on its batch, so activations cannot be scaled by the largest value of one. Their scales
//! are bounds that hold for every input. A layer norm's output before its weight γ and bias β, x̂, has a length of at most
//! √n for n values, whatever came in; so
//!
//! - |γ_k · x̂_k + β_k| ≤ |γ_k| · √n + |β_k|, what qkv and fc1 read, and
//! - |w_j · (γ ∘ x̂ + β) + b_j| ≤ ‖w_j ∘ γ‖ · √n + |w_j · β + b_j| by Cauchy and Schwarz, what fc1 gives; GELU makes no
//!   value larger, so fc2 reads no more.
//!
//! That is √n times what is usual, which costs nothing: e4m3 keeps its three bits over fifteen powers of two.

use siglip::weights::{Linear, Norm};

use crate::e4m3;

/// Room for the rounding of operands to three bits, which may make a product larger than the bound by so much.
const ROUNDING: f64 = (1.0 + 1.0 / 16.0) * (1.0 + 1.0 / 16.0);

/// For a weight: its largest value is the format's largest.
pub(crate) fn weight_scale(weight: &[f32]) -> f32 {
    let largest = weight.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 { largest / e4m3::LARGEST } else { 1.0 }
}

/// For what a layer norm gives.
pub(crate) fn norm_scale(norm: &Norm) -> f32 {
    let (weight, bias) = (norm.weight.to_f32(), norm.bias.to_f32());
    let longest = (weight.len() as f64).sqrt();
    let bound = |(w, b): (&f32, &f32)| f64::from(w.abs()) * longest + f64::from(b.abs());
    scale_for(weight.iter().zip(&bias).map(bound).fold(0.0, f64::max))
}

/// For what a layer gives after a layer norm, with or without GELU.
pub(crate) fn layer_scale(norm: &Norm, layer: &Linear) -> f32 {
    let (gamma, beta) = (norm.weight.to_f32(), norm.bias.to_f32());
    let (weight, bias) = (layer.weight.to_f32(), layer.bias.to_f32());
    let longest = (gamma.len() as f64).sqrt();
    let bound = |(row, bias): (&[f32], &f32)| {
        let (mut squares, mut offset) = (0.0, f64::from(*bias));
        for ((w, gamma), beta) in row.iter().zip(&gamma).zip(&beta) {
            squares += (f64::from(*w) * f64::from(*gamma)).powi(2);
            offset += f64::from(*w) * f64::from(*beta);
        }
        squares.sqrt() * longest + offset.abs()
    };
    let rows = weight.chunks(gamma.len().max(1)).zip(&bias);
    scale_for(ROUNDING * rows.map(bound).fold(0.0, f64::max))
}

/// The power of two that brings values up to `bound` into the format's range: dividing by it rounds nothing.
fn scale_for(bound: f64) -> f32 {
    let scale = bound / f64::from(e4m3::LARGEST);
    // Weights that make no sense give no scale that does; the result then is not finite, and said not to be.
    if scale > 0.0 && scale.is_finite() { (scale.log2().ceil()).exp2() as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_what_they_bound() {
        assert_eq!(weight_scale(&[0.5, -896.0, 3.0]), 2.0);
        assert_eq!(weight_scale(&[0.0; 4]), 1.0);
        for (bound, scale) in
            [(448.0, 1.0), (449.0, 2.0), (0.4, 0.000_976_562_5), (0.0, 1.0), (f64::NAN, 1.0)]
        {
            assert_eq!(scale_for(bound), scale, "{bound}");
        }
    }
}
