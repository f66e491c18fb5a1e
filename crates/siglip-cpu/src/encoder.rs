//! The transformer blocks that both towers share, packed and run phase by phase on all threads.
//!
//! A block is seven phases with a barrier after each:
//!
//! ```text
//! normed = layer_norm1(x)            rows divided among the threads
//! qkv    = normed · Wqkv + b         panels of columns
//! mixed  = attention(qkv)            one head of one item at a time
//! x     += mixed · Wout + b          panels
//! normed = layer_norm2(x)            rows
//! wide   = gelu(normed · Wfc1 + b)   panels
//! x     += wide · Wfc2 + b           panels
//! ```
//!
//! The residual stream `x` is f32 in every precision; operands of matrix products are in the path's format.

use siglip::profile::{Kind, Profile};
use siglip::weights::{Block, Linear, Norm};

use crate::attention::{Attention, Output};
use crate::buffer::Buffer;
use crate::gemm::prefetch_values;
use crate::kernels::Kernels;
use crate::linear::{Layer, Target};
use crate::ops::LayerNorm;
use crate::pack::{Columns, Packed};
use crate::profile::Clock;
use crate::scratch::Memory;
use crate::share::{Counter, Teams};
use crate::threads::Worker;

/// The sizes of a tower's transformer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Positions of one item: tokens of the context, or patches.
    pub(crate) positions: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) epsilon: f32,
}

impl Shape {
    pub(crate) fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Floating-point operations of one item's pass through `blocks` blocks: the matrix products that are computed,
    /// attention's included.
    pub(crate) fn flop(&self, blocks: usize, outputs: Outputs) -> f64 {
        let (t, h, i) = (self.positions as f64, self.hidden as f64, self.intermediate as f64);
        // Keys and values of all positions; queries, attention, its output and the MLP of those that are wanted.
        let block =
            |wanted: f64| 2.0 * (2.0 * t * h * h + wanted * (2.0 * h * h + 2.0 * h * i + 2.0 * t * h));
        match outputs {
            Outputs::All => blocks as f64 * block(t),
            Outputs::Last if blocks == 0 => 0.0,
            Outputs::Last => (blocks - 1) as f64 * block(t) + block(1.0),
        }
    }
}

/// A row's length in memory: a multiple of every path's vector and chunk.
pub(crate) fn padded(width: usize) -> usize {
    width.next_multiple_of(64)
}

/// A layer norm's parameters, padded with zeroes.
pub(crate) struct PackedNorm {
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    size: usize,
}

impl PackedNorm {
    pub(crate) fn new(norm: &Norm) -> std::io::Result<Self> {
        let (weight, bias) = (norm.weight.to_f32(), norm.bias.to_f32());
        let size = weight.len();
        Ok(PackedNorm {
            weight: Buffer::padded(&weight, padded(size))?,
            bias: Buffer::padded(&bias, padded(size))?,
            size,
        })
    }

    /// Normalises this thread's share of rows: row `r` of `x` into row `first + r` of `memory.normed`.
    ///
    /// # Safety
    ///
    /// `x` must hold `count` rows of the given stride, and `memory.normed` be the worker's pass's and large enough.
    pub(crate) unsafe fn rows<P: Kernels>(
        &self,
        worker: &Worker<'_>,
        memory: &Memory<'_, P>,
        (first, count): (usize, usize),
        epsilon: f32,
        (x, x_stride): (*const f32, usize),
    ) {
        for row in worker.share(count) {
            // Two rows ahead, as long as a fetch takes.
            prefetch_values(x.wrapping_add((row + 2) * x_stride), self.size);
            // SAFETY: the caller's contract; each thread has its own rows and its own scratch row.
            unsafe {
                P::layer_norm(&LayerNorm {
                    x: x.add(row * x_stride),
                    size: self.size,
                    weight: self.weight.as_ptr(),
                    bias: self.bias.as_ptr(),
                    epsilon,
                    out: memory.normed.add(P::LAYOUT.row::<P::Activation>(first + row, padded(self.size))),
                    scale: memory.normed_scales.wrapping_add(first + row),
                    row: memory.thread(worker.index()).row,
                });
            }
        }
    }
}

