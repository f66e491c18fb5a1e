//! The vision tower: pixels in, embeddings out.

use std::sync::Arc;

use siglip::config::VisionConfig;
use siglip::engine::{Engine, EngineError, EngineInfo, Input, Tower};
use siglip::profile::{Kind, Profile};
use siglip::weights::{PoolingHead, VisionWeights};

use crate::build::{BuildError, MOST_BYTE_PRODUCTS, Options};
use crate::encoder::{Encoder, Heads, Outputs, PackedNorm, Phases, Shape, padded};
use crate::kernels::Kernels;
use crate::linear::{Layer, Target};
use crate::pack::Packed;
use crate::path::{Element, Path, inner_layout};
use crate::scratch::Scratch;
use crate::tower;

/// The vision tower on a path.
pub(crate) struct VisionTower<P: Kernels> {
    info: EngineInfo,
    patches: Patches,
    /// The patch convolution: its stride is its size, so it is a product of patches and weights.
    patch_embedding: Packed<P>,
    position_embedding: Vec<f32>,
    encoder: Encoder<P>,
    post_layer_norm: PackedNorm,
    pooling: Pooling<P>,
    scratch: Scratch<P>,
    items_at_once: usize,
    profile: Option<Arc<Profile>>,
}

impl<P: Kernels> VisionTower<P> {
    pub(crate) fn new(weights: &VisionWeights, options: &Options) -> Result<Self, BuildError> {
        let config = &weights.config;
        let shape = Shape {
            positions: config.num_patches(),
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            epsilon: config.layer_norm_eps,
        };
        let threads = options.pool.threads();
        let patches = Patches::new(config);
        if P::QUANTIZED && patches.len() > MOST_BYTE_PRODUCTS {
            return Err(BuildError::Patch { values: patches.len() });
        }
        let patch_embedding = Packed::<P>::new(&[(&weights.patch_embedding).into()], threads)?;
        let encoder = Encoder::<P>::new(shape, Outputs::All, &weights.blocks, threads)?;
        let pooling = Pooling::new(&weights.head, threads)?;
        let items_at_once = tower::items_at_once::<P>(shape.positions, threads, options.max_batch_size);
        let phases = encoder.phases() + 1 + Pooling::<P>::PHASES;
        let scratch = Scratch::new(&shape, items_at_once, patches.len(), phases, Arc::clone(&options.pool))?;
        let around = shape.positions * patches.len() * shape.hidden
            + (2 * shape.positions + 1) * shape.hidden * shape.hidden
            + 2 * shape.positions * shape.hidden
            + 2 * shape.hidden * shape.intermediate;
        let info = EngineInfo {
            tower: Tower::Vision,
            device: "cpu".into(),
            card_uuid: None,
            precision: options.precision,
            kernels: options.isa.name().into(),
            threads,
            max_batch_size: options.max_batch_size,
            input_len: config.num_channels * config.image_size * config.image_size,
            vocab_size: 0,
            embedding_size: shape.hidden,
            weights_bytes: patch_embedding.bytes() + encoder.bytes() + pooling.bytes(),
            scratch_bytes: scratch.bytes(),
            flop_per_item: shape.flop(weights.blocks.len(), Outputs::All) + 2.0 * around as f64,
        };
        Ok(VisionTower {
            info,
            patches,
            patch_embedding,
            position_embedding: weights.position_embedding.to_f32(),
            encoder,
            post_layer_norm: PackedNorm::new(&weights.post_layer_norm)?,
            pooling,
            scratch,
            items_at_once,
            profile: options.profile.clone(),
        })
    }

