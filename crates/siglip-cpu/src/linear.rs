//! A linear layer over many rows on all threads.

use std::ops::Range;

use crate::gemm::{Epilogue, Product};
use crate::kernels::Kernels;
use crate::pack::{Packed, Panel};
use crate::path::RowScale;
use crate::share::{Claims, Counter, Teams};
use crate::threads::Worker;

/// Rows of activations in memory: `[rows, k]`, `stride` values from row to row.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T> {
    pub(crate) first: *const T,
    pub(crate) stride: usize,
    pub(crate) count: usize,
    /// For quantised paths: how the first row reads, `scale_stride` scales from row to row.
    pub(crate) scales: *const RowScale,
    pub(crate) scale_stride: usize,
}

/// Where a layer's output goes and what is done on the way. Pointers are to the first row's first column; strides in
/// values.
#[derive(Clone, Copy)]
pub(crate) enum Target<A> {
    /// `out = x Wᵀ + b`, for another product.
    Store { out: *mut A, stride: usize },
    /// `out = gelu(x Wᵀ + b)`, for another product.
    Gelu { out: *mut A, stride: usize },
    /// `out += x Wᵀ + b`, in f32.
    Accumulate { out: *mut f32, stride: usize },
    /// `out = x Wᵀ + b`, in f32.
    StoreF32 { out: *mut f32, stride: usize },
}

/// A layer applied to rows: one phase of a forward pass.
pub(crate) struct Layer<'a, P: Kernels> {
    pub(crate) packed: &'a Packed<P>,
    pub(crate) input: Rows<P::Activation>,
    pub(crate) target: Target<P::Inner>,
    /// The layer whose turn comes next: its first panels are fetched while this one ends.
    pub(crate) next: Option<&'a Packed<P>>,
}

/// The most steps of k that one pass over a panel takes when the output is accumulated: panels of the second MLP
/// product would not stay in L2 beside the rows otherwise.
const PANEL_BYTES: usize = 320 << 10;

impl<P: Kernels> Layer<'_, P> {
    /// This thread's part of the phase, whose counters are given.
    ///
    /// # Safety
    ///
    /// The pointers in `input` and `target` must be valid for the layer's sizes (widths padded to whole vectors),
    /// nobody else may touch the target during the phase, and the machine must have the path's instructions.
    pub(crate) unsafe fn run(&self, worker: &Worker<'_>, counters: &[Counter]) {
        let teams = Teams::new(self.input.count, worker.threads());
        for claims in teams.in_turn(worker, counters) {
            let rows = teams.part(claims.team, self.input.count, ROWS_OF_A_BLOCK);
            let units = Units::new(self.packed.panels().len(), rows, claims.members, worker.threads() == 1);
            let mut unit = claims.first();
            while unit < units.count() {
                // Whole panels are claimed one ahead, so that the next can be fetched meanwhile; towards the end a
                // claim held back would leave the other threads idle, and what comes next is only guessed.
                let claimed = units.is_whole(unit).then(|| claims.next());
                let ahead = self.ahead(&units, unit, claimed, &claims);
                // SAFETY: the caller's contract.
                unsafe { self.unit(&units, unit, ahead) };
                unit = claimed.unwrap_or_else(|| claims.next());
            }
        }
    }

    /// The memory to fetch during a unit: that of the unit expected next.
    fn ahead(
        &self,
        units: &Units,
        unit: usize,
        claimed: Option<usize>,
        claims: &Claims<'_>,
    ) -> (*const u8, usize) {
        let panels = self.packed.panels();
        let (now, ..) = units.part(unit);
        let next = claimed.unwrap_or(unit + claims.members);
        if next < units.count() {
            let (mut then, ..) = units.part(next);
            if then == now {
                then += 1;
            }
            if let Some(&panel) = panels.get(then) {
                return (self.packed.panel_weights(panel, 0).cast(), self.packed.panel_bytes(panel));
            }
        }
        match self.next.and_then(|next| Some((next, *next.panels().get(claims.member)?))) {
            Some((next, panel)) => (next.panel_weights(panel, 0).cast(), next.panel_bytes(panel)),
            None => (std::ptr::null(), 0),
        }
    }

    /// One panel's columns for some rows.
    unsafe fn unit(&self, units: &Units, unit: usize, ahead: (*const u8, usize)) {
        let (panel, row, rows) = units.part(unit);
        let Some(&panel) = self.packed.panels().get(panel) else { return };
        let pieces = self.pieces(panel);
        let steps = self.packed.steps();
        for piece in 0..pieces {
            let (start, end) = (steps * piece / pieces, steps * (piece + 1) / pieces);
            let ahead = if piece + 1 < pieces {
                let bytes = self.packed.step_bytes(panel) * (steps * (piece + 2) / pieces - end);
                (self.packed.panel_weights(panel, end).cast(), bytes)
            } else {
                ahead
            };
            // SAFETY: the unit's rows and the panel's columns are inside input and target, the caller vouches for
            // those; pieces divide the panel's steps.
            unsafe {
                P::multiply(&Product {
                    activations: self.input.first.add(row * self.input.stride + start * P::STEP),
                    row_stride: self.input.stride,
                    rows,
                    panel: self.packed.panel_weights(panel, start),
                    steps: end - start,
                    vectors: panel.vectors,
                    row_scales: self.input.scales.wrapping_add(row * self.input.scale_stride),
                    row_scale_stride: self.input.scale_stride,
                    column_scales: self.packed.panel_scales(panel),
                    column_sums: self.packed.panel_sums(panel),
                    epilogue: self.epilogue(panel, row, piece == 0),
                    prefetch: ahead.0,
                    prefetch_bytes: ahead.1,
                });
            }
        }
    }

    /// Into how many parts k is divided: more than one only where the target is accumulated anyway. A constant of the
    /// layer: rows must not depend on it.
    fn pieces(&self, panel: Panel) -> usize {
        match self.target {
            // An offset is added with the sum of whole columns, so quantised products stay whole; their panels are
            // half as large.
            Target::Accumulate { .. } if !P::QUANTIZED => {
                self.packed.panel_bytes(panel).div_ceil(PANEL_BYTES).max(1)
            }
            _ => 1,
        }
    }

    unsafe fn epilogue(&self, panel: Panel, row: usize, first_piece: bool) -> Epilogue<P> {
        let bias = self.packed.panel_bias(panel);
        let column = panel.column;
        // SAFETY: the row and the column are inside the target: the caller's contract.
        unsafe {
            match self.target {
                Target::Store { out, stride } => {
                    Epilogue::Store { bias, out: out.add(row * stride + column), stride }
                }
                Target::Gelu { out, stride } => {
                    Epilogue::Gelu { bias, out: out.add(row * stride + column), stride }
                }
                Target::Accumulate { out, stride } => {
                    let bias = if first_piece { bias } else { std::ptr::null() };
                    Epilogue::Accumulate { bias, out: out.add(row * stride + column), stride }
                }
                Target::StoreF32 { out, stride } => {
                    Epilogue::StoreF32 { bias, out: out.add(row * stride + column), stride }
                }
            }
        }
    }
}