/// The attention projections of a block.
enum Projections<P: Kernels> {
    /// q, k and v in one product.
    Joined(Packed<P>),
    /// q apart from k and v: a block of which only one position's output is wanted needs q there alone.
    Split { q: Packed<P>, kv: Packed<P> },
}

struct PackedBlock<P: Kernels> {
    norm1: PackedNorm,
    projections: Projections<P>,
    out: Packed<P>,
    norm2: PackedNorm,
    fc1: Packed<P>,
    fc2: Packed<P>,
}

/// Which positions of the last block's output are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// All of them.
    All,
    /// The last one: the text tower reads nothing else, so the last block computes nothing else but keys and values.
    Last,
}

/// All blocks of a tower.
pub(crate) struct Encoder<P: Kernels> {
    pub(crate) shape: Shape,
    blocks: Vec<PackedBlock<P>>,
}

impl<P: Kernels> Encoder<P> {
    pub(crate) fn new(
        shape: Shape,
        outputs: Outputs,
        blocks: &[Block],
        threads: usize,
    ) -> std::io::Result<Self> {
        let last = blocks.len().saturating_sub(1);
        let pack = |parts: &[&Linear]| {
            let parts: Vec<Columns<'_>> = parts.iter().map(|&linear| linear.into()).collect();
            Packed::new(&parts, threads)
        };
        let packed = blocks.iter().enumerate().map(|(i, block)| {
            let projections = if i == last && outputs == Outputs::Last {
                Projections::Split { q: pack(&[&block.q])?, kv: pack(&[&block.k, &block.v])? }
            } else {
                Projections::Joined(pack(&[&block.q, &block.k, &block.v])?)
            };
            Ok(PackedBlock {
                norm1: PackedNorm::new(&block.layer_norm1)?,
                projections,
                out: pack(&[&block.out])?,
                norm2: PackedNorm::new(&block.layer_norm2)?,
                fc1: pack(&[&block.fc1])?,
                fc2: pack(&[&block.fc2])?,
            })
        });
        Ok(Encoder { shape, blocks: packed.collect::<std::io::Result<_>>()? })
    }

    /// Bytes of all packed weights.
    pub(crate) fn bytes(&self) -> usize {
        let block = |block: &PackedBlock<P>| {
            let projections = match &block.projections {
                Projections::Joined(qkv) => qkv.bytes(),
                Projections::Split { q, kv } => q.bytes() + kv.bytes(),
            };
            projections + block.out.bytes() + block.fc1.bytes() + block.fc2.bytes()
        };
        self.blocks.iter().map(block).sum()
    }

    /// Phases with a counter that one pass goes through.
    pub(crate) fn phases(&self) -> usize {
        6 * self.blocks.len()
    }

    /// Runs all blocks over `items` items whose residual stream is in `memory.x`.
    ///
    /// With [`Outputs::All`], every row of `memory.x` ends as the last block's output; with [`Outputs::Last`], only
    /// each item's last row does.
    ///
    /// # Safety
    ///
    /// `memory` must come from a [`Scratch`](crate::scratch::Scratch) built for this shape and at least `items` items;
    /// every thread of the pool must call this with the same arguments and with `phases` at the same place.
    pub(crate) unsafe fn run(
        &self,
        worker: &Worker<'_>,
        phases: &mut Phases<'_>,
        memory: &Memory<'_, P>,
        items: usize,
        after: &Packed<P>,
    ) {
        for (i, block) in self.blocks.iter().enumerate() {
            let next = match self.blocks.get(i + 1).map(|block| &block.projections) {
                Some(Projections::Joined(qkv)) => qkv,
                Some(Projections::Split { kv, .. }) => kv,
                None => after,
            };
            // SAFETY: the caller's contract.
            unsafe { self.block(block, worker, phases, memory, items, next) };
        }
    }