    /// One pass over at most `items_at_once` items.
    fn pass(&mut self, pixels: &[f32], items: usize, output: &mut [f32]) {
        let Shape { positions, hidden, intermediate, epsilon, .. } = self.encoder.shape;
        let x_stride = padded(hidden);
        let (pool, counters, memory) = self.scratch.begin();
        let (patches, patch_embedding) = (&self.patches, &self.patch_embedding);
        let (encoder, pooling, post_layer_norm) = (&self.encoder, &self.pooling, &self.post_layer_norm);
        let position_embedding = &self.position_embedding;
        let profile = self.profile.as_deref();
        let rows = items * positions;
        let layout = inner_layout::<P>();

        pool.run(|worker| {
            let mut phases = Phases::new(worker, counters.clone(), profile);
            // SAFETY: the scratch memory was made for these sizes; every thread runs this same closure; each row is
            // written by one thread between barriers.
            unsafe {
                P::enter();
                for row in worker.share(rows) {
                    let (item, patch) = (row / positions, row % positions);
                    let wide = memory.wide.add(layout.row::<P::Inner>(row, memory.wide_stride));
                    patches.copy(pixels, item, patch, |column, value| {
                        *wide.add(layout.column::<P::Inner>(column)) = value;
                    });
                    let x = std::slice::from_raw_parts_mut(memory.x.add(row * x_stride), hidden);
                    x.copy_from_slice(&position_embedding[patch * hidden..(patch + 1) * hidden]);
                }
                phases.end(Kind::Embedding, 0);

                let input = memory.wide_operand(worker, &mut phases, patches.len(), rows);
                let target = Target::Accumulate { out: memory.x, stride: x_stride };
                Layer { packed: patch_embedding, input, target, next: None }.run(
                    worker,
                    phases.next(),
                    memory.workspace(worker),
                );
                phases.end(Kind::Embedding, 2 * rows * patches.len() * hidden);

                encoder.run(worker, &mut phases, &memory, items, &pooling.kv);

                post_layer_norm.rows(worker, &memory, (0, rows), epsilon, (memory.x, x_stride));
                phases.end(Kind::LayerNorm, 0);

                // k and v of all patches; the query is the probe's, the same for every image.
                let input = memory.normed_rows(x_stride, 0, rows);
                let target = Target::Store { out: memory.wide, stride: memory.wide_stride };
                Layer { packed: &pooling.kv, input, target, next: Some(&pooling.out) }.run(
                    worker,
                    phases.next(),
                    memory.workspace(worker),
                );
                phases.end(Kind::Head, 4 * rows * hidden * hidden);

                let heads = Heads {
                    q: pooling.query.as_ptr(),
                    q_stride: 0,
                    queries: 1,
                    k: memory.wide,
                    v: memory.wide.add(hidden),
                    kv_stride: memory.wide_stride,
                };
                encoder.attention(worker, phases.next(), &memory, items, &heads);
                phases.end(Kind::Head, 4 * rows * hidden);

                let input = memory.mixed_operand(worker, &mut phases, hidden, items);
                let target = Target::StoreF32 { out: memory.x, stride: x_stride };
                Layer { packed: &pooling.out, input, target, next: Some(&pooling.fc1) }.run(
                    worker,
                    phases.next(),
                    memory.workspace(worker),
                );
                phases.end(Kind::Head, 2 * items * hidden * hidden);

                pooling.layer_norm.rows(worker, &memory, (0, items), epsilon, (memory.x, x_stride));
                memory.clear_rest(worker, intermediate, items);
                phases.end(Kind::Head, 0);

                let input = memory.normed_rows(x_stride, 0, items);
                let target = Target::Gelu { out: memory.wide, stride: memory.wide_stride };
                Layer { packed: &pooling.fc1, input, target, next: Some(&pooling.fc2) }.run(
                    worker,
                    phases.next(),
                    memory.workspace(worker),
                );
                phases.end(Kind::Head, 2 * items * hidden * intermediate);

                let input = memory.wide_operand(worker, &mut phases, intermediate, items);
                let target = Target::Accumulate { out: memory.x, stride: x_stride };
                Layer { packed: &pooling.fc2, input, target, next: None }.run(
                    worker,
                    phases.next(),
                    memory.workspace(worker),
                );
                phases.end(Kind::Head, 2 * items * hidden * intermediate);
                P::leave();
            }
        });
        tower::copy_rows(self.scratch.x(), x_stride, output, hidden);
    }
}

