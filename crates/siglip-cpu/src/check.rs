//! The check that kernels must pass on this machine before they are used: a small case of odd sizes against plain loops
//! in f64.
//!
//! Tests cover far more, but only on the machines that they run on. This one guards against the others: a processor, a
//! hypervisor or a compiler that does not do what the kernels were written for must not lead to wrong embeddings. It
//! takes some milliseconds and runs once in a process for each instruction set and precision that is wanted.

use std::ops::Range;

use crate::attention::{Attention, Output, Scratch};
use crate::epilogue::Epilogue;
use crate::gemm::{Part, Product};
use crate::kernels::Kernels;
use crate::ops::{LayerNorm, Quantize};
use crate::path::{BLOCK, CHUNK, Element, Layout, Path, RowScale, inner_layout, lanes, steps};
use crate::scores;

/// The first result that was wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{kernel} gives {got} where {expected} is right")]
pub struct Difference {
    /// Which kernel.
    pub kernel: &'static str,
    /// Its result.
    pub got: f64,
    /// The result of plain loops in f64.
    pub expected: f64,
}

/// Compares all kernels of a path with plain loops.
///
/// # Safety
///
/// The machine must have the path's instructions.
pub(crate) unsafe fn check<P: Kernels>() -> Result<(), Difference> {
    // SAFETY: the caller's.
    unsafe {
        P::enter();
        let result = check_kernels::<P>();
        P::leave();
        result
    }
}

unsafe fn check_kernels<P: Kernels>() -> Result<(), Difference> {
    // SAFETY: the caller's.
    unsafe {
        for vectors in 1..=P::MAX_VECTORS {
            // Odd numbers of rows, so that blocks of every height are used.
            SmallProduct::<P>::new(7 + 2 * vectors, vectors, 37).check()?;
        }
        if P::LAYOUT == Layout::Blocks {
            // A whole block and more than half of the next, over six steps of tiles, the last one padded.
            let inner = 6 * CHUNK / size_of::<P::Activation>() - 3;
            SmallProduct::<P>::new(BLOCK + 19, P::MAX_VECTORS, inner).check()?;
        }
        // Several panels of queries, the last one not full; few keys, and as many as are scored in 8 bits and leave a
        // processor's first cache. A head's last group of values is padded, or fills no vector.
        check_attention::<P>(70, 21, 31)?;
        check_attention::<P>(70, scores::FEWEST_KEYS + 5, 40)?;
        check_layer_norm::<P>()
    }
}

/// What an element may differ by, relative to values around 1: its format's rounding, or that of a few operations in
/// f32.
fn tolerance<T: Element>() -> f64 {
    if size_of::<T>() == 2 { 8e-3 } else { 1e-5 }
}

/// The same for what functions give, whose approximations may be short.
fn function_tolerance<P: Path>() -> f64 {
    tolerance::<P::Inner>().max(if P::SHORT { 2e-4 } else { 0.0 })
}

fn expect(kernel: &'static str, got: f32, expected: f64, tolerance: f64) -> Result<(), Difference> {
    let got = f64::from(got);
    // Not `>`: a NaN is a difference too.
    let right = (got - expected).abs() <= tolerance * expected.abs().max(1.0);
    if right { Ok(()) } else { Err(Difference { kernel, got, expected }) }
}

/// Numbers without a pattern, the same in every run.
fn scatter(i: usize) -> u32 {
    let x = (i as u32).wrapping_add(1).wrapping_mul(2_654_435_761);
    (x ^ (x >> 15)).wrapping_mul(2_246_822_519) >> 8
}

/// A product whose operands and sums are exact in every format, so that only an error can make it differ: activations
/// are integers from -128 to 127, weights integers from -127 to 127 times a power of two. Both reach their extremes in
/// every row and column, next to one another, so 8-bit formats store them as they are, and sums that saturate show.
struct SmallProduct<P: Kernels> {
    rows: usize,
    /// The panel's width.
    vectors: usize,
    columns: usize,
    steps: usize,
    stride: usize,
    activations: Vec<P::Activation>,
    row_scales: Vec<RowScale>,
    panel: Vec<P::Weight>,
    column_scales: Vec<f32>,
    column_sums: Vec<f32>,
    bias: Vec<f32>,
    /// `[rows][columns]`, without the bias.
    sums: Vec<f64>,
}

