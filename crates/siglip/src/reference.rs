//! The reference forward pass: plain loops in f32, to be read beside the paper and `transformers`'
//! `modeling_siglip.py`. Every engine is tested against it, and it is tested against values made with `transformers`.
//!
//! It reads and converts each weight anew in every call and computes one row at a time: about ten seconds a text for
//! so400m. Nothing here is for serving.

mod layers;

use layers::{Row, add, attention, layer_norm, linear, mlp, transformer_block};

use crate::engine::{EngineError, Tower};
use crate::weights::{PoolingHead, TextWeights, VisionWeights};

/// The embedding of one text, `[projection_size]`, not normalised: `pooler_output` of `transformers`' text
/// model.
///
/// `token_ids` is one row, padded to exactly `max_position_embeddings` ids. There is no mask of any kind:
/// padding takes part, as it did in training.
///
/// # Errors
///
/// [`EngineError::WrongInput`] for another number of ids, [`EngineError::TokenId`] for an id outside the
/// vocabulary, and [`EngineError::NotFinite`] if the result is not.
pub fn text_embedding(weights: &TextWeights, token_ids: &[u32]) -> Result<Vec<f32>, EngineError> {
    let config = &weights.config;
    if token_ids.len() != config.max_position_embeddings {
        return Err(EngineError::WrongInput {
            tower: Tower::Text,
            expected: format!("{} token ids", config.max_position_embeddings),
            got: token_ids.len().to_string(),
        });
    }
    let hidden = config.hidden_size;
    let positions = rows(&weights.position_embedding.to_f32(), hidden);
    let mut x = Vec::with_capacity(token_ids.len());
    for (position, &id) in token_ids.iter().enumerate() {
        let index = id as usize;
        if index >= config.vocab_size {
            let vocab_size = config.vocab_size;
            return Err(EngineError::TokenId { id, row: 0, position, vocab_size });
        }
        let mut token = vec![0.0; hidden];
        weights.token_embedding.copy_f32(index * hidden, &mut token);
        x.push(add(&token, &positions[position]));
    }

    for block in &weights.blocks {
        x = transformer_block(block, config.num_attention_heads, config.layer_norm_eps, &x);
    }
    let x = layer_norm(&weights.final_layer_norm, config.layer_norm_eps, &x);

    // The last position speaks for the text. It is a padding token, unless the text fills the context.
    let last = x[x.len() - 1..].to_vec();
    let embedding = linear(&weights.head, &last).swap_remove(0);
    finite(embedding)
}

/// The embedding of one image, `[hidden_size]`, not normalised: `pooler_output` of `transformers`' vision model.
///
/// `pixel_values` is one image, `[num_channels, image_size, image_size]` row-major, normalised.
///
/// # Errors
///
/// [`EngineError::WrongInput`] for another number of values, and [`EngineError::NotFinite`] if the result is not.
pub fn image_embedding(weights: &VisionWeights, pixel_values: &[f32]) -> Result<Vec<f32>, EngineError> {
    let config = &weights.config;
    let (channels, side) = (config.num_channels, config.image_size);
    if pixel_values.len() != channels * side * side {
        return Err(EngineError::WrongInput {
            tower: Tower::Vision,
            expected: format!("{channels} × {side} × {side} pixel values"),
            got: pixel_values.len().to_string(),
        });
    }
    // A convolution whose stride is its kernel's size is a linear layer on each patch.
    let patches = patches(pixel_values, channels, side, config.patch_size);
    let embedded = linear(&weights.patch_embedding, &patches);
    let positions = rows(&weights.position_embedding.to_f32(), config.hidden_size);
    let mut x: Vec<Row> =
        embedded.iter().zip(&positions).map(|(patch, position)| add(patch, position)).collect();

    for block in &weights.blocks {
        x = transformer_block(block, config.num_attention_heads, config.layer_norm_eps, &x);
    }
    let x = layer_norm(&weights.post_layer_norm, config.layer_norm_eps, &x);

    let embedding = pool(&weights.head, config.num_attention_heads, config.layer_norm_eps, &x);
    finite(embedding)
}

/// The pooling head: one learned query attends to all patches, then an MLP with a residual.
fn pool(head: &PoolingHead, heads: usize, eps: f32, x: &[Row]) -> Row {
    let probe = vec![head.probe.to_f32()];
    let query = linear(&head.q, &probe);
    // One row of the layer's output is a position's key and then its value.
    let (key, value): (Vec<Row>, Vec<Row>) = linear(&head.kv, x)
        .iter()
        .map(|kv| (kv[..kv.len() / 2].to_vec(), kv[kv.len() / 2..].to_vec()))
        .unzip();
    let attended = linear(&head.out_proj, &attention(&query, &key, &value, heads));

    let normed = layer_norm(&head.layer_norm, eps, &attended);
    add(&attended[0], &mlp(&head.fc1, &head.fc2, &normed)[0])
}

/// Cuts an image into square patches, row by row. Each patch is `[channels, patch, patch]`, as the
/// convolution's weight is. Pixels on the right and at the bottom that do not fill a patch are dropped.
fn patches(pixels: &[f32], channels: usize, side: usize, patch: usize) -> Vec<Row> {
    let grid = side / patch;
    let mut patches = Vec::with_capacity(grid * grid);
    for patch_y in 0..grid {
        for patch_x in 0..grid {
            let mut values = Vec::with_capacity(channels * patch * patch);
            for channel in 0..channels {
                for y in 0..patch {
                    for x in 0..patch {
                        let (row, column) = (patch_y * patch + y, patch_x * patch + x);
                        values.push(pixels[(channel * side + row) * side + column]);
                    }
                }
            }
            patches.push(values);
        }
    }
    patches
}

fn rows(values: &[f32], width: usize) -> Vec<Row> {
    values.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

fn finite(embedding: Row) -> Result<Row, EngineError> {
    if embedding.iter().all(|value| value.is_finite()) {
        Ok(embedding)
    } else {
        Err(EngineError::NotFinite { row: 0 })
    }
}
