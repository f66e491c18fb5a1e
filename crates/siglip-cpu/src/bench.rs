//! Kernels one at a time on one thread, for `benches/kernels.rs`.

use std::sync::Arc;

use siglip::engine::Precision;
use siglip::weights::{Tensor, Weights};

use crate::attention::{Attention, Output, Scratch};
use crate::buffer::Buffer;
use crate::build::{BuildError, Options, Task, dispatch};
use crate::encoder::padded;
use crate::isa::Isa;
use crate::kernels::Kernels;
use crate::linear::{Layer, Rows, Target, workspace_size};
use crate::ops::LayerNorm;
use crate::pack::{Columns, Packed};
use crate::path::{Element, RowScale, inner_layout};
use crate::share::Counter;
use crate::threads::Pool;

/// What one call of a kernel does.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// A layer from `k` to `columns` values over some rows.
    Linear {
        /// Rows of activations.
        rows: usize,
        /// The inner dimension.
        k: usize,
        /// Values of an output row.
        columns: usize,
        /// What becomes of the output.
        end: End,
    },
    /// One head of one item.
    Attention {
        /// Positions, all of which ask and are asked.
        positions: usize,
        /// Values of a query, key and value.
        head_dim: usize,
    },
    /// Layer norms of some rows.
    LayerNorm {
        /// How many.
        rows: usize,
        /// Values of a row.
        size: usize,
    },
    /// A layer's weights, bf16 in the file, brought into the kernels' order.
    Pack {
        /// The inner dimension.
        k: usize,
        /// The layer's columns.
        columns: usize,
    },
}

/// What becomes of a layer's output.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It is stored as it is.
    Store,
    /// Its GELU is.
    Gelu,
    /// It is added to what is there.
    Accumulate,
}

impl Work {
    /// Floating-point operations of the matrix products.
    pub fn flop(self) -> usize {
        match self {
            Work::Linear { rows, k, columns, .. } => 2 * rows * k * columns,
            Work::Attention { positions, head_dim } => 4 * positions * positions * head_dim,
            Work::LayerNorm { .. } | Work::Pack { .. } => 0,
        }
    }

    /// Bytes read, of work that is bound by them.
    pub fn bytes(self) -> usize {
        match self {
            Work::Linear { .. } | Work::Attention { .. } => 0,
            Work::LayerNorm { rows, size } => rows * size * size_of::<f32>(),
            Work::Pack { k, columns } => k * columns * size_of::<u16>(),
        }
    }
}

/// A function that does the work once, with everything that it needs allocated before.
///
/// # Errors
///
/// See [`BuildError`].
pub fn prepare(work: Work, isa: Isa, precision: Precision) -> Result<Box<dyn FnMut()>, BuildError> {
    let pool = Arc::new(Pool::new(1)?);
    let options = Options { precision, isa, pool: Arc::clone(&pool), max_batch_size: 1, profile: None };
    dispatch(&options, Prepare { work, pool })?
}

struct Prepare {
    work: Work,
    pool: Arc<Pool>,
}

impl Task for Prepare {
    type Output = Result<Box<dyn FnMut()>, BuildError>;
    fn run<P: Kernels>(self) -> Self::Output {
        Ok(match self.work {
            Work::Linear { rows, k, columns, end } => linear::<P>(self.pool, rows, (k, columns), end)?,
            Work::Attention { positions, head_dim } => attention::<P>(positions, head_dim)?,
            Work::LayerNorm { rows, size } => layer_norm::<P>(rows, size),
            Work::Pack { k, columns } => pack::<P>(k, columns),
        })
    }
}

/// Ordinary values around zero.
fn value(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 24) as f32 / 128.0 - 1.0
}

fn values<T: Element>(count: usize) -> Vec<T> {
    (0..count).map(|i| T::from_f32(value(i))).collect()
}