/// Small enough that sums lie where GELU bends.
const UNIT: f32 = 1.0 / 16384.0;

impl<P: Kernels> SmallProduct<P> {
    /// `inner` should be no multiple of a path's step.
    unsafe fn new(rows: usize, vectors: usize, inner: usize) -> Self {
        let columns = vectors * lanes::<P>();
        let steps = steps::<P>(inner);
        // Room for whole vectors, which quantising reads, and for whole chunks.
        let stride = inner.next_multiple_of(64) + 64;
        let activation = |row: usize, i: usize| match i {
            0 | 2 => 127.0,
            1 | 3 => -128.0,
            _ => (scatter(row * inner + i) % 256) as f32 - 128.0,
        };
        let weight = |column: usize, i: usize| match i {
            0 | 2 if column.is_multiple_of(2) => 127.0,
            0 | 2 => -127.0,
            _ => (scatter(column * inner + i + 5) % 255) as f32 - 127.0,
        };
        let mut product = SmallProduct {
            rows,
            vectors,
            columns,
            steps,
            stride,
            activations: vec![P::Activation::default(); P::LAYOUT.rows(rows) * stride],
            row_scales: vec![RowScale::default(); rows],
            panel: vec![P::Weight::default(); steps * columns * P::STEP],
            column_scales: Vec::new(),
            column_sums: Vec::new(),
            bias: (0..columns).map(|i| (scatter(i) % 64) as f32 / 16.0 - 2.0).collect(),
            sums: Vec::new(),
        };
        for row in 0..rows {
            let mut values = vec![P::Inner::default(); stride];
            for (i, value) in values.iter_mut().take(inner).enumerate() {
                *value = P::Inner::from_f32(activation(row, i));
            }
            // SAFETY: the caller's for the instructions; the rows are as long as the stride.
            unsafe { product.fill_row(row, inner, &values) };
            let sum = |column| {
                let product = |i| f64::from(activation(row, i)) * f64::from(weight(column, i) * UNIT);
                (0..inner).map(product).sum::<f64>()
            };
            product.sums.extend((0..columns).map(sum));
        }
        for column in 0..columns {
            let weights: Vec<f32> = (0..inner).map(|i| weight(column, i) * UNIT).collect();
            let mut converted = vec![P::Weight::default(); inner];
            let scale = P::convert(&weights, &mut converted);
            product.column_scales.push(scale.scale);
            product.column_sums.push(scale.sum);
            for (i, weight) in converted.into_iter().enumerate() {
                product.panel[(i / P::STEP * columns + column) * P::STEP + i % P::STEP] = weight;
            }
        }
        product
    }

    /// A row of results as a left operand, as [`crate::encoder`] makes it.
    unsafe fn fill_row(&mut self, row: usize, inner: usize, values: &[P::Inner]) {
        let at = P::LAYOUT.row::<P::Activation>(row, self.stride);
        let target = self.activations[at..].as_mut_ptr();
        if P::QUANTIZED {
            // SAFETY: all rows are as long as the stride, `inner` padded to whole vectors; the instructions are the
            // caller's.
            unsafe {
                P::quantize(&Quantize {
                    x: values.as_ptr(),
                    size: inner,
                    out: target,
                    scale: &mut self.row_scales[row],
                });
            }
        } else {
            for (column, value) in values.iter().enumerate() {
                let at = P::LAYOUT.column::<P::Activation>(column);
                // SAFETY: a value of the row; without quantising, activations and results are one type.
                unsafe { target.add(at).cast::<P::Inner>().write(*value) };
            }
        }
    }

    unsafe fn multiply(&self, epilogue: Epilogue<P>) {
        // SAFETY: the caller's.
        unsafe { self.multiply_part(0..self.steps, Part::WHOLE, epilogue) }
    }

    /// The same in two parts, whose sums are carried.
    unsafe fn multiply_in_parts(&self, epilogue: Epilogue<P>) {
        let mut carried = vec![0_u32; self.rows.next_multiple_of(BLOCK) * self.columns];
        let carried = carried.as_mut_ptr();
        // A whole step of tiles.
        let middle = CHUNK / size_of::<P::Activation>() / P::STEP;
        // SAFETY: a sum for each value of whole blocks; the rest is the caller's.
        unsafe {
            self.multiply_part(0..middle, Part { carried, first: true, last: false }, epilogue);
            self.multiply_part(middle..self.steps, Part { carried, first: false, last: true }, epilogue);
        }
    }

