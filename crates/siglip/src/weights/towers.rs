//! The tensors of each tower under the names that `transformers` gives them.

use std::ops::Range;

use super::scope::Scope;
use super::{Tensor, Weights, WeightsError};
use crate::config::{TextConfig, VisionConfig};
#[cfg(feature = "hub")]
use crate::engine::Tower;

/// Whether a tower needs the tensor of this name in a file of a whole model: all but the other tower's.
#[cfg(feature = "hub")]
pub(crate) fn is_of_tower(name: &str, tower: Tower) -> bool {
    let others = match tower {
        Tower::Text => [VisionWeights::PREFIX, "visual."],
        Tower::Vision => [TextWeights::PREFIX, "text."],
    };
    !others.iter().any(|prefix| name.starts_with(prefix))
}

/// A linear layer: `y = weight · x + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Tensor,
}

impl Linear {
    fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }

    /// The layer of some of the outputs: of one that stands for several, one.
    pub(super) fn rows(&self, outputs: Range<usize>) -> Linear {
        Linear { weight: self.weight.rows(outputs.clone()), bias: self.bias.rows(outputs) }
    }
}

/// A layer norm's scale and shift.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[hidden]`.
    pub weight: Tensor,
    /// `[hidden]`.
    pub bias: Tensor,
}

impl Norm {
    fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }
}

/// One pre-norm transformer block; the same in both towers.
#[derive(Clone, Debug)]
pub struct Block {
    /// Before the attention.
    pub layer_norm1: Norm,
    /// Queries, `[hidden, hidden]`: head after head, as keys and values.
    pub q: Linear,
    /// Keys, `[hidden, hidden]`.
    pub k: Linear,
    /// Values, `[hidden, hidden]`.
    pub v: Linear,
    /// The attention's output projection, `[hidden, hidden]`.
    pub out: Linear,
    /// Before the MLP.
    pub layer_norm2: Norm,
    /// `[intermediate, hidden]`.
    pub fc1: Linear,
    /// `[hidden, intermediate]`.
    pub fc2: Linear,
}

impl Block {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let norms = [&self.layer_norm1, &self.layer_norm2].map(Norm::tensors);
        let layers = [&self.q, &self.k, &self.v, &self.out, &self.fc1, &self.fc2].map(Linear::tensors);
        norms.into_iter().flatten().chain(layers.into_iter().flatten())
    }
}

/// All tensors of a text tower.
#[derive(Clone, Debug)]
pub struct TextWeights {
    /// The hyper-parameters that fix every shape below.
    pub config: TextConfig,
    /// `[vocab_size, hidden]`.
    pub token_embedding: Tensor,
    /// `[max_position_embeddings, hidden]`.
    pub position_embedding: Tensor,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// After the last block.
    pub final_layer_norm: Norm,
    /// From the last position to the embedding, `[projection_size, hidden]`.
    pub head: Linear,
}

impl TextWeights {
    /// The prefix of the tower's tensors in a file of a whole model.
    pub const PREFIX: &'static str = "text_model.";

    /// Finds all tensors of the tower, with or without [`TextWeights::PREFIX`]: both forms are in circulation.
    ///
    /// # Errors
    ///
    /// As [`Weights::tensor`], for the first tensor that is not there or not as `config` says.
    pub fn load(weights: &Weights, config: &TextConfig) -> Result<TextWeights, WeightsError> {
        let root = Scope::tower(weights, Self::PREFIX, Self::MARKER);
        let hidden = config.hidden_size;
        let embeddings = root.child("embeddings");
        Ok(TextWeights {
            token_embedding: embeddings.tensor("token_embedding.weight", &[config.vocab_size, hidden])?,
            position_embedding: embeddings
                .tensor("position_embedding.weight", &[config.max_position_embeddings, hidden])?,
            blocks: blocks(&root, config.num_hidden_layers, hidden, config.intermediate_size)?,
            final_layer_norm: root.norm("final_layer_norm", hidden)?,
            head: root.linear("head", config.projection_size, hidden)?,
            config: config.clone(),
        })
    }

    /// All tensors, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let blocks = self.blocks.iter().flat_map(Block::tensors);
        let rest = [self.final_layer_norm.tensors(), self.head.tensors()];
        [&self.token_embedding, &self.position_embedding]
            .into_iter()
            .chain(blocks)
            .chain(rest.into_iter().flatten())
    }

    /// Whether the weights hold a text tower, complete or not.
    pub fn are_in(weights: &Weights) -> bool {
        Scope::has_tower(weights, Self::PREFIX, Self::MARKER)
    }

    const MARKER: &'static str = "embeddings.token_embedding.weight";
}

