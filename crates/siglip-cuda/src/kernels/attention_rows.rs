//! `kernels/attention_rows.cu`: a warp a query, in f32 arithmetic.

use super::{Kernels, WARPS, scale_log2};
use crate::error::CudaError;
use crate::memory::View;
use crate::stream::Stream;

/// `softmax(q · kᵀ / √head_dim) · v` for some queries of each item. Offsets are in values.
pub(crate) struct AttentionRows<'a> {
    /// Query j of item i begins at `i · q_item + j · q_row`.
    pub(crate) q: View<'a>,
    pub(crate) q_item: usize,
    pub(crate) q_row: usize,
    /// Key j of item i begins at `(i · keys + j) · kv_row`.
    pub(crate) k: View<'a>,
    /// As the keys.
    pub(crate) v: View<'a>,
    pub(crate) kv_row: usize,
    /// `[items · queries, hidden]`.
    pub(crate) out: View<'a>,
    pub(crate) items: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
}

#[repr(C)]
struct Parameters {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    q_item: u64,
    q_row: u64,
    kv_row: u64,
    queries: u32,
    keys: u32,
    rows: u32,
    scale_log2: f32,
}

impl AttentionRows<'_> {
    pub(crate) fn launch(&self, kernels: &Kernels, stream: &Stream) -> Result<(), CudaError> {
        let constants = &kernels.constants;
        let (hidden, size) = (constants.hidden, constants.number.beside().size());
        let rows = self.items * self.queries;
        let last_query = (self.items - 1) * self.q_item + (self.queries - 1) * self.q_row;
        let kv_bytes = ((self.items * self.keys - 1) * self.kv_row + hidden) * size;
        let parameters = Parameters {
            q: self.q.holding((last_query + hidden) * size),
            k: self.k.holding(kv_bytes),
            v: self.v.holding(kv_bytes),
            out: self.out.holding(rows * hidden * size),
            q_item: self.q_item as u64,
            q_row: self.q_row as u64,
            kv_row: self.kv_row as u64,
            queries: self.queries as u32,
            keys: self.keys as u32,
            rows: rows as u32,
            scale_log2: scale_log2(constants.head_dim()),
        };
        let grid = [rows.div_ceil(WARPS), constants.heads, 1];
        // SAFETY: the sizes were checked above; a warp a row, and what there is of warps too many returns at once.
        unsafe { kernels.launch(kernels.attention_rows, grid, parameters, stream) }
    }
}

#[cfg(test)]
pub(crate) mod twin {
    use super::super::layer_norm::twin::warp_sum;
    use super::scale_log2;
    use crate::number::Number;

    /// One head of one query: `q` is `[head_dim]`, `k` and `v` are `[keys, head_dim]`.
    pub(crate) fn attention_row(q: &[f32], k: &[f32], v: &[f32], number: Number) -> Vec<f32> {
        let head_dim = q.len();
        let c = scale_log2(head_dim);
        let mut out = vec![0.0_f32; head_dim];
        let mut sums = [0.0_f32; 32];
        let mut highest = f32::NEG_INFINITY;
        for (keys, values) in k.chunks(32 * head_dim).zip(v.chunks(32 * head_dim)) {
            let dot = |key: &[f32]| q.iter().zip(key).fold(0.0_f32, |sum, (q, k)| q.mul_add(*k, sum));
            let mut scores = [f32::NEG_INFINITY; 32];
            for (score, key) in scores.iter_mut().zip(keys.chunks(head_dim)) {
                *score = dot(key) * c;
            }
            let now = scores.iter().copied().fold(highest, f32::max);
            let decay = (highest - now).exp2();
            highest = now;
            let weights = scores.map(|score| (score - now).exp2());
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = *sum * decay + weight;
            }
            for out in &mut out {
                *out *= decay;
            }
            for (weight, value) in weights.iter().zip(values.chunks(head_dim)) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out = weight.mul_add(*value, *out);
                }
            }
        }
        let total = warp_sum(sums);
        out.iter().map(|out| number.round(out / total)).collect()
    }
}
