//! The memory that a tower's passes work in: allocated once for the largest batch, and shared by the threads of a pass.

use std::sync::Arc;

use siglip::profile::Kind;

use crate::attention::{self, ScratchMemory};
use crate::buffer::Buffer;
use crate::encoder::{Counters, Phases, Shape, padded};
use crate::kernels::Kernels;
use crate::linear::{Rows, workspace_size};
use crate::ops::Quantize;
use crate::path::{RowScale, inner_layout, lanes};
use crate::share::{Counter, Teams};
use crate::threads::{Pool, Worker};

/// Scratch memory of one tower for its largest batch, allocated once.
pub(crate) struct Scratch<P: Kernels> {
    x: Buffer<f32>,
    normed: Buffer<P::Activation>,
    normed_scales: Buffer<RowScale>,
    mixed: Buffer<P::Inner>,
    wide: Buffer<P::Inner>,
    wide_stride: usize,
    quantized: Buffer<P::Activation>,
    quantized_scales: Buffer<RowScale>,
    threads: Vec<ThreadScratch<P>>,
    /// Pointers into `threads`, taken once: a pass allocates nothing.
    thread_memory: Vec<ThreadMemory<P>>,
    counters: Vec<Counter>,
    /// The most teams there can be.
    teams: usize,
    pub(crate) pool: Arc<Pool>,
}

struct ThreadScratch<P: Kernels> {
    attention: attention::Scratch<P::Inner>,
    row: Buffer<f32>,
    workspace: Buffer<u32>,
}

impl<P: Kernels> ThreadScratch<P> {
    fn memory(&mut self) -> ThreadMemory<P> {
        ThreadMemory {
            attention: self.attention.memory(),
            row: self.row.as_mut_ptr(),
            workspace: self.workspace.as_mut_ptr(),
        }
    }

    fn bytes(&self) -> usize {
        self.attention.bytes() + self.row.bytes() + self.workspace.bytes()
    }
}

impl<P: Kernels> Scratch<P> {
    /// Room for `items` items at once; `wide` is the widest row beside those of the blocks (the patches' pixels).
    pub(crate) fn new(
        shape: &Shape,
        items: usize,
        wide: usize,
        phases: usize,
        pool: Arc<Pool>,
    ) -> std::io::Result<Self> {
        let rows = items * shape.positions;
        // Those of the last block's last positions stand behind the others.
        let normed = P::LAYOUT.rows(rows) + P::LAYOUT.rows(items);
        let rows = P::LAYOUT.rows(rows);
        let row = padded(shape.hidden);
        let qkv = padded(2 * shape.hidden) + row;
        let wide_stride = padded(shape.intermediate).max(padded(3 * shape.hidden)).max(qkv).max(padded(wide));
        let workspace = workspace_size::<P>(items * shape.positions, wide_stride);
        let threads = (0..pool.threads()).map(|_| {
            Ok(ThreadScratch {
                attention: attention::Scratch::new::<P>(shape.positions, shape.head_dim())?,
                row: Buffer::zeroed(wide_stride)?,
                workspace: Buffer::scratch(workspace)?,
            })
        });
        let mut threads: Vec<_> = threads.collect::<std::io::Result<_>>()?;
        // Paths that are not quantised read results as they are.
        let quantized = if P::QUANTIZED { rows } else { 0 };
        let teams = Teams::new::<P>(rows, pool.threads()).count();
        Ok(Scratch {
            x: Buffer::scratch(rows * row)?,
            normed: Buffer::scratch(normed * row + lanes::<P>())?,
            normed_scales: Buffer::zeroed(if P::QUANTIZED { normed } else { 0 })?,
            mixed: Buffer::scratch(rows * row + lanes::<P>())?,
            wide: Buffer::scratch(rows * wide_stride + lanes::<P>())?,
            wide_stride,
            quantized: Buffer::scratch(quantized * wide_stride)?,
            quantized_scales: Buffer::zeroed(quantized)?,
            thread_memory: threads.iter_mut().map(ThreadScratch::memory).collect(),
            threads,
            counters: (0..phases * teams).map(|_| Counter::default()).collect(),
            teams,
            pool,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.x.bytes()
            + self.normed.bytes()
            + self.normed_scales.bytes()
            + self.mixed.bytes()
            + self.wide.bytes()
            + self.quantized.bytes()
            + self.quantized_scales.bytes()
            + self.threads.iter().map(ThreadScratch::bytes).sum::<usize>()
    }

    /// The residual stream between passes.
    pub(crate) fn x(&self) -> &[f32] {
        self.x.as_slice()
    }

    /// The pool, the counters set back, and the memory as the threads of one pass share it.
    pub(crate) fn begin(&mut self) -> (&Pool, Counters<'_>, Memory<'_, P>) {
        self.counters.iter_mut().for_each(Counter::reset);
        let memory = Memory {
            x: self.x.as_mut_ptr(),
            normed: self.normed.as_mut_ptr(),
            normed_scales: self.normed_scales.as_mut_ptr(),
            mixed: self.mixed.as_mut_ptr(),
            wide: self.wide.as_mut_ptr(),
            wide_stride: self.wide_stride,
            quantized: self.quantized.as_mut_ptr(),
            quantized_scales: self.quantized_scales.as_mut_ptr(),
            threads: &self.thread_memory,
        };
        (&self.pool, self.counters.chunks_exact(self.teams), memory)
    }
}

/// Pointers into a [`Scratch`] for the length of one pass.
pub(crate) struct Memory<'a, P: Kernels> {
    /// The residual stream, `[rows, padded(hidden)]`.
    pub(crate) x: *mut f32,
    /// What a layer norm gave, `[rows, padded(hidden)]`; for quantised paths also attention's output, quantised.
    pub(crate) normed: *mut P::Activation,
    pub(crate) normed_scales: *mut RowScale,
    /// What attention gave, `[rows, padded(hidden)]`.
    pub(crate) mixed: *mut P::Inner,
    /// q, k and v, or the MLP's inner values, `[rows, wide_stride]`.
    pub(crate) wide: *mut P::Inner,
    pub(crate) wide_stride: usize,
    /// For quantised paths: `wide`, quantised.
    quantized: *mut P::Activation,
    quantized_scales: *mut RowScale,
    threads: &'a [ThreadMemory<P>],
}

/// One thread's own memory.
pub(crate) struct ThreadMemory<P: Kernels> {
    pub(crate) attention: ScratchMemory<P::Inner>,
    /// The widest row, in f32.
    pub(crate) row: *mut f32,
    workspace: *mut u32,
}

// SAFETY: the pointers go with the buffers of the same `Scratch`, whose mappings do not move, and are used only by the
// thread that they belong to.
unsafe impl<P: Kernels> Send for ThreadMemory<P> {}

impl<P: Kernels> Memory<'_, P> {
    pub(crate) fn thread(&self, index: usize) -> &ThreadMemory<P> {
        &self.threads[index]
    }

