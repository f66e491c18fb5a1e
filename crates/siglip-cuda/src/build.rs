//! Builds engines: opens a card, compiles, uploads, plans.

use std::sync::Arc;

use siglip::engine::{Engine, EngineInfo, Precision, Tower};
use siglip::profile::Profile;
use siglip::weights::{Tensor, TextWeights, VisionWeights};

use crate::check::{self, Bench};
use crate::compile::Constants;
use crate::encoder::{Scratch, Sizes};
use crate::engine::{Compute, CudaEngine, TowerPass};
use crate::error::CudaError;
use crate::ffi::Libraries;
use crate::gpu::Gpu;
use crate::kernels::Kernels;
use crate::kernels::attention::MOST_HEAD_DIM;
use crate::kernels::embedding::PatchShape;
use crate::number::Number;
use crate::stream::Stream;
use crate::text::TextPass;
use crate::vision::VisionPass;
use crate::weights::Uploader;

/// How an engine is built.
#[derive(Clone)]
pub struct Options {
    /// The libraries.
    pub libraries: Libraries,
    /// The card, counted from 0 as the driver does.
    pub card: usize,
    /// The precision of matrix products: [`Precision::Bf16`], [`Precision::F16`], [`Precision::F32`] without TF32, or
    /// [`Precision::Fp8`], which is that of the blocks' largest ones, beside bf16.
    pub precision: Precision,
    /// Engines for the tower that share its weights and its scratch memory, so that a batch is copied and queued while
    /// another is computed: 1, or 2 for two threads.
    pub engines: usize,
    /// The most rows of one batch. Memory is taken for as many, up to what one pass computes.
    pub max_batch_size: usize,
    /// Rows of activations that one pass works on at most. Larger batches are computed in several passes, which costs
    /// nothing once a pass fills the card, and bounds the scratch memory.
    pub rows_at_once: usize,
    /// Where each operation's time is added up. Passes are then launched operation by operation, one pass at a time, which
    /// costs some speed.
    pub profile: Option<Arc<Profile>>,
}

impl Options {
    /// One engine, with passes of up to 32,768 rows: 512 texts of so400m, 32 of its images.
    pub fn new(libraries: Libraries, card: usize, precision: Precision, max_batch_size: usize) -> Options {
        Options {
            libraries,
            card,
            precision,
            engines: 1,
            max_batch_size,
            rows_at_once: 32_768,
            profile: None,
        }
    }
}

/// Builds the text tower on a card: as many engines as the options say.
///
/// # Errors
///
/// See [`CudaError`].
pub fn text_engines(weights: &TextWeights, options: &Options) -> Result<Vec<Box<dyn Engine>>, CudaError> {
    text(weights, options).map(boxed)
}

/// Builds the vision tower on a card: as many engines as the options say.
///
/// # Errors
///
/// See [`CudaError`].
pub fn vision_engines(weights: &VisionWeights, options: &Options) -> Result<Vec<Box<dyn Engine>>, CudaError> {
    vision(weights, options).map(boxed)
}

fn boxed(engines: Vec<CudaEngine>) -> Vec<Box<dyn Engine>> {
    engines.into_iter().map(|engine| Box::new(engine) as Box<dyn Engine>).collect()
}

pub(crate) fn text(weights: &TextWeights, options: &Options) -> Result<Vec<CudaEngine>, CudaError> {
    let config = &weights.config;
    let sizes = TextPass::sizes(weights);
    let head_flop = 2.0 * (config.hidden_size * config.projection_size) as f64;
    // The last block is computed for the last position.
    let last = if weights.blocks.is_empty() { 0.0 } else { sizes.flop_per_block(1) };
    let others = weights.blocks.len().saturating_sub(1) as f64 * sizes.flop_per_block(sizes.positions);
    let info = EngineInfo {
        vocab_size: config.vocab_size,
        input_len: sizes.positions,
        embedding_size: config.projection_size,
        flop_per_item: others + last + head_flop,
        ..info(Tower::Text, options)
    };
    let elements = weights.tensors().map(Tensor::len).sum();
    build(options, sizes, None, elements, info, |uploader, number| {
        Ok(Box::new(TextPass::new(uploader, number, weights)?) as Box<dyn TowerPass>)
    })
}

