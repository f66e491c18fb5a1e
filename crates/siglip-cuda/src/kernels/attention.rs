//! `kernels/attention.cu`: all queries to all keys, on the tensor cores.

use super::attention_rows::AttentionRows;
use super::{Kernels, scale_log2};
use crate::error::CudaError;
use crate::memory::View;
use crate::stream::Stream;

/// Queries of a block of the kernel for few positions.
const FEW: usize = 64;

/// Keys of a tile.
fn tile(head_dim: usize) -> usize {
    let stride = head_dim.next_multiple_of(16) + 8;
    if 4 * 64 * stride * 2 <= 48 << 10 { 64 } else { 32 }
}
/// The widest head whose keys and values fit the shared memory that every card gives without being asked.
pub(crate) const MOST_HEAD_DIM: usize = 128;

/// `softmax(q · kᵀ / √head_dim) · v`, head by head, item by item.
pub(crate) struct Attention<'a> {
    /// `[items · positions, 3 · hidden]`: queries, keys, values.
    pub(crate) qkv: View<'a>,
    /// `[items · positions, hidden]`.
    pub(crate) out: View<'a>,
    pub(crate) items: usize,
    pub(crate) positions: usize,
}

#[repr(C)]
struct Parameters {
    qkv: u64,
    out: u64,
    positions: u32,
    scale_log2: f32,
}

impl Attention<'_> {
    pub(crate) fn launch(&self, kernels: &Kernels, stream: &Stream) -> Result<(), CudaError> {
        let constants = &kernels.constants;
        let (hidden, size) = (constants.hidden, constants.number.beside().size());
        let rows = self.items * self.positions;
        let Some([few, many]) = kernels.attention else {
            let all = AttentionRows {
                q: self.qkv,
                q_item: self.positions * 3 * hidden,
                q_row: 3 * hidden,
                k: self.qkv.skip(hidden * size),
                v: self.qkv.skip(2 * hidden * size),
                kv_row: 3 * hidden,
                out: self.out,
                items: self.items,
                queries: self.positions,
                keys: self.positions,
            };
            return all.launch(kernels, stream);
        };
        let parameters = Parameters {
            qkv: self.qkv.holding(rows * 3 * hidden * size),
            out: self.out.holding(rows * hidden * size),
            positions: self.positions as u32,
            scale_log2: scale_log2(constants.head_dim()),
        };
        let (function, queries) =
            if self.positions <= FEW { (few, FEW) } else { (many, 2 * tile(constants.head_dim())) };
        let grid = [self.positions.div_ceil(queries), constants.heads, self.items];
        // SAFETY: the sizes were checked above; rows past the last position are neither read nor written.
        unsafe { kernels.launch(function, grid, parameters, stream) }
    }
}

#[cfg(test)]
pub(crate) mod twin {
    use super::{scale_log2, tile};
    use crate::number::Number;

    /// One head of one item; `q`, `k`, `v` are `[positions, head_dim]`, and so is what is returned.
    pub(crate) fn attention(q: &[f32], k: &[f32], v: &[f32], head_dim: usize, number: Number) -> Vec<f32> {
        let (c, tile) = (scale_log2(head_dim), tile(head_dim));
        let row = |query: &[f32]| {
            let mut out = vec![0.0; head_dim];
            // The four lanes that share a row each sum the weights of two columns of eight.
            let mut sums = [0.0_f32; 4];
            let mut highest = f32::NEG_INFINITY;
            for (keys, values) in k.chunks(tile * head_dim).zip(v.chunks(tile * head_dim)) {
                let scores: Vec<f32> = keys.chunks(head_dim).map(|key| dot(query, key)).collect();
                let now = scores.iter().copied().fold(highest, f32::max);
                let decay = ((highest - now) * c).exp2();
                highest = now;
                let weights: Vec<f32> =
                    scores.iter().map(|score| score.mul_add(c, -now * c).exp2()).collect();
                sums = sums.map(|sum| sum * decay);
                for (column, weight) in weights.iter().enumerate() {
                    sums[column % 8 / 2] += weight;
                }
                for out in &mut out {
                    *out *= decay;
                }
                for (weight, value) in weights.iter().zip(values.chunks(head_dim)) {
                    for (out, value) in out.iter_mut().zip(value) {
                        *out += number.round(*weight) * value;
                    }
                }
            }
            let inverse = 1.0 / ((sums[0] + sums[1]) + (sums[2] + sums[3]));
            out.iter().map(|out| number.round(out * inverse)).collect::<Vec<_>>()
        };
        q.chunks(head_dim).flat_map(row).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
    }
}
