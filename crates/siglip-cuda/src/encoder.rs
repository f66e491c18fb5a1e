//! The blocks that both towers are made of, as sequences of launches.

use std::cell::RefCell;
use std::sync::Arc;

use siglip::profile::Kind;
use siglip::weights;

use crate::clock::Clock;
use crate::error::CudaError;
use crate::gpu::Gpu;
use crate::kernels::Kernels;
use crate::kernels::attention::Attention;
use crate::kernels::attention_rows::AttentionRows;
use crate::kernels::layer_norm::{LayerNorm, LayerNormFp8};
use crate::matmul::{Matmul, ResultKind, Shape, WORKSPACE_BYTES};
use crate::memory::{DeviceBuffer, View};
use crate::number::Number;
use crate::plan::{Plan, workspace};
use crate::scales::{layer_scale, norm_scale};
use crate::stream::Stream;
use crate::weights::{Fp8Scales, Layer, LayerNormWeights, Outputs, Uploader};

/// Rows of products that have one row an item, at least: tensor cores take no fewer, and algorithms that agree are easier
/// to find. Buffers have room for as many.
pub(crate) const LEAST_ROWS: usize = 16;

/// A tower's sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) positions: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) epsilon: f32,
}

impl Sizes {
    /// Floating-point operations of one block for one item, of which as many positions are wanted: keys and values of all
    /// are computed, and the rest of these.
    pub(crate) fn flop_per_block(&self, wanted: usize) -> f64 {
        let (t, h, i) = (self.positions as f64, self.hidden as f64, self.intermediate as f64);
        2.0 * (2.0 * t * h * h + wanted as f64 * (2.0 * h * h + 2.0 * h * i + 2.0 * t * h))
    }
}

/// The memory that passes work in, for a number of items at once.
pub(crate) struct Scratch {
    /// Bytes of an item in each of the buffers.
    item_bytes: [usize; 5],
    buffers: [DeviceBuffer; 5],
    /// One for each half of a pass.
    workspaces: [DeviceBuffer; 2],
}

impl Scratch {
    /// Bytes of an item in each buffer: `x`, `normed`, `wide`, `attended`, `query`.
    fn item_bytes(sizes: &Sizes, widest: usize, number_size: usize) -> [usize; 5] {
        let row = sizes.hidden * number_size;
        let widest = widest.max(3 * sizes.hidden).max(sizes.intermediate);
        let rows = sizes.positions * row;
        [rows, rows, sizes.positions * widest * number_size, rows, row]
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(sizes: &Sizes, widest: usize, items: usize, number_size: usize) -> usize {
        let item: usize = Self::item_bytes(sizes, widest, number_size).iter().sum();
        items.max(LEAST_ROWS) * item + 2 * WORKSPACE_BYTES
    }

    /// Zeroed, so that the rows of items that are not there hold numbers. `widest` is the width of what comes before the
    /// blocks.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        stream: &Stream,
        sizes: &Sizes,
        widest: usize,
        items: usize,
        number_size: usize,
    ) -> Result<Scratch, CudaError> {
        let item_bytes = Self::item_bytes(sizes, widest, number_size);
        let new = |bytes| {
            let buffer = DeviceBuffer::new(gpu, "scratch memory", items.max(LEAST_ROWS) * bytes)?;
            buffer.zero(stream)?;
            Ok::<_, CudaError>(buffer)
        };
        let [x, normed, wide, attended, query] = item_bytes.map(new);
        Ok(Scratch {
            item_bytes,
            buffers: [x?, normed?, wide?, attended?, query?],
            workspaces: [workspace(gpu)?, workspace(gpu)?],
        })
    }

    /// All of it.
    pub(crate) fn whole(&self) -> Room<'_> {
        self.room(0, |_, view| view)
    }

    /// What the first or the second half of a pass of twice as many items works in. The two share nothing.
    pub(crate) fn half(&self, half: usize, items: usize) -> Room<'_> {
        self.room(half, |item_bytes, view| view.part(half, items * item_bytes))
    }

    fn room<'a>(&'a self, workspace: usize, part: impl Fn(usize, View<'a>) -> View<'a>) -> Room<'a> {
        let at = |index: usize| part(self.item_bytes[index], self.buffers[index].view());
        Room {
            x: at(0),
            normed: at(1),
            wide: at(2),
            attended: at(3),
            query: at(4),
            workspace: self.workspaces[workspace].view(),
        }
    }
}

