//! The matrix product: activations times packed weights, with what follows fused into its end.
//!
//! # Scheme
//!
//! After Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), for the case at hand: the
//! right operand is constant, so it is packed once at load (see [`crate::pack`]) into panels of up to 64 columns in
//! the order in which the kernel reads it, and the left operand is small enough to be read row-major as it is.
//!
//! ```text
//! for each panel of columns                       a thread's unit of work; the panel stays in L2
//!   for each block of MR rows                     the rows' activations stay in L1
//!     acc[MR][NV] = 0                             24 of the 32 vector registers (AVX-512)
//!     for k in 0..K step STEP                     b = NV vectors of the panel, then MR broadcasts of the rows
//!       acc[r][v] += a[r][k..k+STEP] · b[v]       meanwhile fetched: the panel some steps on into L1, and into L2, evenly, the
//!                                                 panel that this thread will need next and the rows that it stores
//!     epilogue(acc)                               bias, GELU, residual, conversion: straight from registers
//! ```
//!
//! Where an instruction multiplies two rows at once (`bfmmla`), a block is MR / 2 pairs of rows, and a broadcast is one of
//! a pair. Panels are the same: two columns' groups are what such an instruction takes beside a pair. The last row of
//! an odd number is paired with itself.
//!
//! Every element of the result is one chain of additions over k in ascending order, whatever the block's height or
//! width, so a row's bits do not depend on which rows stand beside it.

use crate::epilogue::{Ending, Epilogue};
use crate::path::{Path, RowScale, lanes};

/// One panel of weights times some rows, with what becomes of the sums: a layer's [`Epilogue`], or attention's
/// [`RawSums`](crate::epilogue::RawSums).
#[derive(Clone, Copy)]
pub(crate) struct Product<P: Path, E = Epilogue<P>> {
    /// The first row, `[rows, k]` in the path's layout, rows `row_stride` values long. Values from k up to the next
    /// multiple of `STEP`, or end of a chunk, are read too: they must exist and be finite (their weights are zero).
    pub(crate) activations: *const P::Activation,
    pub(crate) row_stride: usize,
    pub(crate) rows: usize,
    /// The panel, `[steps][vectors][LANES][STEP]`.
    pub(crate) panel: *const P::Weight,
    pub(crate) steps: usize,
    /// The panel's width in vectors, 1 to `MAX_VECTORS`.
    pub(crate) vectors: usize,
    /// On paths that [widen](Path::WIDENED) weights: room for the panel in f32. Null elsewhere, or where each vector is to be
    /// widened as it is loaded.
    pub(crate) widened: *mut f32,
    /// For quantised paths, else null: how to read each row.
    pub(crate) row_scales: *const RowScale,
    /// For quantised paths, else null: the scales and sums of the panel's columns.
    pub(crate) column_scales: *const f32,
    pub(crate) column_sums: *const f32,
    /// Which part of the inner dimension this is, on paths that carry sums from part to part.
    pub(crate) part: Part,
    /// What is done with the sums, at the end of the last part.
    pub(crate) epilogue: E,
    /// Memory to fetch ahead while computing, its lines spread evenly over the product; null for none.
    pub(crate) prefetch: *const u8,
    pub(crate) prefetch_bytes: usize,
}

/// A part of the inner dimension. The sums of those before are carried over as they are, so where a part ends changes no
/// result.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 has a tile unit"))]
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Sums between the parts, a u32 for each value of a block of 32 rows and the panel's columns; null if there is one part.
    pub(crate) carried: *mut u32,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

impl Part {
    /// The inner dimension as a whole.
    pub(crate) const WHOLE: Part = Part { carried: std::ptr::null_mut(), first: true, last: true };
}

/// Computes one panel's columns for all rows of `product`.
///
/// # Safety
///
/// The pointers and sizes in `product` must describe memory that is valid as its fields say, the output must not be
/// touched by anybody else meanwhile, and the path's instructions must be enabled in the calling function.
#[inline(always)]
pub(crate) unsafe fn multiply<P: Path, E: Ending<P>>(product: &Product<P, E>) {
    // SAFETY: the caller's.
    unsafe { multiply_ordered::<P, E, false>(product) }
}

