//! A linear layer over many rows on all threads.

use std::ops::Range;

use crate::epilogue::Epilogue;
use crate::gemm::{Part, Product};
use crate::kernels::Kernels;
use crate::pack::{Packed, Panel};
use crate::path::{BLOCK, Layout, Path, RowScale, inner_layout, lanes};
use crate::share::{Claims, Counter, Teams};
use crate::threads::Worker;

/// Rows of activations in memory: `[rows, k]` in the path's layout, rows `stride` values long.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T> {
    pub(crate) first: *const T,
    pub(crate) stride: usize,
    pub(crate) count: usize,
    /// For quantised paths: how the rows read.
    pub(crate) scales: *const RowScale,
}

/// Where a layer's output goes and what is done on the way. Pointers are to the first row's first column; strides in
/// values.
#[derive(Clone, Copy)]
pub(crate) enum Target<A> {
    /// `out = x Wᵀ + b`, row after row, for attention.
    Store { out: *mut A, stride: usize },
    /// `out = gelu(x Wᵀ + b)`, for another layer, in the layout that it reads.
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

/// The most bytes of a panel that one pass over the rows takes when the output is accumulated: panels of the second MLP
/// product would not stay in L2 beside the rows otherwise.
const PANEL_BYTES: usize = 320 << 10;

/// For tile units: the most bytes of a panel's part. It is to stay in L1 while the rows' blocks pass by as a stream.
const PART_BYTES: usize = 40 << 10;
/// Fewer blocks of rows than this do not pay for carrying sums from part to part.
const BLOCKS_OF_PARTS: usize = 4;
/// Rows of so many bytes do not stay in L2, so a group of panels takes its turn over each part of them: as many as may carry
/// so many bytes of sums, and no more than leave each thread a few groups.
const ROW_BYTES: usize = 1 << 20;
const CARRIED_BYTES: usize = 512 << 10;
const PANELS_OF_A_GROUP: usize = 12;

/// Sums that one panel carries from part to part over some rows: a u32 for each.
fn panel_sums<P: Path>(rows: usize) -> usize {
    rows.next_multiple_of(BLOCK) * P::MAX_VECTORS * lanes::<P>()
}

/// Panels that may be a group over some rows.
fn largest_group<P: Path>(rows: usize) -> usize {
    (CARRIED_BYTES / (panel_sums::<P>(rows) * size_of::<u32>()).max(1)).clamp(1, PANELS_OF_A_GROUP)
}

/// Memory that one thread needs for layers over at most `rows` rows of at most `k` values: for sums that it carries from part
/// to part, or for a panel in f32.
pub(crate) fn workspace_size<P: Kernels>(rows: usize, k: usize) -> usize {
    match P::LAYOUT {
        Layout::Rows if P::WIDENED => k * P::MAX_VECTORS * lanes::<P>(),
        Layout::Rows => 0,
        Layout::Blocks => {
            let sums = |rows| largest_group::<P>(rows) * panel_sums::<P>(rows);
            (0..=rows.div_ceil(BLOCK)).map(|blocks| sums(blocks * BLOCK)).max().unwrap_or(0)
        }
    }
}

/// The parts of a panel that pass through a tile unit one after the other; elsewhere it is one.
fn parts_in_l1<P: Path>(packed: &Packed<P>, panel: Panel) -> usize {
    match P::LAYOUT {
        Layout::Rows => 1,
        Layout::Blocks => packed.panel_bytes(panel).div_ceil(PART_BYTES).max(1),
    }
}

impl<P: Kernels> Layer<'_, P> {
    /// This thread's part of the phase, whose counters are given; `workspace` is its memory of [`workspace_size`].
    ///
    /// # Safety
    ///
    /// The pointers in `input` and `target` must be valid for the layer's sizes (widths padded to whole vectors),
    /// nobody else may touch the target during the phase, and the machine must have the path's instructions.
    pub(crate) unsafe fn run(&self, worker: &Worker<'_>, counters: &[Counter], workspace: *mut u32) {
        let teams = Teams::new::<P>(self.input.count, worker.threads());
        for claims in teams.in_turn(worker, counters) {
            let rows = teams.part(claims.team, self.input.count, grain::<P>());
            let group = self.panels_of_a_group(rows.len(), claims.members);
            let groups = self.packed.panels().len().div_ceil(group);
            // Groups are not cut: what they gain is that many rows pass by.
            let whole = worker.threads() == 1 || group > 1;
            let units = Units::new(groups, rows, claims.members, whole, grain::<P>());
            let mut unit = claims.first();
            while unit < units.count() {
                // Whole panels are claimed one ahead, so that the next can be fetched meanwhile; towards the end a
                // claim held back would leave the other threads idle, and what comes next is only guessed.
                let claimed = units.is_whole(unit).then(|| claims.next());
                let ahead = self.ahead(&units, group, unit, claimed, &claims);
                let (panels, row, rows) = units.part(unit);
                let panels = panels * group..((panels + 1) * group).min(self.packed.panels().len());
                // SAFETY: the caller's contract.
                unsafe { self.unit(panels, row, rows, workspace, ahead) };
                unit = claimed.unwrap_or_else(|| claims.next());
            }
        }
    }