pub(crate) fn vision(weights: &VisionWeights, options: &Options) -> Result<Vec<CudaEngine>, CudaError> {
    let config = &weights.config;
    let sizes = VisionPass::sizes(weights);
    let patch = VisionPass::patch_shape(config);
    let around = sizes.positions * patch.len() * sizes.hidden
        + (2 * sizes.positions + 1) * sizes.hidden * sizes.hidden
        + 2 * sizes.positions * sizes.hidden
        + 2 * sizes.hidden * sizes.intermediate;
    let info = EngineInfo {
        input_len: config.num_channels * config.image_size * config.image_size,
        embedding_size: config.hidden_size,
        flop_per_item: sizes.flop_per_block(sizes.positions) * weights.blocks.len() as f64
            + 2.0 * around as f64,
        ..info(Tower::Vision, options)
    };
    let elements = weights.tensors().map(Tensor::len).sum();
    build(options, sizes, Some(patch), elements, info, |uploader, number| {
        Ok(Box::new(VisionPass::new(uploader, number, weights)?) as Box<dyn TowerPass>)
    })
}

/// `patch` is how images are cut, `elements` the number of weights.
fn build(
    options: &Options,
    sizes: Sizes,
    patch: Option<PatchShape>,
    elements: usize,
    mut info: EngineInfo,
    upload: impl FnOnce(&Uploader<'_>, Number) -> Result<Box<dyn TowerPass>, CudaError>,
) -> Result<Vec<CudaEngine>, CudaError> {
    let blocks = Number::of(options.precision)?;
    let number = blocks.beside();
    check_sizes(&sizes, options.precision)?;
    let gpu = Gpu::open(&options.libraries, options.card)?;
    gpu.check_precision(options.precision)?;
    tracing::debug!("card {} is {} ({}.{})", gpu.index, gpu.name, gpu.capability.0, gpu.capability.1);
    let items_at_once = items_at_once(sizes.positions, options);
    let widest = patch.map_or(0, |shape| shape.stride());
    info.card_uuid = Some(gpu.uuid.clone());
    info.scratch_bytes = Scratch::bytes(&sizes, widest, items_at_once, number.size());
    // Before anything is taken: what does not fit is said in one sentence, and nothing is lowered to fit. With fp8 most
    // weights take half of what is asked for here.
    let staging = 2 * items_at_once * (info.input_len + info.embedding_size) * 4;
    let needed = elements * number.size() + info.scratch_bytes + staging;
    gpu.check_memory(&format!("the {} tower in {}", info.tower, options.precision), needed)?;

    let constants = Constants { number: blocks, hidden: sizes.hidden, heads: sizes.heads };
    let kernels = Kernels::new(&gpu, constants)?;
    let compute = Stream::new(&gpu)?;
    check::check(&Bench { gpu: &gpu, kernels: &kernels, stream: &compute }, sizes.positions, patch)?;
    let pass = upload(&Uploader { gpu: &gpu, number }, blocks)?;
    let scratch = Scratch::new(&gpu, &compute, &sizes, widest, items_at_once, number.size())?;
    let parts = Compute::new(&gpu, kernels, pass, scratch, compute, options.profile.clone())?;
    CudaEngine::new(parts, (items_at_once, options.engines), info)
}

/// What is known before anything is done.
fn info(tower: Tower, options: &Options) -> EngineInfo {
    EngineInfo {
        tower,
        device: format!("cuda:{}", options.card),
        card_uuid: None,
        precision: options.precision,
        kernels: String::new(),
        threads: 1,
        max_batch_size: options.max_batch_size,
        input_len: 0,
        vocab_size: 0,
        embedding_size: 0,
        weights_bytes: 0,
        scratch_bytes: 0,
        flop_per_item: 0.0,
    }
}

/// What the kernels need of a tower. All published models have it.
fn check_sizes(sizes: &Sizes, precision: Precision) -> Result<(), CudaError> {
    let head_dim = sizes.hidden / sizes.heads;
    if head_dim > MOST_HEAD_DIM && precision != Precision::F32 {
        return Err(CudaError::HeadDim { head_dim, precision });
    }
    let odd = [sizes.hidden, sizes.intermediate].into_iter().find(|width| !width.is_multiple_of(16));
    if let Some(width) = odd
        && precision == Precision::Fp8
    {
        return Err(CudaError::Fp8Width { width });
    }
    Ok(())
}

/// Items of one pass.
fn items_at_once(positions: usize, options: &Options) -> usize {
    let fitting = (options.rows_at_once / positions.max(1)).max(1);
    // A power of two, as the buckets are.
    let fitting = 1 << fitting.ilog2();
    fitting.min(options.max_batch_size.max(1))
}
