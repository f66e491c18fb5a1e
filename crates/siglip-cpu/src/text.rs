//! The text tower: token ids in, embeddings out.

use std::sync::{Arc, OnceLock};

use siglip::engine::{Engine, EngineError, EngineInfo, Input, Tower};
use siglip::profile::{Kind, Profile};
use siglip::weights::{Tensor, TextWeights};

use crate::buffer::Buffer;
use crate::build::{BuildError, Options};
use crate::encoder::{Encoder, Outputs, PackedNorm, Phases, Shape, padded};
use crate::kernels::Kernels;
use crate::linear::{Layer, Target};
use crate::pack::Packed;
use crate::scratch::Scratch;
use crate::tower;

/// The text tower on a path.
pub(crate) struct TextTower<P: Kernels> {
    info: EngineInfo,
    /// Read from the weights file as it is needed: a batch touches a few rows of tens of thousands.
    token_embedding: Tensor,
    position_embedding: Vec<f32>,
    encoder: Encoder<P>,
    final_layer_norm: PackedNorm,
    head: Packed<P>,
    scratch: Scratch<P>,
    /// `[items, padded(embedding_size)]`.
    output: Buffer<f32>,
    items_at_once: usize,
    profile: Option<Arc<Profile>>,
}

impl<P: Kernels> TextTower<P> {
    pub(crate) fn new(weights: &TextWeights, options: &Options) -> Result<Self, BuildError> {
        let config = &weights.config;
        let shape = Shape {
            positions: config.max_position_embeddings,
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            epsilon: config.layer_norm_eps,
        };
        let threads = options.pool.threads();
        let encoder = Encoder::<P>::new(shape, Outputs::Last, &weights.blocks, threads)?;
        let head = Packed::<P>::new(&[(&weights.head).into()], threads)?;
        let items_at_once = tower::items_at_once::<P>(shape.positions, threads, options.max_batch_size);
        let scratch =
            Scratch::new(&shape, items_at_once, 0, encoder.phases() + 1, Arc::clone(&options.pool))?;
        let head_flop = 2.0 * (config.hidden_size * config.projection_size) as f64;
        let info = EngineInfo {
            tower: Tower::Text,
            device: "cpu".into(),
            card_uuid: None,
            precision: options.precision,
            kernels: options.isa.name().into(),
            threads,
            max_batch_size: options.max_batch_size,
            input_len: shape.positions,
            vocab_size: config.vocab_size,
            embedding_size: config.projection_size,
            weights_bytes: encoder.bytes() + head.bytes() + weights.token_embedding.bytes().len(),
            scratch_bytes: scratch.bytes(),
            flop_per_item: shape.flop(weights.blocks.len(), Outputs::Last) + head_flop,
        };
        Ok(TextTower {
            info,
            token_embedding: weights.token_embedding.clone(),
            position_embedding: weights.position_embedding.to_f32(),
            encoder,
            final_layer_norm: PackedNorm::new(&weights.final_layer_norm)?,
            head,
            scratch,
            output: Buffer::zeroed(items_at_once * padded(config.projection_size))?,
            items_at_once,
            profile: options.profile.clone(),
        })
    }

    /// One pass over at most `items_at_once` items, whose ids were checked.
    fn pass(&mut self, ids: &[u32], items: usize, output: &mut [f32]) -> std::io::Result<()> {
        let Shape { positions, hidden, epsilon, .. } = self.encoder.shape;
        let x_stride = padded(hidden);
        let embedding_stride = padded(self.head.columns());
        let embeddings = tower::Shared(self.output.as_mut_ptr());
        let (pool, counters, memory) = self.scratch.begin();
        let (token_embedding, position_embedding) = (&self.token_embedding, &self.position_embedding);
        let profile = self.profile.as_deref();
        let (encoder, head, final_layer_norm) = (&self.encoder, &self.head, &self.final_layer_norm);
        let unread = OnceLock::new();

        pool.run(|worker| {
            let mut phases = Phases::new(worker, counters.clone(), profile);
            // SAFETY: the scratch memory was made for these sizes; every thread runs this same closure; each row is
            // written by one thread between barriers.
            unsafe {
                P::enter();
                for row in worker.share(items * positions) {
                    let position = row % positions * hidden;
                    let x = std::slice::from_raw_parts_mut(memory.x.add(row * x_stride), hidden);
                    if let Err(error) = token_embedding.read_f32(ids[row] as usize * hidden, x) {
                        // The others' steps depend on this thread's, so the pass goes on.
                        x.fill(0.0);
                        drop(unread.set(error));
                    }
                    for (x, p) in x.iter_mut().zip(&position_embedding[position..position + hidden]) {
                        *x += p;
                    }
                }
                phases.end(Kind::Embedding, 0);

                encoder.run(worker, &mut phases, &memory, items, head);

                let last = memory.x.add((positions - 1) * x_stride).cast_const();
                final_layer_norm.rows(worker, &memory, (0, items), epsilon, (last, positions * x_stride));
                phases.end(Kind::LayerNorm, 0);

                let input = memory.normed_rows(x_stride, 0, items);
                let target = Target::StoreF32 { out: embeddings.pointer(), stride: embedding_stride };
                Layer { packed: head, input, target, next: None }.run(
                    worker,
                    phases.next(),
                    memory.workspace(worker),
                );
                phases.end(Kind::Head, 2 * items * hidden * head.columns());
                P::leave();
            }
        });
        tower::copy_rows(self.output.as_slice(), embedding_stride, output, self.head.columns());
        unread.into_inner().map_or(Ok(()), Err)
    }
}

impl<P: Kernels> Engine for TextTower<P> {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        let ids = self.info.token_ids(input, output.len())?;
        let (input_len, embedding_size) = (self.info.input_len, self.info.embedding_size);
        let at_once = tower::even_share(ids.len() / input_len, self.items_at_once);
        let passes = ids.chunks(at_once * input_len).zip(output.chunks_mut(at_once * embedding_size));
        for (ids, output) in passes {
            self.pass(ids, ids.len() / input_len, output)?;
        }
        self.info.check_finite(output)
    }
}