/// All tensors of a vision tower.
#[derive(Clone, Debug)]
pub struct VisionWeights {
    /// The hyper-parameters that fix every shape below.
    pub config: VisionConfig,
    /// The convolution that embeds patches: weight `[hidden, num_channels, patch_size, patch_size]`.
    pub patch_embedding: Linear,
    /// `[num_patches, hidden]`, patches row by row.
    pub position_embedding: Tensor,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// After the last block.
    pub post_layer_norm: Norm,
    /// From all patches to the embedding.
    pub head: PoolingHead,
}

impl VisionWeights {
    /// The prefix of the tower's tensors in a file of a whole model.
    pub const PREFIX: &'static str = "vision_model.";

    /// Finds all tensors of the tower, with or without [`VisionWeights::PREFIX`].
    ///
    /// # Errors
    ///
    /// As [`Weights::tensor`], for the first tensor that is not there or not as `config` says.
    pub fn load(weights: &Weights, config: &VisionConfig) -> Result<VisionWeights, WeightsError> {
        let root = Scope::tower(weights, Self::PREFIX, Self::MARKER);
        let hidden = config.hidden_size;
        let patch = config.patch_size;
        let embeddings = root.child("embeddings");
        let head = root.child("head");
        let attention = head.child("attention");
        let in_proj = Linear {
            weight: attention.tensor("in_proj_weight", &[3 * hidden, hidden])?,
            bias: attention.tensor("in_proj_bias", &[3 * hidden])?,
        };
        Ok(VisionWeights {
            patch_embedding: Linear {
                weight: embeddings
                    .tensor("patch_embedding.weight", &[hidden, config.num_channels, patch, patch])?,
                bias: embeddings.tensor("patch_embedding.bias", &[hidden])?,
            },
            position_embedding: embeddings
                .tensor("position_embedding.weight", &[config.num_patches(), hidden])?,
            blocks: blocks(&root, config.num_hidden_layers, hidden, config.intermediate_size)?,
            post_layer_norm: root.norm("post_layernorm", hidden)?,
            head: PoolingHead {
                probe: head.tensor("probe", &[1, 1, hidden])?,
                q: in_proj.rows(0..hidden),
                kv: in_proj.rows(hidden..3 * hidden),
                out_proj: attention.linear("out_proj", hidden, hidden)?,
                layer_norm: head.norm("layernorm", hidden)?,
                fc1: head.linear("mlp.fc1", config.intermediate_size, hidden)?,
                fc2: head.linear("mlp.fc2", hidden, config.intermediate_size)?,
            },
            config: config.clone(),
        })
    }

    /// All tensors, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let head = &self.head;
        let first = self.patch_embedding.tensors().into_iter().chain([&self.position_embedding, &head.probe]);
        let blocks = self.blocks.iter().flat_map(Block::tensors);
        let layers = [&head.q, &head.kv, &head.out_proj, &head.fc1, &head.fc2].map(Linear::tensors);
        let norms = [&self.post_layer_norm, &head.layer_norm].map(Norm::tensors);
        first.chain(blocks).chain(layers.into_iter().flatten()).chain(norms.into_iter().flatten())
    }

    /// Whether the weights hold a vision tower, complete or not.
    pub fn are_in(weights: &Weights) -> bool {
        Scope::has_tower(weights, Self::PREFIX, Self::MARKER)
    }

    const MARKER: &'static str = "embeddings.patch_embedding.weight";
}

/// The head that pools all patches into one embedding by attention.
#[derive(Clone, Debug)]
pub struct PoolingHead {
    /// The learned query, `[1, 1, hidden]`.
    pub probe: Tensor,
    /// Queries, `[hidden, hidden]`.
    pub q: Linear,
    /// Keys and then values, `[2 · hidden, hidden]`.
    pub kv: Linear,
    /// `[hidden, hidden]`.
    pub out_proj: Linear,
    /// Before the MLP.
    pub layer_norm: Norm,
    /// `[intermediate, hidden]`.
    pub fc1: Linear,
    /// `[hidden, intermediate]`.
    pub fc2: Linear,
}

/// The blocks of a tower.
fn blocks(
    root: &Scope<'_>,
    layers: usize,
    hidden: usize,
    intermediate: usize,
) -> Result<Vec<Block>, WeightsError> {
    (0..layers)
        .map(|layer| {
            let block = root.child(&format!("encoder.layers.{layer}"));
            let attention = block.child("self_attn");
            Ok(Block {
                layer_norm1: block.norm("layer_norm1", hidden)?,
                q: attention.linear("q_proj", hidden, hidden)?,
                k: attention.linear("k_proj", hidden, hidden)?,
                v: attention.linear("v_proj", hidden, hidden)?,
                out: attention.linear("out_proj", hidden, hidden)?,
                layer_norm2: block.norm("layer_norm2", hidden)?,
                fc1: block.linear("mlp.fc1", intermediate, hidden)?,
                fc2: block.linear("mlp.fc2", hidden, intermediate)?,
            })
        })
        .collect()
}