    /// A thread's memory for [`workspace_size`].
    pub(crate) fn workspace(&self, worker: &Worker<'_>) -> *mut u32 {
        self.thread(worker.index()).workspace
    }

    /// `count` rows of `normed` from row `first` on, where a block begins.
    pub(crate) fn normed_rows(&self, stride: usize, first: usize, count: usize) -> Rows<P::Activation> {
        Rows {
            first: self.normed.wrapping_add(first * stride),
            stride,
            count,
            scales: self.normed_scales.wrapping_add(first),
        }
    }

    /// Zeroes what follows `width` values of this thread's share of `wide`'s rows up to the end of a chunk: a layer that
    /// reads chunks reads that too, and it was something else's place before.
    ///
    /// # Safety
    ///
    /// `wide` must hold `count` rows that nobody uses meanwhile.
    pub(crate) unsafe fn clear_rest(&self, worker: &Worker<'_>, width: usize, count: usize) {
        let layout = inner_layout::<P>();
        let end = layout.filled::<P::Inner>(width, 1);
        if end == width {
            return;
        }
        for row in worker.share(count) {
            let rest = layout.row::<P::Inner>(row, self.wide_stride) + layout.column::<P::Inner>(width);
            // SAFETY: the rest of a chunk of the row.
            unsafe { self.wide.add(rest).write_bytes(0, end - width) };
        }
    }

    /// The first rows of `mixed` as a product's left operand.
    ///
    /// # Safety
    ///
    /// Every thread of the pass must call this alike, with `mixed` complete and `normed` no longer needed.
    pub(crate) unsafe fn mixed_operand(
        &self,
        worker: &Worker<'_>,
        phases: &mut Phases<'_>,
        width: usize,
        count: usize,
    ) -> Rows<P::Activation> {
        let to = (self.normed, self.normed_scales);
        // SAFETY: the caller's contract.
        unsafe { self.operand(worker, phases, (self.mixed, padded(width)), width, count, to) }
    }

    /// The first rows of `wide` as a product's left operand.
    ///
    /// # Safety
    ///
    /// Every thread of the pass must call this alike, with `wide` complete.
    pub(crate) unsafe fn wide_operand(
        &self,
        worker: &Worker<'_>,
        phases: &mut Phases<'_>,
        width: usize,
        count: usize,
    ) -> Rows<P::Activation> {
        let to = (self.quantized, self.quantized_scales);
        // SAFETY: the caller's contract.
        unsafe { self.operand(worker, phases, (self.wide, self.wide_stride), width, count, to) }
    }

    /// Results as a left operand: as they are, or quantised in a phase of their own.
    unsafe fn operand(
        &self,
        worker: &Worker<'_>,
        phases: &mut Phases<'_>,
        (from, stride): (*const P::Inner, usize),
        width: usize,
        count: usize,
        (to, scales): (*mut P::Activation, *mut RowScale),
    ) -> Rows<P::Activation> {
        if !P::QUANTIZED {
            return Rows { first: from.cast(), stride, count, scales: std::ptr::null() };
        }
        for row in worker.share(count) {
            // SAFETY: both memories hold `count` rows of this stride; each thread has its own rows.
            unsafe {
                P::quantize(&Quantize {
                    x: from.add(row * stride),
                    size: width,
                    out: to.add(P::LAYOUT.row::<P::Activation>(row, stride)),
                    scale: scales.add(row),
                });
            }
        }
        phases.end(Kind::Quantize, 0);
        Rows { first: to, stride, count, scales }
    }
}

// SAFETY: the threads of a pass write disjoint parts between barriers; each function that does so says which.
unsafe impl<P: Kernels> Sync for Memory<'_, P> {}