    /// How many panels are one unit.
    fn panels_of_a_group(&self, rows: usize, members: usize) -> usize {
        let bytes = rows * self.packed.steps() * P::STEP * size_of::<P::Activation>();
        if P::LAYOUT == Layout::Rows || bytes <= ROW_BYTES {
            return 1;
        }
        // As many groups for each thread, so that none waits long for the last.
        let (panels, largest) = (self.packed.panels().len(), largest_group::<P>(rows));
        let turns = panels.div_ceil(largest * members).max(1);
        panels.div_ceil(turns * members).clamp(1, largest)
    }

    /// The memory to fetch during a unit: that of the unit expected next.
    fn ahead(
        &self,
        units: &Units,
        group: usize,
        unit: usize,
        claimed: Option<usize>,
        claims: &Claims<'_>,
    ) -> (*const u8, usize) {
        let panels = self.packed.panels();
        let (now, ..) = units.part(unit);
        let next = claimed.unwrap_or(unit + claims.members);
        // Its first part: the others are fetched while the part before each is computed.
        let first_part = |packed: &Packed<P>, panel: Panel| {
            let steps = packed.boundary(1, parts_in_l1(packed, panel));
            (packed.panel_weights(panel, 0).cast(), packed.step_bytes(panel) * steps)
        };
        if next < units.count() {
            let (mut then, ..) = units.part(next);
            if then == now {
                then += 1;
            }
            if let Some(&panel) = panels.get(then * group) {
                return first_part(self.packed, panel);
            }
        }
        match self.next.and_then(|next| Some((next, *next.panels().get(claims.member)?))) {
            Some((next, panel)) => first_part(next, panel),
            None => (std::ptr::null(), 0),
        }
    }

    /// Some panels' columns for some rows: each part of the inner dimension for all of them before the next part.
    unsafe fn unit(
        &self,
        panels: Range<usize>,
        row: usize,
        rows: usize,
        workspace: *mut u32,
        ahead: (*const u8, usize),
    ) {
        let Some(panels) = self.packed.panels().get(panels) else { return };
        let Some(&widest) = panels.first() else { return };
        let parts = self.parts(widest, rows);
        let boundary = |part: usize| self.packed.boundary(part, parts);
        let carried_stride = panel_sums::<P>(rows);
        for part in 0..parts {
            let (start, end) = (boundary(part), boundary(part + 1));
            for (i, &panel) in panels.iter().enumerate() {
                let following = match panels.get(i + 1) {
                    Some(&panel) => Some((panel, start, end)),
                    None if part + 1 < parts => Some((widest, end, boundary(part + 2))),
                    None => None,
                };
                let ahead = following.map_or(ahead, |(panel, start, end)| {
                    let bytes = self.packed.step_bytes(panel) * (end - start);
                    (self.packed.panel_weights(panel, start).cast(), bytes)
                });
                let activations = P::LAYOUT.row::<P::Activation>(row, self.input.stride)
                    + P::LAYOUT.column::<P::Activation>(start * P::STEP);
                // SAFETY: the unit's rows and the panel's columns are inside input and target, the caller vouches for
                // those; parts divide the panel's steps.
                unsafe {
                    P::multiply(&Product {
                        activations: self.input.first.add(activations),
                        row_stride: self.input.stride,
                        rows,
                        panel: self.packed.panel_weights(panel, start),
                        steps: end - start,
                        vectors: panel.vectors,
                        widened: if P::WIDENED { workspace.cast() } else { std::ptr::null_mut() },
                        row_scales: self.input.scales.wrapping_add(row),
                        column_scales: self.packed.panel_scales(panel),
                        column_sums: self.packed.panel_sums(panel),
                        part: Part {
                            carried: workspace.wrapping_add(i * carried_stride),
                            first: part == 0,
                            last: part + 1 == parts,
                        },
                        epilogue: self.epilogue(panel, row, part == 0),
                        prefetch: ahead.0,
                        prefetch_bytes: ahead.1,
                    });
                }
            }
        }
    }

