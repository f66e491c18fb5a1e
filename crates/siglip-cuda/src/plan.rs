//! Which algorithm computes which product, so that a row's bits do not depend on the batch that it is in.
//!
//! Two algorithms give a row the same bits if they add its products in the same order. cuBLASLt does not say in which
//! order it adds, and an algorithm that is good for 32,768 rows is a bad one for 64, so neither "always the same" nor
//! "always the fastest" will do. Instead orders are *measured*: each candidate for each number of rows multiplies operands
//! whose exact result is zero, by pairs of products that cancel far apart. What comes out is the rounding of its sums and
//! nothing else, and another order of additions gives other bits almost everywhere. Candidates with equal bits form a
//! family. Of the families that reach the largest number of rows the one that covers most of the others is taken, of equal
//! ones that which cuBLASLt thinks best for the largest: no clock decides, so another run takes the same. Within the
//! family each number of rows has its fastest member, which the clock may decide, the bits being the same.
//!
//! A number of rows that has no member of the family is left out, and batches of that size are padded to the next. So the
//! promise of equal bits holds always; what a card's library offers decides only how well small batches do.
//!
//! What is chosen is proved at once: see [`proof`].
//!
//! Splitting k over blocks is ruled out beforehand: its sums depend on the number of blocks.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::CudaError;
use crate::gpu::Gpu;
use crate::matmul::{Choice, Matmul, Operands, Scales, Shape, WORKSPACE_BYTES};
use crate::memory::{DeviceBuffer, View};
use crate::number::Number;
use crate::random::Random;
use crate::stream::{Event, Stream};

mod proof;

use proof::Proof;

/// Rows of the probe; further ones repeat them, so that a row is seen in several places of a batch.
const PROBE_ROWS: usize = 16;
/// Runs that are timed.
const TIMED_RUNS: usize = 3;
/// Of the probe's values: large enough that the roundings of f32 sums are normal numbers in f16.
const LARGEST: f32 = 128.0;

/// What an fp8 result is multiplied by: the roundings of sums of values up to [`LARGEST`] are then normal numbers in it.
const FP8_SCALE: f32 = 16.0;

/// The algorithm of each product.
#[derive(Default)]
pub(crate) struct Plan {
    choices: HashMap<(Shape, usize), Choice>,
}

impl Plan {
    pub(crate) fn get(&self, shape: &Shape, rows: usize) -> Result<&Choice, CudaError> {
        let none = || CudaError::NoAlgorithm { rows, inputs: shape.inputs, outputs: shape.outputs };
        self.choices.get(&(*shape, rows)).ok_or_else(none)
    }

    /// Whether all of some products can be computed.
    pub(crate) fn covers(&self, products: &[(Shape, usize)]) -> bool {
        products.iter().all(|product| self.choices.contains_key(product))
    }

    /// Chooses for every product, given as shape and number of rows.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        stream: &Stream,
        workspace: View<'_>,
        products: &[(Shape, usize)],
    ) -> Result<Plan, CudaError> {
        let mut rows_of: HashMap<Shape, Vec<usize>> = HashMap::new();
        for (shape, rows) in products {
            rows_of.entry(*shape).or_default().push(*rows);
        }
        let mut plan = Plan::default();
        for (shape, mut rows) in rows_of {
            rows.sort_unstable();
            rows.dedup();
            for (rows, choice) in rows.iter().zip(choose(gpu, stream, workspace, shape, &rows)?) {
                match choice {
                    Some(choice) => drop(plan.choices.insert((shape, *rows), choice)),
                    None => tracing::debug!("{shape:?}: no algorithm of the family for {rows} rows"),
                }
            }
        }
        Ok(plan)
    }

    /// Bytes that choosing takes beside everything else, at most.
    pub(crate) fn probe_bytes(products: &[(Shape, usize)]) -> usize {
        let of = |(shape, rows): &(Shape, usize)| {
            shape.input_bytes(padded(*rows))
                + shape.out_bytes(*rows)
                + shape.weight_bytes()
                + shape.bias_bytes()
        };
        products.iter().map(of).max().unwrap_or(0)
    }
}

/// One candidate, tried.
struct Trial {
    choice: Choice,
    bits: Vec<u8>,
    milliseconds: f32,
}