/// [`multiply`] for a left operand that lies step by step, `[steps][row_stride][STEP]`, instead of row by row.
///
/// # Safety
///
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_steps<P: Path, E: Ending<P>>(product: &Product<P, E>) {
    // SAFETY: the caller's.
    unsafe { multiply_ordered::<P, E, true>(product) }
}

#[inline(always)]
unsafe fn multiply_ordered<P: Path, E: Ending<P>, const STEPS: bool>(product: &Product<P, E>) {
    // Conditions are `const` where they can be: what is excluded so is not even translated, and there is a lot of it.
    // SAFETY: the caller's contract is handed on; widths above a path's maximum are never packed.
    unsafe {
        if const { P::ROWS == 2 } {
            return match product.vectors {
                4 => all_rows::<P, E, STEPS, 3, 4>(product),
                3 => all_rows::<P, E, STEPS, 4, 3>(product),
                2 => all_rows::<P, E, STEPS, 3, 2>(product),
                _ => all_rows::<P, E, STEPS, 3, 1>(product),
            };
        }
        if const { P::MAX_VECTORS >= 4 } {
            match product.vectors {
                4 => return all_rows::<P, E, STEPS, 6, 4>(product),
                3 => return all_rows::<P, E, STEPS, 8, 3>(product),
                _ => {}
            }
        }
        if const { P::MAX_VECTORS >= 2 } && product.vectors == 2 {
            return all_rows::<P, E, STEPS, 6, 2>(product);
        }
        all_rows::<P, E, STEPS, 6, 1>(product)
    }
}

/// The first rows of [`multiply`], on paths that [widen](Path::WIDENED) weights, which are kept as they are widened; how many
/// rows that were. There must be a block of them ([`BLOCK_AND_KEEP`]).
///
/// # Safety
///
/// As for [`multiply`], with room for the panel at `product.widened`.
#[inline(always)]
pub(crate) unsafe fn multiply_and_keep<P: Path>(product: &Product<P>) -> usize {
    // SAFETY: the caller's contract is handed on.
    unsafe {
        if const { P::MAX_VECTORS >= 4 } {
            match product.vectors {
                4 => return first_block::<P, 6, 4>(product),
                3 => return first_block::<P, 8, 3>(product),
                _ => {}
            }
        }
        if const { P::MAX_VECTORS >= 2 } && product.vectors == 2 {
            return first_block::<P, 6, 2>(product);
        }
        first_block::<P, 6, 1>(product)
    }
}

/// No block of [`multiply_and_keep`] has more rows.
pub(crate) const BLOCK_AND_KEEP: usize = 8;

#[inline(always)]
unsafe fn first_block<P: Path, const MG: usize, const NV: usize>(product: &Product<P>) -> usize {
    const { assert!(MG <= BLOCK_AND_KEEP) };
    // SAFETY: the caller's contract.
    unsafe {
        block::<P, Epilogue<P>, false, true, MG, NV>(
            product,
            0,
            1,
            &mut Prefetch::new(std::ptr::null(), 0, 1),
        )
    };
    MG
}

