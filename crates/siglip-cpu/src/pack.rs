//! Weights in the order in which the kernels read them.
//!
//! A linear layer `y = x Wᵀ + b` with `W` of shape `[columns, k]` is packed into panels of neighbouring columns. A
//! panel of `vectors` vectors is `[steps][vectors][LANES][STEP]`: at each step over k the kernel loads whole vectors,
//! one after the other, and each lane holds `STEP` consecutive values of one column.

use std::sync::Mutex;

use siglip::weights::{Linear, Tensor};

use crate::buffer::Buffer;
use crate::path::{CHUNK, Layout, Path, lanes, steps};

/// A linear layer, packed.
pub(crate) struct Packed<P: Path> {
    weights: Buffer<P::Weight>,
    /// `columns` values padded with zeroes to whole vectors.
    bias: Buffer<f32>,
    /// For quantised paths: each column's scale and the sum of its stored weights, padded like the bias.
    scales: Buffer<f32>,
    sums: Buffer<f32>,
    panels: Vec<Panel>,
    /// The inner dimension, in the kernel's steps.
    steps: usize,
    columns: usize,
}

/// One panel of a [`Packed`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    /// Its first value among the weights.
    start: usize,
    /// Its first column.
    pub(crate) column: usize,
    /// Its width in vectors.
    pub(crate) vectors: usize,
}

/// Part of a layer's columns: the rows `rows` of `linear`'s weight.
#[derive(Clone)]
pub(crate) struct Columns<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
    pub(crate) rows: std::ops::Range<usize>,
}

impl<'a> From<&'a Linear> for Columns<'a> {
    fn from(linear: &'a Linear) -> Self {
        let rows = 0..linear.weight.shape().first().copied().unwrap_or(0);
        Columns { weight: &linear.weight, bias: &linear.bias, rows }
    }
}

impl<P: Path> Packed<P> {
    /// Packs the columns of all `parts` side by side, on `threads` threads, and lets go of the file's pages behind
    /// them.
    pub(crate) fn new(parts: &[Columns<'_>], threads: usize) -> std::io::Result<Self> {
        let k = parts.first().map_or(0, |part| inner_size(part.weight));
        let columns: usize = parts.iter().map(|part| part.rows.len()).sum();
        let steps = steps::<P>(k);

        let mut panels = Vec::new();
        let (mut start, mut column) = (0, 0);
        for vectors in panel_widths::<P>(columns) {
            panels.push(Panel { start, column, vectors });
            start += steps * vectors * lanes::<P>() * P::STEP;
            column += vectors * lanes::<P>();
        }

        let mut bias = Buffer::zeroed(column)?;
        let mut filled = 0;
        for part in parts {
            let len = part.rows.len();
            part.bias.copy_f32(part.rows.start, &mut bias.as_mut_slice()[filled..filled + len]);
            filled += len;
        }

        let mut weights = Buffer::zeroed(start)?;
        let (mut scales, mut sums) = (Buffer::zeroed(column)?, Buffer::zeroed(column)?);
        let mut packing = Vec::with_capacity(panels.len());
        {
            let (mut weights, mut scales, mut sums) =
                (weights.as_mut_slice(), scales.as_mut_slice(), sums.as_mut_slice());
            for panel in &panels {
                let width = panel.vectors * lanes::<P>();
                packing.push(Packing {
                    column: panel.column,
                    weights: take(&mut weights, steps * width * P::STEP),
                    scales: take(&mut scales, width),
                    sums: take(&mut sums, width),
                });
            }
        }
        pack_panels::<P>(parts, k, packing, threads);
        for part in parts {
            part.weight.release();
        }
        Ok(Packed { weights, bias, scales, sums, panels, steps, columns })
    }

    /// Columns of the layer, without padding.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    pub(crate) fn panels(&self) -> &[Panel] {
        &self.panels
    }

    /// Bytes of one panel.
    pub(crate) fn panel_bytes(&self, panel: Panel) -> usize {
        self.steps * self.step_bytes(panel)
    }

    /// Where part `part` of `parts` of the inner dimension begins, in steps: for tile units at whole tiles.
    pub(crate) fn boundary(&self, part: usize, parts: usize) -> usize {
        let unit = match P::LAYOUT {
            Layout::Rows => 1,
            Layout::Blocks => CHUNK / size_of::<P::Activation>() / P::STEP,
        };
        self.steps / unit * part / parts * unit + if part == parts { self.steps % unit } else { 0 }
    }

    /// Bytes of one step of a panel.
    pub(crate) fn step_bytes(&self, panel: Panel) -> usize {
        panel.vectors * lanes::<P>() * P::STEP * size_of::<P::Weight>()
    }

    /// A panel's weights from a step on.
    pub(crate) fn panel_weights(&self, panel: Panel, step: usize) -> *const P::Weight {
        debug_assert!(step <= self.steps);
        self.weights.as_ptr().wrapping_add(panel.start + step * panel.vectors * lanes::<P>() * P::STEP)
    }

    /// The bias of a panel's columns.
    pub(crate) fn panel_bias(&self, panel: Panel) -> *const f32 {
        self.bias.as_ptr().wrapping_add(panel.column)
    }

    /// The scales of a panel's columns.
    pub(crate) fn panel_scales(&self, panel: Panel) -> *const f32 {
        self.scales.as_ptr().wrapping_add(panel.column)
    }

    /// The sums of the stored weights of a panel's columns.
    pub(crate) fn panel_sums(&self, panel: Panel) -> *const f32 {
        self.sums.as_ptr().wrapping_add(panel.column)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.weights.bytes() + self.bias.bytes()
    }
}