/// A layer's weight `[columns, k]` and bias, as bf16 from a file.
fn tensors(k: usize, columns: usize) -> (Tensor, Tensor) {
    let (weight, end) = (2 * k * columns, 2 * (k + 1) * columns);
    let header = format!(
        r#"{{"weight":{{"dtype":"BF16","shape":[{columns},{k}],"data_offsets":[0,{weight}]}},"bias":{{"dtype":"BF16","shape":[{columns}],"data_offsets":[{weight},{end}]}}}}"#
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    // Small, so that a row's sums are what GELU sees in a model: a few units, not hundreds.
    let weights = (0..(k + 1) * columns).map(|i| u16::from_f32(value(i) / 16.0));
    file.extend(weights.flat_map(u16::to_le_bytes));
    let tensors = Weights::from_static(file.leak())
        .and_then(|file| Ok((file.tensor("weight", &[columns, k])?, file.tensor("bias", &[columns])?)));
    match tensors {
        Ok(tensors) => tensors,
        Err(error) => unreachable!("the file was made above: {error}"),
    }
}

fn linear<P: Kernels>(
    pool: Arc<Pool>,
    rows: usize,
    (k, columns): (usize, usize),
    end: End,
) -> std::io::Result<Box<dyn FnMut()>> {
    let (weight, bias) = tensors(k, columns);
    let packed = Packed::<P>::new(&[Columns { weight: &weight, bias: &bias, rows: 0..columns }], 1)?;
    let stride = padded(k);
    let len = P::LAYOUT.rows(rows) * stride;
    let mut input = Buffer::<P::Activation>::scratch(len)?;
    if !P::QUANTIZED {
        for (i, value) in values::<P::Inner>(len).into_iter().enumerate() {
            // SAFETY: below the buffer's length; without quantising, activations and results are one type.
            unsafe { input.as_mut_ptr().cast::<P::Inner>().add(i).write(value) };
        }
    }
    let scales = vec![RowScale { scale: 1.0 / 128.0, offset: -1.0 }; rows];
    let mut output = Buffer::<P::Inner>::scratch(P::LAYOUT.rows(rows) * padded(columns))?;
    let mut sums = Buffer::<f32>::zeroed(rows * padded(columns))?;
    let mut workspace = Buffer::<u32>::scratch(workspace_size::<P>(rows, padded(k)))?;
    let mut counter = Counter::default();
    Ok(Box::new(move || {
        counter.reset();
        let stride = padded(columns);
        let out = crate::tower::Shared(output.as_mut_ptr());
        let sums = crate::tower::Shared(sums.as_mut_ptr());
        let input = Rows { first: input.as_ptr(), stride: padded(k), count: rows, scales: scales.as_ptr() };
        let input = SharedRows(input);
        let workspace = crate::tower::Shared(workspace.as_mut_ptr());
        let (packed, counters) = (&packed, std::slice::from_ref(&counter));
        pool.run(move |worker| {
            let (out, input) = (out.pointer(), input.rows());
            let target = match end {
                End::Store => Target::Store { out, stride },
                End::Gelu => Target::Gelu { out, stride },
                End::Accumulate => Target::Accumulate { out: sums.pointer(), stride },
            };
            // SAFETY: input and output hold these rows, padded; `dispatch` checked the instructions.
            unsafe {
                P::enter();
                Layer { packed, input, target, next: None }.run(worker, counters, workspace.pointer());
                P::leave();
            }
        });
    }))
}

/// Rows that a thread of the pool may read.
#[derive(Clone, Copy)]
struct SharedRows<T>(Rows<T>);

impl<T: Copy> SharedRows<T> {
    fn rows(self) -> Rows<T> {
        self.0
    }
}

// SAFETY: the rows are only read while `linear` holds them.
unsafe impl<T> Sync for SharedRows<T> {}
// SAFETY: as above.
unsafe impl<T> Send for SharedRows<T> {}

fn attention<P: Kernels>(positions: usize, head_dim: usize) -> std::io::Result<Box<dyn FnMut()>> {
    let stride = padded(head_dim);
    let operand = || Buffer::padded(&values::<P::Inner>(positions * stride), 0);
    let (q, k, v) = (operand()?, operand()?, operand()?);
    let mut out = Buffer::<P::Inner>::zeroed(inner_layout::<P>().rows(positions) * stride)?;
    let mut scratch = Scratch::new::<P>(positions, head_dim)?;
    Ok(Box::new(move || {
        // SAFETY: the buffers have the sizes that the fields ask for; `dispatch` checked the instructions.
        unsafe {
            P::enter();
            P::attend(&Attention {
                q: q.as_ptr(),
                q_stride: stride,
                queries: positions,
                k: k.as_ptr(),
                v: v.as_ptr(),
                kv_stride: stride,
                keys: positions,
                head_dim,
                scale_log2e: std::f32::consts::LOG2_E / (head_dim as f32).sqrt(),
                out: Output { first: out.as_mut_ptr(), stride, row: 0, column: 0 },
                next: [std::ptr::null(); 3],
                scratch: scratch.memory(),
            });
            P::leave();
        }
    }))
}

fn layer_norm<P: Kernels>(rows: usize, size: usize) -> Box<dyn FnMut()> {
    let stride = padded(size);
    let x: Vec<f32> = values(rows * stride);
    let mut parameter: Vec<f32> = values(stride);
    parameter[size..].fill(0.0);
    let mut out = vec![P::Activation::default(); P::LAYOUT.rows(rows) * stride];
    let (mut scales, mut scratch) = (vec![RowScale::default(); rows], vec![0.0; stride]);
    Box::new(move || {
        for (row, scale) in scales.iter_mut().enumerate() {
            // SAFETY: all rows are `size` values, padded; `dispatch` checked the instructions.
            unsafe {
                P::layer_norm(&LayerNorm {
                    x: x.as_ptr().add(row * stride),
                    size,
                    weight: parameter.as_ptr(),
                    bias: parameter.as_ptr(),
                    epsilon: 1e-6,
                    out: out.as_mut_ptr().add(P::LAYOUT.row::<P::Activation>(row, stride)),
                    scale,
                    row: scratch.as_mut_ptr(),
                });
            }
        }
    })
}

fn pack<P: Kernels>(k: usize, columns: usize) -> Box<dyn FnMut()> {
    let (weight, bias) = tensors(k, columns);
    Box::new(move || {
        let part = Columns { weight: &weight, bias: &bias, rows: 0..columns };
        std::hint::black_box(Packed::<P>::new(&[part], 1).map(|packed| packed.bytes())).ok();
    })
}