    unsafe fn multiply_part(&self, steps: Range<usize>, part: Part, epilogue: Epilogue<P>) {
        let mut widened = vec![0.0; if P::WIDENED { self.panel.len() } else { 0 }];
        // SAFETY: the buffers were made for these sizes; the instructions are the caller's.
        unsafe {
            P::multiply(&Product {
                activations: self.activations[P::LAYOUT.column::<P::Activation>(steps.start * P::STEP)..]
                    .as_ptr(),
                row_stride: self.stride,
                rows: self.rows,
                panel: self.panel[steps.start * self.columns * P::STEP..].as_ptr(),
                steps: steps.len(),
                vectors: self.vectors,
                widened: widened.as_mut_ptr(),
                row_scales: self.row_scales.as_ptr(),
                column_scales: self.column_scales.as_ptr(),
                column_sums: self.column_sums.as_ptr(),
                part,
                epilogue,
                prefetch: self.panel.as_ptr().cast(),
                prefetch_bytes: size_of_val(self.panel.as_slice()),
            });
        }
    }

    /// Results in f32 are exact; those in the path's format are rounded once, GELU's computed in f32 before.
    unsafe fn check(&self) -> Result<(), Difference> {
        let (bias, stride) = (self.bias.as_ptr(), self.columns);
        let biased = || self.sums.iter().zip(self.bias.iter().cycle()).map(|(sum, b)| sum + f64::from(*b));
        let mut residual = vec![0.75_f32; self.rows * stride];
        let mut out = vec![P::Inner::default(); self.rows * stride];
        let layout = inner_layout::<P>();
        let wide = stride.next_multiple_of(64);
        let mut operand = vec![P::Inner::default(); layout.rows(self.rows) * wide];
        // SAFETY: the outputs have `rows` rows of `columns`; the instructions are the caller's.
        unsafe {
            self.multiply(Epilogue::Accumulate { bias, out: residual.as_mut_ptr(), stride });
            for (got, expected) in residual.iter().zip(biased()) {
                expect("the matrix product", *got, expected + 0.75, 0.0)?;
            }
            if P::LAYOUT == Layout::Blocks {
                residual.fill(0.75);
                self.multiply_in_parts(Epilogue::Accumulate { bias, out: residual.as_mut_ptr(), stride });
                for (got, expected) in residual.iter().zip(biased()) {
                    expect("the matrix product in parts", *got, expected + 0.75, 0.0)?;
                }
            }
            self.multiply(Epilogue::Store { bias, out: out.as_mut_ptr(), stride });
            for (got, expected) in out.iter().zip(biased()) {
                expect("the matrix product", got.to_f32(), expected, tolerance::<P::Inner>())?;
            }
            self.multiply(Epilogue::Gelu { bias, out: operand.as_mut_ptr(), stride: wide });
        }
        for (i, x) in biased().enumerate() {
            let (row, column) = (i / stride, i % stride);
            let got = operand[layout.row::<P::Inner>(row, wide) + layout.column::<P::Inner>(column)];
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            expect("GELU", got.to_f32(), 0.5 * x * (1.0 + u.tanh()), function_tolerance::<P>())?;
        }
        Ok(())
    }
}