/// The widths, in vectors, of the panels that cover `columns` columns: as wide as the path allows, the rest spread so
/// that little is padded and no panel is so narrow that its few accumulators wait for one another.
pub(crate) fn panel_widths<P: Path>(columns: usize) -> impl Iterator<Item = usize> + Clone {
    let vectors = columns.div_ceil(lanes::<P>());
    let widest = P::MAX_VECTORS;
    let tail: &[usize] = match (widest, vectors % widest) {
        // 17 = 4 + 4 + 3 + 3 + 3, 18 = 4 + 4 + 4 + 3 + 3: three vectors by eight rows fill the registers as well.
        (4, 1) if vectors >= 9 => &[3, 3, 3],
        (4, 1) if vectors == 5 => &[3, 2],
        (4, 1) => &[1],
        (4, 2) if vectors >= 6 => &[3, 3],
        (4, 2) => &[2],
        (4, 3) => &[3],
        (2, 1) => &[1],
        _ => &[],
    };
    let wide = (vectors - tail.iter().sum::<usize>()) / widest;
    std::iter::repeat_n(widest, wide).chain(tail.iter().copied())
}

/// Values of one row of a weight: the product of all dimensions but the first.
fn inner_size(weight: &Tensor) -> usize {
    weight.shape().iter().skip(1).product()
}

/// A panel to be filled.
struct Packing<'a, P: Path> {
    /// Its first column.
    column: usize,
    weights: &'a mut [P::Weight],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

/// Splits the first `len` values off.
fn take<'a, T>(slice: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(slice).split_at_mut(len);
    *slice = rest;
    first
}

/// Fills all panels, each by one thread at a time.
fn pack_panels<P: Path>(parts: &[Columns<'_>], k: usize, panels: Vec<Packing<'_, P>>, threads: usize) {
    let work = Mutex::new(panels.into_iter());
    let next = || work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let run = || {
        let mut row = vec![0.0; k];
        while let Some(panel) = next() {
            pack_panel(parts, panel, &mut row);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
}

/// Steps that are copied before the next column's turn: the part of the panel that they touch stays in L1.
const STEPS_AT_ONCE: usize = 64;

fn pack_panel<P: Path>(parts: &[Columns<'_>], panel: Packing<'_, P>, row: &mut [f32]) {
    let Packing { column: first_column, weights: destination, scales, sums } = panel;
    let width = scales.len();
    let step_len = width * P::STEP;
    let steps = steps::<P>(row.len());
    let mut converted = vec![P::Weight::default(); width * steps * P::STEP];
    for (column, converted) in converted.chunks_exact_mut((steps * P::STEP).max(1)).enumerate() {
        let Some((part, source)) = locate(parts, first_column + column) else { break };
        part.weight.copy_f32(source * row.len(), row);
        let scale = P::convert(row, converted);
        (scales[column], sums[column]) = (scale.scale, scale.sum);
    }
    for first in (0..steps).step_by(STEPS_AT_ONCE) {
        let block = first..(first + STEPS_AT_ONCE).min(steps);
        for (column, converted) in converted.chunks_exact(steps * P::STEP).enumerate() {
            let source = &converted[block.start * P::STEP..block.end * P::STEP];
            let target = &mut destination[block.start * step_len + column * P::STEP..block.end * step_len];
            // One size each: copies of a length that is only known at run time would each be a call.
            match P::STEP {
                1 => scatter::<1, _>(source, target, step_len),
                2 => scatter::<2, _>(source, target, step_len),
                4 => scatter::<4, _>(source, target, step_len),
                8 => scatter::<8, _>(source, target, step_len),
                step => unreachable!("no path takes {step} values at a step"),
            }
        }
    }
}

/// Copies groups of `N` neighbours to places `stride` apart.
fn scatter<const N: usize, T: Copy>(source: &[T], target: &mut [T], stride: usize) {
    for (from, to) in source.as_chunks::<N>().0.iter().zip(target.chunks_mut(stride)) {
        if let Some(to) = to.first_chunk_mut::<N>() {
            *to = *from;
        }
    }
}

/// The part and the row of its weight that hold a column; none for the padding.
fn locate<'a, 'b>(parts: &'a [Columns<'b>], mut column: usize) -> Option<(&'a Columns<'b>, usize)> {
    for part in parts {
        if column < part.rows.len() {
            return Some((part, part.rows.start + column));
        }
        column -= part.rows.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::F32;
    use crate::simd::Portable;

    #[test]
    fn panels_cover_all_columns_and_pad_less_than_a_vector() {
        fn check<P: Path>() {
            for columns in 1..700 {
                let widths: Vec<usize> = panel_widths::<P>(columns).collect();
                assert!(widths.iter().all(|&width| (1..=P::MAX_VECTORS).contains(&width)));
                assert_eq!(widths.iter().sum::<usize>(), columns.div_ceil(lanes::<P>()), "{columns}");
            }
        }
        check::<F32<Portable>>();
        #[cfg(target_arch = "x86_64")]
        {
            check::<F32<crate::simd::Avx2>>();
            check::<crate::path::Bf16<crate::dot::Vdpbf16ps>>();
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_mlp_of_so400m_is_covered_without_padding() {
        let widths: Vec<usize> = panel_widths::<crate::path::Bf16<crate::dot::Vdpbf16ps>>(4304).collect();
        assert_eq!((widths.len(), &widths[65..]), (68, &[3, 3, 3][..]));
    }
}