/// The choice for each number of rows, which ascend.
fn choose(
    gpu: &Arc<Gpu>,
    stream: &Stream,
    workspace: View<'_>,
    shape: Shape,
    rows: &[usize],
) -> Result<Vec<Option<Choice>>, CudaError> {
    let Some(&most) = rows.last() else { return Ok(Vec::new()) };
    let probe = Probe::new(gpu, stream, shape, most)?;
    let mut trials = Vec::new();
    for &rows in rows {
        let matmul = Matmul::new(gpu, shape, rows)?;
        let mut of_rows = Vec::new();
        for choice in matmul.candidates()? {
            of_rows.extend(probe.try_out(&matmul, choice, rows, workspace, stream)?);
        }
        trials.push(of_rows);
    }
    let largest = trials.last().map(Vec::as_slice).unwrap_or_default();
    let of_family = |family: &Trial| -> Vec<Option<&Trial>> {
        let fastest = |trials: &Vec<Trial>| -> Option<usize> {
            let of_family =
                trials.iter().enumerate().filter(|(_, trial)| family.bits.starts_with(&trial.bits));
            of_family.min_by(|a, b| a.1.milliseconds.total_cmp(&b.1.milliseconds)).map(|(index, _)| index)
        };
        trials.iter().map(|trials| fastest(trials).and_then(|index| trials.get(index))).collect()
    };
    let covered = |members: &Vec<Option<&Trial>>| members.iter().flatten().count();
    // The first of those that cover most: `max_by_key` would take the last.
    let best = largest
        .iter()
        .map(of_family)
        .reduce(|best, next| if covered(&next) > covered(&best) { next } else { best });
    let Some(best) = best else {
        return Err(CudaError::NoAlgorithm { rows: most, inputs: shape.inputs, outputs: shape.outputs });
    };
    let proof = Proof::new(&shape, &probe.columns);
    probe.prepare(&proof, stream)?;
    for ((rows, trials), taken) in rows.iter().zip(&trials).zip(&best) {
        report(&shape, *rows, trials, *taken);
        if let Some(trial) = taken {
            let matmul = Matmul::new(gpu, shape, *rows)?;
            probe.prove(&proof, (&matmul, &trial.choice), *rows, workspace, stream)?;
        }
    }
    Ok(best.iter().map(|trial| trial.map(|trial| trial.choice)).collect())
}

/// What was tried for a number of rows, for people: each candidate's time and which have the same bits.
fn report(shape: &Shape, rows: usize, trials: &[Trial], taken: Option<&Trial>) {
    let mut families: Vec<&[u8]> = Vec::new();
    let mut words = Vec::new();
    for trial in trials {
        let known = families.iter().position(|bits| *bits == trial.bits);
        let family = known.unwrap_or_else(|| {
            families.push(&trial.bits);
            families.len() - 1
        });
        let mark = if taken.is_some_and(|taken| std::ptr::eq(taken, trial)) { "*" } else { "" };
        words.push(format!("{mark}{:.1} us/{family}", trial.milliseconds * 1e3));
    }
    tracing::debug!(
        "{:?} {} -> {} {:?}, {rows} rows {} apart: {}",
        shape.number,
        shape.inputs,
        shape.outputs,
        shape.result,
        shape.input_stride,
        words.join(", "),
    );
}

/// Operands whose exact product is zero.
struct Probe {
    gpu: Arc<Gpu>,
    shape: Shape,
    /// The weights of some columns of the result.
    columns: Vec<(usize, Vec<f32>)>,
    input: DeviceBuffer,
    weight: DeviceBuffer,
    bias: DeviceBuffer,
    scales: Option<DeviceBuffer>,
    out: DeviceBuffer,
    start: Event,
    end: Event,
}

impl Probe {
    fn new(gpu: &Arc<Gpu>, stream: &Stream, shape: Shape, rows: usize) -> Result<Probe, CudaError> {
        let new = |bytes| DeviceBuffer::new(gpu, "choosing the algorithms of matrix products", bytes);
        let fp8 = shape.number == Number::E4m3;
        let Shape { number, inputs, outputs, input_stride, .. } = shape;
        // Weight k equals weight inputs − 1 − k, and the inputs there are each other's negatives.
        let mut random = Random::seeded(0);
        let mut weight = vec![0.0; outputs * inputs];
        for row in weight.chunks_mut(inputs) {
            for k in 0..inputs.div_ceil(2) {
                row[k] = random.spread(LARGEST);
                row[inputs - 1 - k] = row[k];
            }
        }
        let columns = (0..outputs).step_by(outputs.div_ceil(proof::COLUMNS));
        let of_column =
            |column: usize| weight[column * inputs..][..inputs].iter().map(|w| number.round(*w)).collect();
        let probe = Probe {
            gpu: Arc::clone(gpu),
            shape,
            columns: columns.map(|column| (column, of_column(column))).collect(),
            input: new(shape.input_bytes(padded(rows)))?,
            weight: new(shape.weight_bytes())?,
            bias: new(shape.bias_bytes())?,
            scales: fp8.then(|| Scales::upload(gpu, [1.0, 1.0, FP8_SCALE])).transpose()?,
            out: new(shape.out_bytes(rows))?,
            start: Event::timed(gpu)?,
            end: Event::timed(gpu)?,
        };
        probe.weight.upload(&number.encode(&weight))?;
        let mut input = vec![0.0; PROBE_ROWS * input_stride];
        for row in input.chunks_mut(input_stride) {
            for k in 0..inputs / 2 {
                row[k] = random.spread(LARGEST);
                row[inputs - 1 - k] = -row[k];
            }
        }
        probe.fill(&probe.input, &number.encode(&input), stream)?;
        probe.bias.zero(stream)?;
        Ok(probe)
    }