/// Blocks of `MG` groups of [`Path::ROWS`] rows, then what is left in blocks of 4, 2 and 1, and last a row without its
/// group.
///
/// Half as wide as a panel may be, or less, is only what is left of few columns: there, what is left of the rows goes one by
/// one, and not as much has to be compiled.
#[inline(always)]
unsafe fn all_rows<P: Path, E: Ending<P>, const STEPS: bool, const MG: usize, const NV: usize>(
    product: &Product<P, E>,
) {
    let groups = product.rows / P::ROWS;
    let turns = groups.div_ceil(MG) * (product.steps / 2);
    let mut prefetch = Prefetch::new(product.prefetch, product.prefetch_bytes, turns);
    let mut group = 0;
    // SAFETY: `group + height <= groups` at every call, or there is one more row; the rest is the caller's contract.
    unsafe {
        while group + MG <= groups {
            block::<P, E, STEPS, false, MG, NV>(product, group * P::ROWS, P::ROWS, &mut prefetch);
            group += MG;
        }
        if const { 2 * NV > P::MAX_VECTORS && MG > 4 } && group + 4 <= groups {
            block::<P, E, STEPS, false, 4, NV>(product, group * P::ROWS, P::ROWS, &mut prefetch);
            group += 4;
        }
        if const { 2 * NV > P::MAX_VECTORS } && group + 2 <= groups {
            block::<P, E, STEPS, false, 2, NV>(product, group * P::ROWS, P::ROWS, &mut prefetch);
            group += 2;
        }
        while group < groups {
            block::<P, E, STEPS, false, 1, NV>(product, group * P::ROWS, P::ROWS, &mut prefetch);
            group += 1;
        }
        if const { P::ROWS > 1 } && groups * P::ROWS < product.rows {
            block::<P, E, STEPS, false, 1, NV>(product, groups * P::ROWS, 1, &mut prefetch);
        }
    }
}

/// `MG` groups of rows by `NV` vectors of columns: the sums in registers, then the epilogue. Of each group there are
/// `filled` rows: all, or one.
#[inline(always)]
unsafe fn block<
    P: Path,
    E: Ending<P>,
    const STEPS: bool,
    const KEEP: bool,
    const MG: usize,
    const NV: usize,
>(
    product: &Product<P, E>,
    row: usize,
    filled: usize,
    ahead: &mut Prefetch,
) {
    const { assert!(P::ROWS <= 2) };
    // SAFETY: the groups' rows exist, the panel holds `steps` groups of NV vectors: the caller's contract.
    unsafe {
        let (row_stride, step_stride) =
            if STEPS { (P::STEP, product.row_stride * P::STEP) } else { (product.row_stride, P::STEP) };
        let a = Groups {
            first: product.activations.add(row * row_stride),
            stride: P::ROWS * row_stride,
            row_stride: if filled == P::ROWS { row_stride } else { 0 },
            step_stride,
        };
        let mut output = product.epilogue.rows(row, product.vectors * lanes::<P>());
        let (fetches, rows) = product.epilogue.fetches(MG * P::ROWS);
        // What is due is looked up between loops and not in one: a loop over steps has no register to spare.
        let last = product.steps.saturating_sub(STEPS_AHEAD) / 2;
        let mut sums = [[P::zero_sum(); NV]; MG];
        let mut k = 0;
        for fetch in 0..=fetches {
            if fetch < fetches {
                output.fetch(rows);
            }
            let end = 2 * (last * (fetch + 1) / (fetches + 1));
            while k < end {
                ahead.turn();
                step::<P, E, KEEP, MG, NV>(&mut sums, a, product, k, STEPS_AHEAD as isize);
                step::<P, E, KEEP, MG, NV>(&mut sums, a, product, k + 1, STEPS_AHEAD as isize);
                k += 2;
            }
        }
        // Behind the last step comes the next block's first: the same of the panel, of other rows.
        let back = STEPS_AHEAD as isize - product.steps as isize;
        for group in 0..MG {
            prefetch_near(a.first.wrapping_add((MG + group) * a.stride), 1);
        }
        while k + 1 < product.steps {
            ahead.turn();
            step::<P, E, KEEP, MG, NV>(&mut sums, a, product, k, back);
            step::<P, E, KEEP, MG, NV>(&mut sums, a, product, k + 1, back);
            k += 2;
        }
        if k < product.steps {
            step::<P, E, KEEP, MG, NV>(&mut sums, a, product, k, back);
        }
        E::finish::<MG, NV>(product, row, 0, sums);
        if const { P::ROWS == 2 } && filled == 2 {
            E::finish::<MG, NV>(product, row + 1, 1, sums);
        }
    }
}

/// Where a block's activations are.
#[derive(Clone, Copy)]
struct Groups<T> {
    first: *const T,
    /// Values from group to group.
    stride: usize,
    /// Values from row to row within a group.
    row_stride: usize,
    /// Values from step to step.
    step_stride: usize,
}