    unsafe fn block(
        &self,
        block: &PackedBlock<P>,
        worker: &Worker<'_>,
        phases: &mut Phases<'_>,
        memory: &Memory<'_, P>,
        items: usize,
        next: &Packed<P>,
    ) {
        let Shape { positions, hidden, intermediate, epsilon, .. } = self.shape;
        let (x_stride, wide_stride) = (padded(hidden), memory.wide_stride);
        let rows = items * positions;
        let kv_width = padded(2 * hidden);

        // SAFETY: `memory` has room for `rows` rows of every stride used here; phases that write what another reads
        // are separated by barriers.
        unsafe {
            block.norm1.rows(worker, memory, (0, rows), epsilon, (memory.x, x_stride));
            // The rows that go on after attention: how many, their distance in positions and their first.
            let (wanted, every, offset) = match block.projections {
                Projections::Joined(_) => (rows, 1, 0),
                Projections::Split { .. } => (items, positions, positions - 1),
            };
            let (residual, residual_stride) = (memory.x.add(offset * x_stride), every * x_stride);
            // Where these are few, they are normalised once more, to a place where they are neighbours.
            let apart = P::LAYOUT.rows(rows);
            if every > 1 {
                block.norm1.rows(worker, memory, (apart, wanted), epsilon, (residual, residual_stride));
            }
            phases.end(Kind::LayerNorm, 0);

            let normed = memory.normed_rows(x_stride, 0, rows);
            let heads = match &block.projections {
                Projections::Joined(qkv) => {
                    let target = Target::Store { out: memory.wide, stride: wide_stride };
                    Layer { packed: qkv, input: normed, target, next: Some(&block.out) }.run(
                        worker,
                        phases.next(),
                        memory.workspace(worker),
                    );
                    let (k, v) = (memory.wide.add(hidden), memory.wide.add(2 * hidden));
                    let queries = positions;
                    Heads { q: memory.wide, q_stride: wide_stride, queries, k, v, kv_stride: wide_stride }
                }
                Projections::Split { q: q_packed, kv } => {
                    let target = Target::Store { out: memory.wide, stride: wide_stride };
                    Layer { packed: kv, input: normed, target, next: Some(q_packed) }.run(
                        worker,
                        phases.next(),
                        memory.workspace(worker),
                    );
                    let last = memory.normed_rows(x_stride, apart, wanted);
                    let q = memory.wide.add(kv_width);
                    let target = Target::Store { out: q, stride: wide_stride };
                    Layer { packed: q_packed, input: last, target, next: Some(&block.out) }.run(
                        worker,
                        phases.next(),
                        memory.workspace(worker),
                    );
                    let (k, v) = (memory.wide, memory.wide.add(hidden));
                    Heads { q, q_stride: wide_stride, queries: 1, k, v, kv_stride: wide_stride }
                }
            };
            phases.end(Kind::Projections, 2 * (2 * rows + wanted) * hidden * hidden);

            self.attention(worker, phases.next(), memory, items, &heads);
            phases.end(Kind::Attention, 4 * items * heads.queries * positions * hidden);

            let mixed = memory.mixed_operand(worker, phases, hidden, wanted);
            let target = Target::Accumulate { out: residual, stride: residual_stride };
            Layer { packed: &block.out, input: mixed, target, next: Some(&block.fc1) }.run(
                worker,
                phases.next(),
                memory.workspace(worker),
            );
            phases.end(Kind::Output, 2 * wanted * hidden * hidden);

            block.norm2.rows(worker, memory, (0, wanted), epsilon, (residual, residual_stride));
            memory.clear_rest(worker, intermediate, wanted);
            phases.end(Kind::LayerNorm, 0);

            let normed = memory.normed_rows(x_stride, 0, wanted);
            let target = Target::Gelu { out: memory.wide, stride: wide_stride };
            Layer { packed: &block.fc1, input: normed, target, next: Some(&block.fc2) }.run(
                worker,
                phases.next(),
                memory.workspace(worker),
            );
            phases.end(Kind::Fc1, 2 * wanted * hidden * intermediate);

            let wide = memory.wide_operand(worker, phases, intermediate, wanted);
            let target = Target::Accumulate { out: residual, stride: residual_stride };
            Layer { packed: &block.fc2, input: wide, target, next: Some(next) }.run(
                worker,
                phases.next(),
                memory.workspace(worker),
            );
            phases.end(Kind::Fc2, 2 * wanted * hidden * intermediate);
        }
    }

