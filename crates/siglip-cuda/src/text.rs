//! The text tower as a sequence of launches.

use siglip::profile::Kind;
use siglip::weights::TextWeights;

use crate::encoder::{Encoder, LEAST_ROWS, Launcher, Sizes};
use crate::engine::TowerPass;
use crate::error::CudaError;
use crate::kernels::embedding::TokenEmbedding;
use crate::matmul::ResultKind;
use crate::memory::{DeviceBuffer, View};
use crate::number::Number;
use crate::weights::{Layer, LayerNormWeights, Uploader};

/// The text tower's weights on a card.
pub(crate) struct TextPass {
    vocabulary: usize,
    token_embedding: DeviceBuffer,
    /// f32.
    position_embedding: DeviceBuffer,
    encoder: Encoder,
    final_layer_norm: LayerNormWeights,
    head: Layer,
}

impl TextPass {
    pub(crate) fn sizes(weights: &TextWeights) -> Sizes {
        let config = &weights.config;
        Sizes {
            positions: config.max_position_embeddings,
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            epsilon: config.layer_norm_eps,
        }
    }

    /// With the blocks' large products in the format `number`.
    pub(crate) fn new(
        uploader: &Uploader<'_>,
        number: Number,
        weights: &TextWeights,
    ) -> Result<TextPass, CudaError> {
        Ok(TextPass {
            vocabulary: weights.config.vocab_size,
            token_embedding: uploader.tensor(&weights.token_embedding)?,
            position_embedding: uploader.wide(&weights.position_embedding)?,
            encoder: Encoder::new(uploader, Self::sizes(weights), number, &weights.blocks)?,
            final_layer_norm: uploader.norm(&weights.final_layer_norm)?,
            head: uploader.layer(&[&weights.head], ResultKind::Wide)?,
        })
    }
}

impl TowerPass for TextPass {
    fn weights_bytes(&self) -> usize {
        self.token_embedding.bytes()
            + self.position_embedding.bytes()
            + self.encoder.bytes()
            + self.final_layer_norm.bytes()
            + self.head.bytes()
    }

    fn launch(
        &self,
        to: &Launcher<'_>,
        items: usize,
        ids: View<'_>,
        output: View<'_>,
    ) -> Result<(), CudaError> {
        let Sizes { positions, hidden, epsilon, .. } = self.encoder.sizes;
        to.kernel(Kind::Embedding, 0, |kernels, stream| {
            TokenEmbedding {
                ids,
                tokens: self.token_embedding.view(),
                positions: self.position_embedding.view(),
                x: to.room.x,
                rows: items * positions,
                vocabulary: self.vocabulary,
                positions_len: positions,
            }
            .launch(kernels, stream)
        })?;
        self.encoder.run_to_last_position(to, items)?;
        let rows = items.max(LEAST_ROWS);
        to.layer_norm(&self.final_layer_norm, epsilon, rows, self.encoder.last_rows(to))?;
        let normed = Launcher::rows(to.room.normed, hidden);
        let output = crate::encoder::Rows { view: output, stride: self.head.outputs };
        to.product(Kind::Head, self.head.all(), ResultKind::Wide, rows, normed, output)
    }
}