/// Rows that a product takes at a time; where panels are three vectors wide it takes 8.
const ROWS_OF_A_BLOCK: usize = 6;

/// How a team's part of a phase is cut: whole panels first, then the last panels in blocks of rows, so that all threads
/// end together.
#[derive(Clone, Debug)]
struct Units {
    /// Panels that are one unit each.
    whole: usize,
    panels: usize,
    rows: Range<usize>,
    /// Rows of a block of the other panels.
    block: usize,
    /// Blocks of one of the other panels.
    blocks: usize,
}

impl Units {
    fn new(panels: usize, rows: Range<usize>, members: usize, alone: bool) -> Self {
        // A multiple of the 6 and 8 rows that the kernels take at a time.
        const GRAIN: usize = 24;
        if alone {
            return Units { whole: panels, panels, block: rows.len(), blocks: 1, rows };
        }
        let cut = panels.min(2 * members);
        // Enough units for every thread to get several, however few panels there are.
        let blocks = (6 * members).div_ceil(cut.max(1)).max(3);
        let block = rows.len().div_ceil(blocks).next_multiple_of(GRAIN).min(rows.len().max(1));
        Units { whole: panels - cut, panels, block, blocks: rows.len().div_ceil(block), rows }
    }

    fn count(&self) -> usize {
        self.whole + (self.panels - self.whole) * self.blocks
    }

    fn is_whole(&self, unit: usize) -> bool {
        unit < self.whole
    }

    /// A unit's panel, first row and number of rows.
    fn part(&self, unit: usize) -> (usize, usize, usize) {
        if unit < self.whole {
            return (unit, self.rows.start, self.rows.len());
        }
        let (panel, block) = ((unit - self.whole) / self.blocks, (unit - self.whole) % self.blocks);
        let row = self.rows.start + block * self.block;
        (self.whole + panel, row, self.block.min(self.rows.end - row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_every_row_of_every_panel_once() {
        for panels in [1, 2, 3, 9, 54, 68] {
            for rows in [0..1, 0..2, 6..11, 0..24, 252..277, 0..64, 258..769, 0..512, 6..735] {
                for (members, alone) in
                    [(1, true), (1, false), (2, false), (3, false), (8, false), (64, false)]
                {
                    let units = Units::new(panels, rows.clone(), members, alone);
                    let mut seen = vec![0; panels * rows.len()];
                    for unit in 0..units.count() {
                        let (panel, row, count) = units.part(unit);
                        assert!(count > 0, "{units:?} {unit}");
                        seen[panel * rows.len() + row - rows.start..][..count]
                            .iter_mut()
                            .for_each(|n| *n += 1);
                    }
                    assert!(seen.iter().all(|&n| n == 1), "{units:?}");
                }
            }
        }
    }
}