/// Step `k` of a block; asks for the panel's lines `near` steps away.
#[inline(always)]
unsafe fn step<P: Path, E, const KEEP: bool, const MG: usize, const NV: usize>(
    sums: &mut [[P::Sum; NV]; MG],
    a: Groups<P::Activation>,
    product: &Product<P, E>,
    k: usize,
    near: isize,
) {
    // SAFETY: as for `block`.
    unsafe {
        let b = product.panel.add(k * NV * lanes::<P>() * P::STEP);
        // Loops and not `array::from_fn`: a closure is a function of its own, which has none of the features that
        // this one is compiled with, and where it is not inlined every vector goes through memory.
        if const { P::ROWS > 1 } {
            // A vector of weights is two registers here and a group of activations one, so these are held.
            let mut groups = [P::broadcast(a.first.add(k * a.step_stride), a.row_stride); MG];
            for (g, group) in groups.iter_mut().enumerate().skip(1) {
                *group = P::broadcast(a.first.add(g * a.stride + k * a.step_stride), a.row_stride);
            }
            for v in 0..NV {
                let weights = P::load_weights(b.add(v * lanes::<P>() * P::STEP));
                for (sums, group) in sums.iter_mut().zip(groups) {
                    sums[v] = P::step(group, weights, sums[v]);
                }
            }
            return;
        }
        let mut weights = [P::load_weights(b); NV];
        for (v, weights) in weights.iter_mut().enumerate().skip(1) {
            *weights = P::load_weights(b.add(v * lanes::<P>() * P::STEP));
        }
        let values = NV * lanes::<P>() * P::STEP;
        prefetch_near(b.wrapping_offset(near * values as isize), values);
        if KEEP {
            for (v, weights) in weights.iter().enumerate() {
                P::store_widened(product.widened.add((k * NV + v) * lanes::<P>()), *weights);
            }
        }
        for (g, sums) in sums.iter_mut().enumerate() {
            let a = P::broadcast(a.first.add(g * a.stride + k * a.step_stride), a.row_stride);
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = P::step(a, weights[v], *sum);
            }
        }
    }
}

/// Walks over memory that will be needed soon, a cache line at a time and evenly over the product: lines on their way take up
/// what those of the operands need on theirs from L2.
struct Prefetch {
    next: *const u8,
    end: *const u8,
    /// Turns from one line to the next, and those that are left until then.
    every: usize,
    left: usize,
}

const CACHE_LINE: usize = 64;

impl Prefetch {
    /// To be asked for in `turns` turns.
    #[inline(always)]
    fn new(start: *const u8, bytes: usize, turns: usize) -> Self {
        let every = (turns / bytes.div_ceil(CACHE_LINE).max(1)).max(1);
        Prefetch { next: start, end: start.wrapping_add(bytes), every, left: every }
    }

    /// One turn: asks for the next line, if it is time and one is left.
    #[inline(always)]
    fn turn(&mut self) {
        self.left -= 1;
        if self.left == 0 {
            self.left = self.every;
            if self.next < self.end {
                prefetch(self.next);
                self.next = self.next.wrapping_add(CACHE_LINE);
            }
        }
    }
}

/// Asks for the lines of `count` values into L2.
#[inline(always)]
pub(crate) fn prefetch_values<T>(first: *const T, count: usize) {
    for at in (0..count * size_of::<T>()).step_by(CACHE_LINE) {
        prefetch(first.cast::<u8>().wrapping_add(at));
    }
}

/// How many steps ahead a panel's lines are asked for into L1; the last of a block ask for those of the next block's first. An
/// Intel processor does not fetch them early enough by itself.
const STEPS_AHEAD: usize = 8;

/// Asks for the lines of `count` values into L1, on x86-64.
#[inline(always)]
fn prefetch_near<T>(first: *const T, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..count * size_of::<T>()).step_by(CACHE_LINE) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch is a hint that may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.cast::<i8>().wrapping_byte_add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, count);
}

/// Asks for a line into L2. Never faults, whatever the address.
#[inline(always)]
pub(crate) fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch is a hint that may name any address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch is a hint that may name any address.
    unsafe {
        core::arch::asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}