    /// Attention of all heads of all items, into `memory.mixed`.
    ///
    /// # Safety
    ///
    /// As for [`Encoder::run`]; `heads` must point to rows for `items` items.
    pub(crate) unsafe fn attention(
        &self,
        worker: &Worker<'_>,
        counters: &[Counter],
        memory: &Memory<'_, P>,
        items: usize,
        heads: &Heads<P::Inner>,
    ) {
        let Shape { positions, hidden, heads: count, .. } = self.shape;
        let head_dim = self.shape.head_dim();
        let x_stride = padded(hidden);
        let scratch = memory.thread(worker.index()).attention;
        let place = |unit: usize| {
            let (item, column) = (unit / count, unit % count * head_dim);
            let kv = item * positions * heads.kv_stride + column;
            let q = heads.q.wrapping_add(item * heads.queries * heads.q_stride + column);
            (q, heads.k.wrapping_add(kv), heads.v.wrapping_add(kv))
        };
        let teams = Teams::new::<P>(items * positions, worker.threads());
        for claims in teams.in_turn(worker, counters) {
            let units = teams.part(claims.team, items * count, 1);
            let mut unit = units.start + claims.first();
            while unit < units.end {
                let following = units.start + claims.next();
                let next =
                    if following < units.end { place(following).into() } else { [std::ptr::null(); 3] };
                let (q, k, v) = place(unit);
                let (item, column) = (unit / count, unit % count * head_dim);
                // SAFETY: item < items and column + head_dim <= hidden; each unit writes its own part of `mixed`, each
                // thread has its own scratch.
                unsafe {
                    P::attend(&Attention {
                        q,
                        q_stride: heads.q_stride,
                        queries: heads.queries,
                        k,
                        v,
                        kv_stride: heads.kv_stride,
                        keys: positions,
                        head_dim,
                        scale_log2e: std::f32::consts::LOG2_E / (head_dim as f32).sqrt(),
                        out: Output {
                            first: memory.mixed,
                            stride: x_stride,
                            row: item * heads.queries,
                            column,
                        },
                        next,
                        scratch,
                    });
                }
                unit = following;
            }
        }
    }
}

/// The queries, keys and values of all heads: head `h` begins `h * head_dim` values into each row.
pub(crate) struct Heads<A> {
    pub(crate) q: *const A,
    pub(crate) q_stride: usize,
    /// Query rows of one item.
    pub(crate) queries: usize,
    pub(crate) k: *const A,
    pub(crate) v: *const A,
    pub(crate) kv_stride: usize,
}

/// Walks through the phases of a pass: their counters, the barriers between them, and the time they take. Each thread
/// has its own and all walk alike.
pub(crate) struct Phases<'a> {
    worker: &'a Worker<'a>,
    counters: Counters<'a>,
    clock: Clock<'a>,
}

impl<'a> Phases<'a> {
    pub(crate) fn new(worker: &'a Worker<'a>, counters: Counters<'a>, profile: Option<&'a Profile>) -> Self {
        Phases { worker, counters, clock: Clock::start(profile, worker.index()) }
    }

    /// Ends a phase: waits for all threads. `flop` are the matrix products' operations of the phase.
    pub(crate) fn end(&mut self, kind: Kind, flop: usize) {
        self.clock.done();
        self.worker.barrier();
        self.clock.lap(kind, flop);
    }

    /// The next phase's counters.
    pub(crate) fn next(&mut self) -> &'a [Counter] {
        match self.counters.next() {
            Some(counters) => counters,
            None => unreachable!("a tower has counters for each of its phases"),
        }
    }
}

/// The counters of all phases of a pass, one a team each.
pub(crate) type Counters<'a> = std::slice::ChunksExact<'a, Counter>;