    /// Into how many parts the inner dimension is divided. Without a tile unit, rounding depends on it: then it must be a
    /// constant of the layer, and is more than one only where the target is accumulated anyway.
    fn parts(&self, panel: Panel, rows: usize) -> usize {
        // As they are multiplied.
        let bytes = self.packed.panel_bytes(panel) * if P::WIDENED { 2 } else { 1 };
        match (P::LAYOUT, self.target) {
            (Layout::Blocks, _) if rows.div_ceil(BLOCK) >= BLOCKS_OF_PARTS => parts_in_l1(self.packed, panel),
            // An offset is added with the sum of whole columns, so quantised products stay whole; their panels are
            // half as large.
            (Layout::Rows, Target::Accumulate { .. }) if !P::QUANTIZED => bytes.div_ceil(PANEL_BYTES).max(1),
            _ => 1,
        }
    }

    unsafe fn epilogue(&self, panel: Panel, row: usize, first_part: bool) -> Epilogue<P> {
        let bias = self.packed.panel_bias(panel);
        let column = panel.column;
        // SAFETY: the row and the column are inside the target: the caller's contract.
        unsafe {
            match self.target {
                Target::Store { out, stride } => {
                    Epilogue::Store { bias, out: out.add(row * stride + column), stride }
                }
                Target::Gelu { out, stride } => {
                    let layout = inner_layout::<P>();
                    let at = layout.row::<P::Inner>(row, stride) + layout.column::<P::Inner>(column);
                    Epilogue::Gelu { bias, out: out.add(at), stride }
                }
                Target::Accumulate { out, stride } => {
                    // Where sums are carried, the epilogue comes once.
                    let first = first_part || P::LAYOUT == Layout::Blocks;
                    let bias = if first { bias } else { std::ptr::null() };
                    Epilogue::Accumulate { bias, out: out.add(row * stride + column), stride }
                }
                Target::StoreF32 { out, stride } => {
                    Epilogue::StoreF32 { bias, out: out.add(row * stride + column), stride }
                }
            }
        }
    }
}

/// Rows between which a team's rows may begin: those that a product takes at a time (where panels are three vectors wide
/// it takes 8), or a block.
pub(crate) fn grain<P: Path>() -> usize {
    if P::LAYOUT == Layout::Blocks { BLOCK } else { 6 }
}

/// How a team's part of a phase is cut: whole panels (or groups of them) first, then the last in blocks of rows, so that
/// all threads end together.
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
    fn new(panels: usize, rows: Range<usize>, members: usize, whole: bool, grain: usize) -> Self {
        if whole {
            return Units { whole: panels, panels, block: rows.len(), blocks: 1, rows };
        }
        // A multiple of what the kernels take at a time: 6 and 8 rows, or a block.
        let grain = if grain == BLOCK { BLOCK } else { 4 * grain };
        let cut = panels.min(2 * members);
        // Enough units for every thread to get several, however few panels there are.
        let blocks = (6 * members).div_ceil(cut.max(1)).max(3);
        let block = rows.len().div_ceil(blocks).next_multiple_of(grain).min(rows.len().max(1));
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
            for (rows, grain) in
                [0..1, 0..2, 6..11, 0..24, 252..277, 0..64, 258..769, 0..512, 6..735, 64..729]
                    .map(|rows| (rows, 6))
                    .into_iter()
                    .chain([0..1, 0..64, 32..729, 0..512].map(|rows| (rows, BLOCK)))
            {
                for (members, whole) in
                    [(1, true), (1, false), (2, false), (3, false), (8, false), (64, false)]
                {
                    let units = Units::new(panels, rows.clone(), members, whole, grain);
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