unsafe fn check_attention<P: Kernels>(
    queries: usize,
    keys: usize,
    head_dim: usize,
) -> Result<(), Difference> {
    const STRIDE: usize = 64;
    /// What stands in the output beside the head.
    const BESIDE: f32 = -7.5;
    let values = |rows: usize, offset: usize| -> Vec<P::Inner> {
        let value = |i| (scatter(i + offset) % 64) as f32 / 16.0 - 2.0;
        // Beyond the head's values there must be zeroes up to the path's step.
        let value = |i: usize| if i % STRIDE < head_dim { value(i) } else { 0.0 };
        (0..rows * STRIDE).map(|i| P::Inner::from_f32(value(i))).collect()
    };
    let (q, k, v) = (values(queries, 0), values(keys, 170), values(keys, 1700));
    let mut scratch = Scratch::new::<P>(keys, head_dim).map_err(|_| Difference {
        kernel: "attention's memory",
        got: 0.0,
        expected: 1.0,
    })?;
    let layout = inner_layout::<P>();
    let out_stride = STRIDE.next_multiple_of(64);
    let mut out = vec![P::Inner::from_f32(BESIDE); layout.rows(queries) * out_stride];
    let scale = 1.0 / (head_dim as f64).sqrt();
    // SAFETY: the buffers have the sizes that the fields ask for; the instructions are the caller's.
    unsafe {
        P::attend(&Attention {
            q: q.as_ptr(),
            q_stride: STRIDE,
            queries,
            k: k.as_ptr(),
            v: v.as_ptr(),
            kv_stride: STRIDE,
            keys,
            head_dim,
            scale_log2e: std::f32::consts::LOG2_E * scale as f32,
            out: Output { first: out.as_mut_ptr(), stride: out_stride, row: 0, column: 0 },
            next: [std::ptr::null(); 3],
            scratch: scratch.memory(),
        });
    }
    let tolerance = match scores::in_8_bits::<P>(keys, head_dim) {
        true => 3e-2,
        false => 2.0 * function_tolerance::<P>(),
    };
    let read = |values: &[P::Inner], i: usize| f64::from(values[i].to_f32());
    for query in 0..queries {
        let score = |key: usize| {
            let product = |d| read(&q, query * STRIDE + d) * read(&k, key * STRIDE + d);
            (0..head_dim).map(product).sum::<f64>() * scale
        };
        let exponentials: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
        let total: f64 = exponentials.iter().sum();
        let result =
            |d| out[layout.row::<P::Inner>(query, out_stride) + layout.column::<P::Inner>(d)].to_f32();
        for d in 0..head_dim {
            let term = |key: usize| exponentials[key] / total * read(&v, key * STRIDE + d);
            let expected: f64 = (0..keys).map(term).sum();
            expect("attention", result(d), expected, tolerance)?;
        }
        expect("attention beside the head", result(head_dim), f64::from(BESIDE), 0.0)?;
    }
    Ok(())
}

unsafe fn check_layer_norm<P: Kernels>() -> Result<(), Difference> {
    const SIZE: usize = 45;
    const PADDED: usize = 64;
    let parameter = |offset: usize| -> Vec<f32> {
        let value = |i| (scatter(i + offset) % 64) as f32 / 16.0 - 2.0;
        (0..PADDED).map(|i| if i < SIZE { value(i) } else { 0.0 }).collect()
    };
    // Away from zero, where a variance from squares alone would lose its bits.
    let x: Vec<f32> = parameter(0).iter().map(|x| x + 100.0).collect();
    let (weight, bias) = (parameter(100), parameter(200));
    let (mut out, mut scale) =
        (vec![P::Activation::default(); P::LAYOUT.rows(1) * PADDED], RowScale::default());
    let mut row = vec![0.0; PADDED];
    // SAFETY: all buffers hold the size padded to whole vectors; the instructions are the caller's.
    unsafe {
        P::layer_norm(&LayerNorm {
            x: x.as_ptr(),
            size: SIZE,
            weight: weight.as_ptr(),
            bias: bias.as_ptr(),
            epsilon: 1e-6,
            out: out.as_mut_ptr(),
            scale: &mut scale,
            row: row.as_mut_ptr(),
        });
    }
    let values = x[..SIZE].iter().map(|x| f64::from(*x));
    let mean = values.clone().sum::<f64>() / SIZE as f64;
    let variance = values.clone().map(|x| (x - mean).powi(2)).sum::<f64>() / SIZE as f64;
    for (i, x) in values.enumerate() {
        let normal = (x - mean) / (variance + 1e-6).sqrt();
        let expected = normal * f64::from(weight[i]) + f64::from(bias[i]);
        if P::QUANTIZED {
            // SAFETY: activations of quantised paths are bytes.
            let byte = unsafe { out.as_ptr().add(P::LAYOUT.column::<u8>(i)).cast::<u8>().read() };
            let got = scale.scale * f32::from(byte) + scale.offset;
            expect("layer norm", row[i], expected, 1e-4)?;
            expect("quantising", got, expected, f64::from(scale.scale))?;
        } else {
            // SAFETY: without quantising, activations and results are one type.
            let got = unsafe { out.as_ptr().cast::<P::Inner>().add(P::LAYOUT.column::<P::Inner>(i)).read() };
            expect("layer norm", got.to_f32(), expected, tolerance::<P::Inner>().max(1e-4))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