impl<P: Kernels> Engine for VisionTower<P> {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        let pixels = self.info.pixel_values(input, output.len())?;
        let (input_len, embedding_size) = (self.info.input_len, self.info.embedding_size);
        let at_once = tower::even_share(pixels.len() / input_len, self.items_at_once);
        let passes = pixels.chunks(at_once * input_len).zip(output.chunks_mut(at_once * embedding_size));
        for (pixels, output) in passes {
            self.pass(pixels, pixels.len() / input_len, output);
        }
        self.info.check_finite(output)
    }
}

/// How an image is cut into patches. Pixels to the right of and below the last whole patch are dropped, as the
/// convolution drops them.
#[derive(Clone, Copy, Debug)]
struct Patches {
    channels: usize,
    image: usize,
    patch: usize,
    grid: usize,
}

impl Patches {
    fn new(config: &VisionConfig) -> Self {
        Patches {
            channels: config.num_channels,
            image: config.image_size,
            patch: config.patch_size,
            grid: config.grid(),
        }
    }

    /// Values of one patch.
    fn len(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Gives one patch of one item as a row of activations, `[channel, y, x]` like the weights, and zeroes for the rest of
    /// the row: calls `store` with each column and its value.
    fn copy<A: Element>(&self, pixels: &[f32], item: usize, patch: usize, mut store: impl FnMut(usize, A)) {
        let (top, left) = (patch / self.grid * self.patch, patch % self.grid * self.patch);
        for line in 0..self.channels * self.patch {
            let (channel, y) = (line / self.patch, top + line % self.patch);
            let start = ((item * self.channels + channel) * self.image + y) * self.image + left;
            for (x, &pixel) in pixels[start..start + self.patch].iter().enumerate() {
                store(line * self.patch + x, A::from_f32(pixel));
            }
        }
        for column in self.len()..padded(self.len()) {
            store(column, A::default());
        }
    }
}

/// The attention-pooling head.
struct Pooling<P: Kernels> {
    /// The probe's query: a constant of the model, computed at load.
    query: Vec<P::Inner>,
    kv: Packed<P>,
    out: Packed<P>,
    layer_norm: PackedNorm,
    fc1: Packed<P>,
    fc2: Packed<P>,
}

impl<P: Kernels> Pooling<P> {
    /// Phases with a counter.
    const PHASES: usize = 5;

    fn new(head: &PoolingHead, threads: usize) -> std::io::Result<Self> {
        let probe = head.probe.to_f32();
        let hidden = probe.len();
        let mut row = vec![0.0; hidden];
        let mut bias = vec![0.0; hidden];
        head.q.bias.copy_f32(0, &mut bias);
        // The last head's values too are followed by zeroes up to a whole step.
        let mut query = vec![P::Inner::default(); padded(hidden + P::Attention::STEP - 1)];
        for (i, (query, bias)) in query.iter_mut().zip(bias).enumerate() {
            head.q.weight.copy_f32(i * hidden, &mut row);
            let sum: f64 = row.iter().zip(&probe).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            *query = P::Inner::from_f32(sum as f32 + bias);
        }
        Ok(Pooling {
            query,
            kv: Packed::new(&[(&head.kv).into()], threads)?,
            out: Packed::new(&[(&head.out_proj).into()], threads)?,
            layer_norm: PackedNorm::new(&head.layer_norm)?,
            fc1: Packed::new(&[(&head.fc1).into()], threads)?,
            fc2: Packed::new(&[(&head.fc2).into()], threads)?,
        })
    }

    fn bytes(&self) -> usize {
        self.kv.bytes() + self.out.bytes() + self.fc1.bytes() + self.fc2.bytes()
    }
}