    /// Puts as many of [`PROBE_ROWS`] rows into a buffer, over and over, as there is room for.
    fn fill(&self, buffer: &DeviceBuffer, rows: &[u8], stream: &Stream) -> Result<(), CudaError> {
        buffer.upload(&rows[..rows.len().min(buffer.bytes())])?;
        buffer.repeat(rows.len(), stream)
    }

    fn operands(&self) -> Operands<'_> {
        Operands {
            input: self.input.view(),
            weight: self.weight.view(),
            bias: self.bias.view(),
            scales: self.scales.as_ref().map(Scales::of),
            out: self.out.view(),
        }
    }

    /// Runs a candidate; none if cuBLASLt refuses it after all, or if the place of a row in the batch changes its bits.
    fn try_out(
        &self,
        matmul: &Matmul<'_>,
        choice: Choice,
        rows: usize,
        workspace: View<'_>,
        stream: &Stream,
    ) -> Result<Option<Trial>, CudaError> {
        let operands = self.operands();
        if self.shape.is_added() {
            self.out.zero(stream)?;
        }
        match matmul.run(&operands, &choice, workspace, stream) {
            Err(error @ CudaError::Blas { .. }) => {
                tracing::debug!("{:?}: {error}", self.shape);
                return Ok(None);
            }
            done => done?,
        }
        stream.wait()?;
        let first = self.rows(0, rows.min(PROBE_ROWS))?;
        // The last rows of the batch repeat the first ones, from some row of the period on.
        let start = rows.saturating_sub(PROBE_ROWS);
        let last = self.rows(start, rows - start)?;
        let row_bytes = first.len() / rows.min(PROBE_ROWS);
        let mut in_order = first.clone();
        in_order.rotate_left(start % PROBE_ROWS * row_bytes % first.len().max(1));
        if last != in_order {
            return Ok(None);
        }

        self.start.record(stream)?;
        for _ in 0..TIMED_RUNS {
            matmul.run(&operands, &choice, workspace, stream)?;
        }
        self.end.record(stream)?;
        self.end.wait()?;
        let milliseconds = self.end.milliseconds_since(&self.start)? / TIMED_RUNS as f32;
        Ok(Some(Trial { choice, bits: first, milliseconds }))
    }

    /// Some rows of the result.
    fn rows(&self, start: usize, count: usize) -> Result<Vec<u8>, CudaError> {
        let size = self.shape.result_number().size();
        let (stride, width) = (self.shape.out_stride * size, self.shape.outputs * size);
        let mut bytes = vec![0; (count - 1) * stride + width];
        self.out.download(start * stride, &mut bytes)?;
        Ok(bytes.chunks(stride).flat_map(|row| row[..width].to_vec()).collect())
    }
}

/// Room for whole periods of the probe.
fn padded(rows: usize) -> usize {
    rows.next_multiple_of(PROBE_ROWS)
}

/// Scratch memory for the algorithms.
pub(crate) fn workspace(gpu: &Arc<Gpu>) -> Result<DeviceBuffer, CudaError> {
    DeviceBuffer::new(gpu, "scratch memory of matrix products", WORKSPACE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::Emulator;
    use crate::matmul::ResultKind;

    /// The emulator's fastest algorithms for few rows and for many add in different orders.
    #[test]
    fn one_family_covers_all_rows_and_bits_tell_orders_apart() {
        let Some(emulator) = Emulator::lock() else { return };
        let gpu = Gpu::open(&emulator.libraries(), 0).unwrap();
        let stream = Stream::new(&gpu).unwrap();
        let workspace = workspace(&gpu).unwrap();
        for number in [Number::Bf16, Number::F16, Number::F32, Number::E4m3] {
            for result in
                [ResultKind::Bias, ResultKind::Gelu, ResultKind::Wide, ResultKind::Add, ResultKind::AddWide]
            {
                // What no tower has: only the pooling head adds to f32, and that in bf16.
                if (number, result) == (Number::E4m3, ResultKind::AddWide) {
                    continue;
                }
                for stride in [48, 208] {
                    let shape = Shape {
                        number,
                        inputs: 48,
                        outputs: 32,
                        input_stride: stride,
                        out_stride: stride,
                        result,
                    };
                    let probe = Probe::new(&gpu, &stream, shape, 200).unwrap();
                    let few = Matmul::new(&gpu, shape, 8).unwrap();
                    let trials: Vec<Trial> = few
                        .candidates()
                        .unwrap()
                        .into_iter()
                        .map(|choice| {
                            probe.try_out(&few, choice, 8, workspace.view(), &stream).unwrap().unwrap()
                        })
                        .collect();
                    assert_ne!(trials[0].bits, trials[1].bits, "{shape:?}");
                    assert!(trials[0].milliseconds < trials[1].milliseconds, "the trap is none");

                    let rows = [1, 8, 17, 200];
                    let chosen = choose(&gpu, &stream, workspace.view(), shape, &rows).unwrap();
                    let chosen: Vec<_> = chosen.into_iter().map(|choice| choice.unwrap().algorithm).collect();
                    assert!(chosen.iter().all(|algorithm| *algorithm == chosen[0]), "{chosen:?}");
                }
            }
        }
    }
}
