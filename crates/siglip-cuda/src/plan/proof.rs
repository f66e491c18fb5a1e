//! Whether what a chosen algorithm computes is the product that was meant: bias and GELU, what is added to, which operand is
//! transposed. The probe of orders cannot tell, since the exact results of its operands are zero.

use super::{FP8_SCALE, LARGEST, PROBE_ROWS, Probe};
use crate::check::{compare, exact};
use crate::e4m3;
use crate::error::CudaError;
use crate::matmul::{Choice, Matmul, ResultKind, Shape};
use crate::memory::View;
use crate::number::Number;
use crate::random::Random;
use crate::stream::Stream;

/// Columns of the result that are looked at.
pub(super) const COLUMNS: usize = 16;
/// Inputs are smaller than the probe's by this, so that GELU's argument is where it bends.
const SMALLER: f32 = 4096.0;
/// Of biases and of what is added to.
const ADDED: f32 = 8.0;

/// Operands and what must become of them. Rows repeat, as the probe's do.
pub(super) struct Proof {
    input: Vec<u8>,
    bias: Vec<u8>,
    /// What the result is added to, row by row; none where nothing is.
    before: Option<Vec<u8>>,
    /// The columns that are looked at.
    columns: Vec<usize>,
    /// `[PROBE_ROWS, columns]`.
    expected: Vec<f64>,
}

impl Proof {
    /// `weights` are those of a few columns of the probe's.
    pub(super) fn new(shape: &Shape, weights: &[(usize, Vec<f32>)]) -> Proof {
        let Shape { number, inputs, input_stride, outputs, out_stride, result } = *shape;
        let mut random = Random::seeded(1);
        // As they lie on the card, and the numbers that these bytes are.
        let mut rounded = |len: usize, most: f32, number: Number| {
            let values: Vec<f32> = (0..len).map(|_| random.spread(most)).collect();
            let bytes = number.encode(&values);
            let values = number.decode(&bytes);
            (bytes, values)
        };
        let (input, inputs_of_rows) = rounded(PROBE_ROWS * input_stride, LARGEST / SMALLER, number);
        let (bias, biases) = rounded(outputs, ADDED, result.bias_number(number));
        let before = shape.is_added().then(|| rounded(PROBE_ROWS * out_stride, ADDED, shape.result_number()));
        let value = |row: usize, column: usize, weights: &[f32]| {
            let of_row = &inputs_of_rows[row * input_stride..][..inputs];
            let dot: f64 = of_row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let bias = if shape.has_bias() { f64::from(biases[column]) } else { 0.0 };
            let before = before.as_ref().map_or(0.0, |(_, rows)| f64::from(rows[row * out_stride + column]));
            let sum = f64::from(shape.alpha()) * dot + bias + before;
            let value = if result == ResultKind::Gelu { exact::gelu(sum) } else { sum };
            // The format has no more, and what is beyond becomes its largest.
            if shape.result_number() == Number::E4m3 {
                let largest = f64::from(e4m3::LARGEST);
                (value * f64::from(FP8_SCALE)).clamp(-largest, largest)
            } else {
                value
            }
        };
        let expected = (0..PROBE_ROWS)
            .flat_map(|row| weights.iter().map(move |(column, weights)| (row, *column, weights)))
            .map(|(row, column, weights)| value(row, column, weights))
            .collect();
        Proof {
            input,
            bias,
            before: before.map(|(bytes, _)| bytes),
            columns: weights.iter().map(|(column, _)| *column).collect(),
            expected,
        }
    }
}

impl Probe {
    /// Puts the proof's operands in place of the probe's.
    pub(super) fn prepare(&self, proof: &Proof, stream: &Stream) -> Result<(), CudaError> {
        self.bias.upload(&proof.bias)?;
        self.fill(&self.input, &proof.input, stream)
    }

    /// Runs a choice for `rows` rows.
    ///
    /// # Errors
    ///
    /// [`CudaError::Wrong`] if the first or the last rows are not what they must be.
    pub(super) fn prove(
        &self,
        proof: &Proof,
        (matmul, choice): (&Matmul<'_>, &Choice),
        rows: usize,
        workspace: View<'_>,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        if let Some(before) = &proof.before {
            self.fill(&self.out, before, stream)?;
        }
        matmul.run(&self.operands(), choice, workspace, stream)?;
        stream.wait()?;
        let number = self.shape.result_number();
        let count = rows.min(PROBE_ROWS);
        for first in [0, rows - count] {
            let got = number.decode(&self.rows(first, count)?);
            let (mut values, mut expected) = (Vec::new(), Vec::new());
            for (row, got) in got.chunks(self.shape.outputs).enumerate() {
                values.extend(proof.columns.iter().map(|column| got[*column]));
                let row = (first + row) % PROBE_ROWS;
                expected
                    .extend_from_slice(&proof.expected[row * proof.columns.len()..][..proof.columns.len()]);
            }
            compare(&self.gpu, || self.shape.describe(rows), &values, &expected, number)?;
        }
        Ok(())
    }
}
