//! What is done with embeddings: normalising, comparing, and turning a comparison into a score.

/// Scales a vector to length 1, in place. A vector of zeros stays as it is.
pub fn normalize(embedding: &mut [f32]) {
    let length = norm(embedding);
    if length > 0.0 {
        for value in embedding {
            *value = (f64::from(*value) / length) as f32;
        }
    }
}

/// The cosine of the angle between two vectors of one length, from −1 to 1; 0 if one of them is all zeros.
///
/// # Panics
///
/// If the lengths differ.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let lengths = norm(a) * norm(b);
    if lengths > 0.0 { (dot(a, b) / lengths).clamp(-1.0, 1.0) as f32 } else { 0.0 }
}

/// The model's probability that an image and a text belong together, from the cosine of their embeddings:
/// `sigmoid(exp(logit_scale) · cosine + logit_bias)`. Unlike CLIP's softmax it does not depend on other texts.
pub fn score(cosine: f32, logit_scale: f32, logit_bias: f32) -> f32 {
    sigmoid(logit_scale.exp() * cosine + logit_bias)
}

/// The logistic function, `1 / (1 + exp(−x))`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The scalar product of two vectors of one length, summed in f64: an embedding's thousand products in f32 would lose
/// the digits that tell near neighbours apart.
///
/// # Panics
///
/// If the lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "a scalar product is of two vectors of one length");
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_vectors_have_length_one() {
        let mut embedding = [3.0, 0.0, -4.0];
        normalize(&mut embedding);
        assert_eq!(embedding, [0.6, 0.0, -0.8]);
    }

    #[test]
    fn zeros_stay_and_are_like_nothing() {
        let mut zeros = [0.0; 4];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 4]);
        assert_eq!(cosine(&zeros, &[1.0; 4]), 0.0);
    }

    #[test]
    fn lengths_do_not_matter_to_the_cosine() {
        assert_eq!(cosine(&[1e-20, 0.0], &[1e19, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 2.0], &[-2.0, -4.0]), -1.0);
    }

    #[test]
    fn scores_are_those_of_the_paper() {
        // Temperature 10 and bias −10 are the values that training starts from.
        let (scale, bias) = (10.0_f32.ln(), -10.0);
        assert!((score(1.0, scale, bias) - 0.5).abs() < 1e-6);
        assert!((score(0.0, scale, bias) - sigmoid(-10.0)).abs() < 1e-9);
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
    }
}