/// The memory that one pass, or half of one, works in.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    /// The residual stream, `[items · positions, hidden]`.
    pub(crate) x: View<'a>,
    /// `[items · positions, hidden]`.
    pub(crate) normed: View<'a>,
    /// The widest rows: patches, queries with keys and values, the MLP's inner layer.
    pub(crate) wide: View<'a>,
    /// `[items · positions, hidden]`.
    pub(crate) attended: View<'a>,
    /// `[items, hidden]`.
    pub(crate) query: View<'a>,
    /// Of cuBLASLt's algorithms.
    pub(crate) workspace: View<'a>,
}

/// Where launches go: into a stream, or, before there is a plan, into the list of products that one is made for.
pub(crate) struct Launcher<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) kernels: &'a Kernels,
    pub(crate) stream: &'a Stream,
    pub(crate) room: Room<'a>,
    pub(crate) mode: Mode<'a>,
}

/// What a [`Launcher`] does.
pub(crate) enum Mode<'a> {
    /// Notes which products there are.
    List(&'a RefCell<Vec<(Shape, usize)>>),
    /// Launches.
    Run(&'a Plan),
    /// Launches, and measures what.
    Time(&'a Plan, &'a Clock<'a>),
}

/// Rows of a matrix: where they begin and how far apart they are, in values.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) view: View<'a>,
    pub(crate) stride: usize,
}

impl<'a> Launcher<'a> {
    /// `out[rows] = input[rows] · layer`, as `result` says.
    pub(crate) fn product(
        &self,
        kind: Kind,
        layer: Outputs<'_>,
        result: ResultKind,
        rows: usize,
        input: Rows<'_>,
        out: Rows<'_>,
    ) -> Result<(), CudaError> {
        let shape = Shape {
            number: layer.number,
            inputs: layer.inputs,
            outputs: layer.outputs,
            input_stride: input.stride,
            out_stride: out.stride,
            result,
        };
        let run = |plan: &Plan, matmul: &Matmul<'_>| {
            let operands = layer.operands(input.view, out.view);
            matmul.run(&operands, plan.get(&shape, rows)?, self.room.workspace, self.stream)
        };
        match self.mode {
            Mode::List(products) => {
                products.borrow_mut().push((shape, rows));
                Ok(())
            }
            Mode::Run(plan) => run(plan, &Matmul::new(self.gpu, shape, rows)?),
            Mode::Time(plan, clock) => {
                let matmul = Matmul::new(self.gpu, shape, rows)?;
                let flop = 2 * rows * shape.inputs * shape.outputs;
                clock.time(kind, flop as u64, || run(plan, &matmul))
            }
        }
    }

    /// A kernel of our own, which does `flop` floating-point operations in matrix products.
    pub(crate) fn kernel(
        &self,
        kind: Kind,
        flop: usize,
        launch: impl FnOnce(&Kernels, &Stream) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        match self.mode {
            Mode::List(_) => Ok(()),
            Mode::Run(_) => launch(self.kernels, self.stream),
            Mode::Time(_, clock) => clock.time(kind, flop as u64, || launch(self.kernels, self.stream)),
        }
    }

    /// Norms rows of the residual stream into the room's `normed`, one after the other.
    pub(crate) fn layer_norm(
        &self,
        norm: &LayerNormWeights,
        epsilon: f32,
        rows: usize,
        x: Rows<'_>,
    ) -> Result<(), CudaError> {
        self.norm_rows(norm, self.scaled(epsilon), rows, x, false)
    }

    /// The same for rows of f32.
    pub(crate) fn wide_layer_norm(
        &self,
        norm: &LayerNormWeights,
        epsilon: f32,
        rows: usize,
        x: Rows<'_>,
    ) -> Result<(), CudaError> {
        self.norm_rows(norm, epsilon, rows, x, true)
    }

    fn norm_rows(
        &self,
        norm: &LayerNormWeights,
        epsilon: f32,
        rows: usize,
        x: Rows<'_>,
        x_is_wide: bool,
    ) -> Result<(), CudaError> {
        self.kernel(Kind::LayerNorm, 0, |kernels, stream| {
            LayerNorm {
                x: x.view,
                x_is_wide,
                stride: x.stride,
                weight: norm.weight.view(),
                bias: norm.bias.view(),
                out: self.room.normed,
                rows,
                epsilon,
            }
            .launch(kernels, stream)
        })
    }

    /// What is added to the variance of rows of the residual stream, whose values have a scale.
    fn scaled(&self, epsilon: f32) -> f32 {
        epsilon * self.kernels.constants.number.residual_scale().powi(2)
    }

    /// [`Launcher::layer_norm`] for the rows that a layer reads, in its format. With fp8, `then_add` is added to the rows
    /// in place once they are read; the other formats add it with a product.
    fn layer_norm_for(
        &self,
        layer: &Layer,
        norm: &LayerNormWeights,
        epsilon: f32,
        rows: usize,
        x: Rows<'_>,
        then_add: Option<View<'_>>,
    ) -> Result<(), CudaError> {
        let Some(scales) = layer.fp8_scales() else { return self.layer_norm(norm, epsilon, rows, x) };
        self.kernel(Kind::LayerNorm, 0, |kernels, stream| {
            LayerNormFp8 {
                x: x.view,
                stride: x.stride,
                weight: norm.weight.view(),
                bias: norm.bias.view(),
                out: self.room.normed,
                then_add,
                rows,
                epsilon: self.scaled(epsilon),
                scale: scales.input,
            }
            .launch(kernels, stream)
        })
    }

    /// Rows of the room, as far apart as they are wide.
    pub(crate) fn rows(view: View<'_>, width: usize) -> Rows<'_> {
        Rows { view, stride: width }
    }
}

/// One block's weights.
struct Block {
    layer_norm1: LayerNormWeights,
    /// Queries, keys and values.
    qkv: Layer,
    out: Layer,
    layer_norm2: LayerNormWeights,
    fc1: Layer,
    fc2: Layer,
}

impl Block {
    fn new(uploader: &Uploader<'_>, block: &weights::Block) -> Result<Block, CudaError> {
        Ok(Block {
            layer_norm1: uploader.norm(&block.layer_norm1)?,
            qkv: uploader.layer(&[&block.q, &block.k, &block.v], ResultKind::Bias)?,
            out: uploader.layer(&[&block.out], ResultKind::Add)?,
            layer_norm2: uploader.norm(&block.layer_norm2)?,
            fc1: uploader.layer(&[&block.fc1], ResultKind::Gelu)?,
            fc2: uploader.layer(&[&block.fc2], ResultKind::Add)?,
        })
    }

    /// With the MLP in fp8. What goes into the attention and comes out of it stays bf16: the same error of a weight is in
    /// all keys and values, so that attending to many does not average it out.
    fn fp8(uploader: &Uploader<'_>, block: &weights::Block) -> Result<Block, CudaError> {
        let inner = layer_scale(&block.layer_norm2, &block.fc1);
        let fc1_scales = Fp8Scales { input: norm_scale(&block.layer_norm2), out: inner };
        let fc2_scales = Fp8Scales { input: inner, out: 1.0 };
        Ok(Block {
            layer_norm1: uploader.norm(&block.layer_norm1)?,
            qkv: uploader.layer(&[&block.q, &block.k, &block.v], ResultKind::Bias)?,
            out: uploader.layer(&[&block.out], ResultKind::Add)?,
            layer_norm2: uploader.norm(&block.layer_norm2)?,
            fc1: uploader.fp8_layer(&[&block.fc1], ResultKind::Gelu, fc1_scales)?,
            fc2: uploader.fp8_layer(&[&block.fc2], ResultKind::Add, fc2_scales)?,
        })
    }
}

/// The blocks of a tower.
pub(crate) struct Encoder {
    pub(crate) sizes: Sizes,
    blocks: Vec<Block>,
}

impl Encoder {
    pub(crate) fn new(
        uploader: &Uploader<'_>,
        sizes: Sizes,
        number: Number,
        blocks: &[weights::Block],
    ) -> Result<Encoder, CudaError> {
        let blocks = uploader.in_parallel(blocks, |index, block: &weights::Block| match number {
            // Errors of the first block go through all others: without fp8 there, those at the end are half as large.
            Number::E4m3 if index > 0 => Block::fp8(uploader, block),
            _ => Block::new(uploader, block),
        })?;
        Ok(Encoder { sizes, blocks })
    }

    /// Bytes of weights on the card.
    pub(crate) fn bytes(&self) -> usize {
        let layers = |block: &Block| {
            let layers = [&block.qkv, &block.out, &block.fc1, &block.fc2].map(Layer::bytes);
            let norms = [&block.layer_norm1, &block.layer_norm2].map(LayerNormWeights::bytes);
            layers.iter().chain(&norms).sum::<usize>()
        };
        self.blocks.iter().map(layers).sum()
    }

    /// All blocks for all positions of the residual stream.
    pub(crate) fn run(&self, to: &Launcher<'_>, items: usize) -> Result<(), CudaError> {
        self.blocks.iter().try_for_each(|block| self.block(to, block, items))
    }

    /// All blocks, the last one for the last position of each item only: nothing else of it is asked for. Of other
    /// positions it needs keys and values.
    pub(crate) fn run_to_last_position(&self, to: &Launcher<'_>, items: usize) -> Result<(), CudaError> {
        let Some((last, others)) = self.blocks.split_last() else { return Ok(()) };
        others.iter().try_for_each(|block| self.block(to, block, items))?;
        self.last_position(to, last, items)
    }

    /// The rows of the last position of each item in the residual stream.
    pub(crate) fn last_rows<'a>(&self, to: &Launcher<'a>) -> Rows<'a> {
        let Sizes { positions, hidden, .. } = self.sizes;
        let size = to.kernels.constants.number.beside().size();
        Rows { view: to.room.x.skip((positions - 1) * hidden * size), stride: positions * hidden }
    }

    fn block(&self, to: &Launcher<'_>, block: &Block, items: usize) -> Result<(), CudaError> {
        let Sizes { positions, hidden, epsilon, .. } = self.sizes;
        let Room { x, normed, wide, attended, .. } = to.room;
        let rows = items * positions;
        let (x, normed) = (Launcher::rows(x, hidden), Launcher::rows(normed, hidden));

        to.layer_norm_for(&block.qkv, &block.layer_norm1, epsilon, rows, x, None)?;
        to.product(
            Kind::Projections,
            block.qkv.all(),
            ResultKind::Bias,
            rows,
            normed,
            Launcher::rows(wide, 3 * hidden),
        )?;
        to.kernel(Kind::Attention, 4 * rows * positions * hidden, |kernels, stream| {
            Attention { qkv: wide, out: attended, items, positions }.launch(kernels, stream)
        })?;
        to.product(
            Kind::Output,
            block.out.all(),
            ResultKind::Add,
            rows,
            Launcher::rows(attended, hidden),
            x,
        )?;
        self.mlp(to, block, rows, x)
    }

    /// `x += mlp(norm(x))`.
    fn mlp(&self, to: &Launcher<'_>, block: &Block, rows: usize, x: Rows<'_>) -> Result<(), CudaError> {
        let Sizes { hidden, intermediate, epsilon, .. } = self.sizes;
        let inner = Launcher::rows(to.room.wide, intermediate);
        let bias = block.fc2.bias.view();
        to.layer_norm_for(&block.fc1, &block.layer_norm2, epsilon, rows, x, Some(bias))?;
        let normed = Launcher::rows(to.room.normed, hidden);
        to.product(Kind::Fc1, block.fc1.all(), ResultKind::Gelu, rows, normed, inner)?;
        to.product(Kind::Fc2, block.fc2.all(), ResultKind::Add, rows, inner, x)
    }

    fn last_position(&self, to: &Launcher<'_>, block: &Block, items: usize) -> Result<(), CudaError> {
        let Sizes { positions, hidden, epsilon, .. } = self.sizes;
        let Room { x, normed, wide, attended, query, .. } = to.room;
        let size = to.kernels.constants.number.beside().size();
        let (rows, last_rows) = (items * positions, items.max(LEAST_ROWS));
        let last = self.last_rows(to);

        let all = Launcher::rows(x, hidden);
        to.layer_norm_for(&block.qkv, &block.layer_norm1, epsilon, rows, all, None)?;
        let kv = block.qkv.part(hidden, 2 * hidden);
        let normed_rows = Launcher::rows(normed, hidden);
        to.product(
            Kind::Projections,
            kv,
            ResultKind::Bias,
            rows,
            normed_rows,
            Launcher::rows(wide, 2 * hidden),
        )?;
        let q = block.qkv.part(0, hidden);
        let first = (positions - 1) * hidden * q.number.size();
        let last_normed = Rows { view: normed.skip(first), stride: positions * hidden };
        to.product(
            Kind::Projections,
            q,
            ResultKind::Bias,
            last_rows,
            last_normed,
            Launcher::rows(query, hidden),
        )?;
        to.kernel(Kind::Attention, 4 * rows * hidden, |kernels, stream| {
            AttentionRows {
                q: query,
                q_item: hidden,
                q_row: 0,
                k: wide,
                v: wide.skip(hidden * size),
                kv_row: 2 * hidden,
                out: attended,
                items,
                queries: 1,
                keys: positions,
            }
            .launch(kernels, stream)
        })?;
        to.product(
            Kind::Output,
            block.out.all(),
            ResultKind::Add,
            last_rows,
            Launcher::rows(attended, hidden),
            last,
        )?;
        self.mlp(to, block, last_rows, last)
    }
}
