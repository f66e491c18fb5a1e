//! The vision tower as a sequence of launches.

use siglip::config::VisionConfig;
use siglip::profile::Kind;
use siglip::weights::{PoolingHead, VisionWeights};

use crate::encoder::{Encoder, LEAST_ROWS, Launcher, Rows, Sizes};
use crate::engine::TowerPass;
use crate::error::CudaError;
use crate::kernels::attention_rows::AttentionRows;
use crate::kernels::embedding::{PatchShape, Patches};
use crate::matmul::ResultKind;
use crate::memory::{DeviceBuffer, View};
use crate::number::Number;
use crate::weights::{Layer, LayerNormWeights, Uploader};

/// The vision tower's weights on a card.
pub(crate) struct VisionPass {
    shape: PatchShape,
    /// f32.
    position_embedding: DeviceBuffer,
    patch_embedding: Layer,
    encoder: Encoder,
    post_layer_norm: LayerNormWeights,
    head: Pooling,
}

/// The pooling head's weights.
struct Pooling {
    /// The probe's query, which is the same for all images.
    query: DeviceBuffer,
    kv: Layer,
    out_proj: Layer,
    layer_norm: LayerNormWeights,
    fc1: Layer,
    fc2: Layer,
}

impl VisionPass {
    pub(crate) fn sizes(weights: &VisionWeights) -> Sizes {
        let config = &weights.config;
        Sizes {
            positions: config.num_patches(),
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            epsilon: config.layer_norm_eps,
        }
    }

    pub(crate) fn patch_shape(config: &VisionConfig) -> PatchShape {
        PatchShape { channels: config.num_channels, side: config.image_size, patch: config.patch_size }
    }

    /// With the blocks' large products in the format `number`.
    pub(crate) fn new(
        uploader: &Uploader<'_>,
        number: Number,
        weights: &VisionWeights,
    ) -> Result<VisionPass, CudaError> {
        let shape = Self::patch_shape(&weights.config);
        let patch_embedding =
            uploader.padded_layer(&weights.patch_embedding, ResultKind::Add, shape.stride())?;
        Ok(VisionPass {
            shape,
            position_embedding: uploader.wide(&weights.position_embedding)?,
            patch_embedding,
            encoder: Encoder::new(uploader, Self::sizes(weights), number, &weights.blocks)?,
            post_layer_norm: uploader.norm(&weights.post_layer_norm)?,
            head: Pooling::new(uploader, &weights.head)?,
        })
    }
}

impl Pooling {
    fn new(uploader: &Uploader<'_>, head: &PoolingHead) -> Result<Pooling, CudaError> {
        let query = uploader.number.encode(&probe_query(head));
        Ok(Pooling {
            query: DeviceBuffer::with(uploader.gpu, "the pooling head's query", &query)?,
            kv: uploader.layer(&[&head.kv], ResultKind::Bias)?,
            out_proj: uploader.layer(&[&head.out_proj], ResultKind::Wide)?,
            layer_norm: uploader.norm(&head.layer_norm)?,
            fc1: uploader.layer(&[&head.fc1], ResultKind::Gelu)?,
            fc2: uploader.layer(&[&head.fc2], ResultKind::AddWide)?,
        })
    }

    fn bytes(&self) -> usize {
        let layers = [&self.kv, &self.out_proj, &self.fc1, &self.fc2].map(Layer::bytes);
        self.query.bytes() + self.layer_norm.bytes() + layers.iter().sum::<usize>()
    }
}

/// `q · probe + bias`, in f64: once, on the host.
fn probe_query(head: &PoolingHead) -> Vec<f32> {
    let (probe, weight, bias) = (head.probe.to_f32(), head.q.weight.to_f32(), head.q.bias.to_f32());
    let dot = |row: &[f32]| row.iter().zip(&probe).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
    weight.chunks(probe.len()).zip(bias).map(|(row, bias)| (dot(row) + f64::from(bias)) as f32).collect()
}

impl TowerPass for VisionPass {
    fn weights_bytes(&self) -> usize {
        self.position_embedding.bytes()
            + self.patch_embedding.bytes()
            + self.encoder.bytes()
            + self.post_layer_norm.bytes()
            + self.head.bytes()
    }

    fn launch(
        &self,
        to: &Launcher<'_>,
        items: usize,
        pixels: View<'_>,
        output: View<'_>,
    ) -> Result<(), CudaError> {
        let Sizes { positions, hidden, intermediate, epsilon, .. } = self.encoder.sizes;
        let room = to.room;
        let size = to.kernels.constants.number.beside().size();
        let rows = items * positions;
        let x = Launcher::rows(room.x, hidden);

        to.kernel(Kind::Embedding, 0, |kernels, stream| {
            Patches {
                pixels,
                positions: self.position_embedding.view(),
                patches: room.wide,
                x: x.view,
                items,
                shape: self.shape,
            }
            .launch(kernels, stream)
        })?;
        let patches = Launcher::rows(room.wide, self.shape.stride());
        to.product(Kind::Embedding, self.patch_embedding.all(), ResultKind::Add, rows, patches, x)?;
        self.encoder.run(to, items)?;

        to.layer_norm(&self.post_layer_norm, epsilon, rows, x)?;
        let normed = Launcher::rows(room.normed, hidden);
        let kv = Launcher::rows(room.wide, 2 * hidden);
        to.product(Kind::Head, self.head.kv.all(), ResultKind::Bias, rows, normed, kv)?;
        to.kernel(Kind::Head, 4 * rows * hidden, |kernels, stream| {
            AttentionRows {
                q: self.head.query.view(),
                q_item: 0,
                q_row: 0,
                k: kv.view,
                v: kv.view.skip(hidden * size),
                kv_row: 2 * hidden,
                out: room.attended,
                items,
                queries: 1,
                keys: positions,
            }
            .launch(kernels, stream)
        })?;
        let rows = items.max(LEAST_ROWS);
        let pooled = Rows { view: output, stride: hidden };
        let attended = Launcher::rows(room.attended, hidden);
        to.product(Kind::Head, self.head.out_proj.all(), ResultKind::Wide, rows, attended, pooled)?;
        to.wide_layer_norm(&self.head.layer_norm, epsilon, rows, pooled)?;
        let inner = Launcher::rows(room.wide, intermediate);
        to.product(Kind::Head, self.head.fc1.all(), ResultKind::Gelu, rows, normed, inner)?;
        to.product(Kind::Head, self.head.fc2.all(), ResultKind::AddWide, rows, inner, pooled)
    }
}
