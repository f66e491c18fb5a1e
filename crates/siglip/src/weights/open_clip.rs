//! The towers' tensors under the names that open_clip and, for images, timm give them.
//!
//! Queries, keys and values of a block are one layer there, in this order; each is a view of its rows here.

use super::scope::Scope;
use super::{Block, Linear, PoolingHead, Tensor, TextWeights, VisionWeights, Weights, WeightsError};
use crate::config::{TextConfig, VisionConfig};

/// What the names of the text tower's tensors start with.
pub(crate) const TEXT: &str = "text.";
/// What the names of the vision tower's tensors start with.
pub(crate) const VISION: &str = "visual.trunk.";

/// Whether there are tensors under a prefix.
pub(crate) fn has(weights: &Weights, prefix: &str) -> bool {
    weights.names().any(|name| name.starts_with(prefix))
}

/// Finds all tensors of the text tower. Without a projection, the tower ends in the last position's row as it is.
///
/// # Errors
///
/// As [`Weights::tensor`].
pub(crate) fn text(
    weights: &Weights,
    config: &TextConfig,
    projected: bool,
) -> Result<TextWeights, WeightsError> {
    let root = Scope::at(weights, TEXT);
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let block = |layer| {
        let block = root.child(&format!("transformer.resblocks.{layer}"));
        let attention = block.child("attn");
        let qkv = Linear {
            weight: attention.tensor("in_proj_weight", &[3 * hidden, hidden])?,
            bias: attention.tensor("in_proj_bias", &[3 * hidden])?,
        };
        let [q, k, v] = split(&qkv, hidden);
        Ok(Block {
            layer_norm1: block.norm("ln_1", hidden)?,
            q,
            k,
            v,
            out: attention.linear("out_proj", hidden, hidden)?,
            layer_norm2: block.norm("ln_2", hidden)?,
            fc1: block.linear("mlp.c_fc", intermediate, hidden)?,
            fc2: block.linear("mlp.c_proj", hidden, intermediate)?,
        })
    };
    Ok(TextWeights {
        token_embedding: root.tensor("token_embedding.weight", &[config.vocab_size, hidden])?,
        position_embedding: root.tensor("positional_embedding", &[config.max_position_embeddings, hidden])?,
        blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_, _>>()?,
        final_layer_norm: root.norm("ln_final", hidden)?,
        head: if projected {
            root.linear("text_projection", config.projection_size, hidden)?
        } else {
            identity(hidden)
        },
        config: config.clone(),
    })
}

/// Finds all tensors of the vision tower.
///
/// # Errors
///
/// As [`Weights::tensor`].
pub(crate) fn vision(weights: &Weights, config: &VisionConfig) -> Result<VisionWeights, WeightsError> {
    let root = Scope::at(weights, VISION);
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let block = |layer| {
        let block = root.child(&format!("blocks.{layer}"));
        let qkv = block.linear("attn.qkv", 3 * hidden, hidden)?;
        let [q, k, v] = split(&qkv, hidden);
        Ok(Block {
            layer_norm1: block.norm("norm1", hidden)?,
            q,
            k,
            v,
            out: block.linear("attn.proj", hidden, hidden)?,
            layer_norm2: block.norm("norm2", hidden)?,
            fc1: block.linear("mlp.fc1", intermediate, hidden)?,
            fc2: block.linear("mlp.fc2", hidden, intermediate)?,
        })
    };
    let patch = config.patch_size;
    let pool = root.child("attn_pool");
    Ok(VisionWeights {
        patch_embedding: Linear {
            weight: root.tensor("patch_embed.proj.weight", &[hidden, config.num_channels, patch, patch])?,
            bias: root.tensor("patch_embed.proj.bias", &[hidden])?,
        },
        position_embedding: root
            .tensor("pos_embed", &[1, config.num_patches(), hidden])?
            .without_first_dimension(),
        blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_, _>>()?,
        post_layer_norm: root.norm("norm", hidden)?,
        head: PoolingHead {
            probe: pool.tensor("latent", &[1, 1, hidden])?,
            q: pool.linear("q", hidden, hidden)?,
            kv: pool.linear("kv", 2 * hidden, hidden)?,
            out_proj: pool.linear("proj", hidden, hidden)?,
            layer_norm: pool.norm("norm", hidden)?,
            fc1: pool.linear("mlp.fc1", intermediate, hidden)?,
            fc2: pool.linear("mlp.fc2", hidden, intermediate)?,
        },
        config: config.clone(),
    })
}

/// The three layers of `hidden` outputs that stand one after the other in one.
fn split(joined: &Linear, hidden: usize) -> [Linear; 3] {
    [0, 1, 2].map(|part| joined.rows(part * hidden..(part + 1) * hidden))
}

/// The layer that changes nothing, so that engines need not know of towers without a projection.
fn identity(size: usize) -> Linear {
    let elements = (0..size * size).map(|at| if at % (size + 1) == 0 { 1.0 } else { 0.0 });
    Linear {
        weight: Tensor::owned("(identity)", &[size, size], elements),
        bias: Tensor::owned("(identity)", &[size], (0..size).map(|_| 0.0)),
    }
}
