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
//!       acc[r][v] += a[r][k..k+STEP] · b[v]       and one prefetch of the panel that this thread will need next
//!     epilogue(acc)                               bias, GELU, residual, conversion: straight from registers
//! ```
//!
//! Every element of the result is one chain of additions over k in ascending order, whatever the block's height or
//! width, so a row's bits do not depend on which rows stand beside it.

use crate::ops::gelu;
use crate::path::{ColumnScales, Path, RowScale, Vector, lanes};
use crate::simd::Simd;

/// One panel of weights times some rows.
#[derive(Clone, Copy)]
pub(crate) struct Product<P: Path> {
    /// The first row, `[rows, k]` with `row_stride` values from row to row. Values from k up to the next multiple of
    /// `STEP` are read too: they must exist and be finite (their weights are zero).
    pub(crate) activations: *const P::Activation,
    pub(crate) row_stride: usize,
    pub(crate) rows: usize,
    /// The panel, `[steps][vectors][LANES][STEP]`.
    pub(crate) panel: *const P::Weight,
    pub(crate) steps: usize,
    /// The panel's width in vectors, 1 to `MAX_VECTORS`.
    pub(crate) vectors: usize,
    /// For quantised paths, else null: how to read each row.
    pub(crate) row_scales: *const RowScale,
    pub(crate) row_scale_stride: usize,
    /// For quantised paths, else null: the scales and sums of the panel's columns.
    pub(crate) column_scales: *const f32,
    pub(crate) column_sums: *const f32,
    /// What is done with the sums.
    pub(crate) epilogue: Epilogue<P>,
    /// Memory to fetch ahead while computing, a cache line every other step; null for none.
    pub(crate) prefetch: *const u8,
    pub(crate) prefetch_bytes: usize,
}

/// What becomes of a product's sums. Pointers are to the panel's first column: `bias` there, `out` in the first row.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<P: Path> {
    /// `out = sum + bias`, stored for another product.
    Store { bias: *const f32, out: *mut P::Inner, stride: usize },
    /// `out = gelu(sum + bias)`, stored for another product.
    Gelu { bias: *const f32, out: *mut P::Inner, stride: usize },
    /// `out += sum + bias` in f32; without a bias (null) where the inner dimension is split and this is not its
    /// first part.
    Accumulate { bias: *const f32, out: *mut f32, stride: usize },
    /// `out = sum + bias` in f32; without a bias where it is null. Used for scores and for a tower's last product.
    StoreF32 { bias: *const f32, out: *mut f32, stride: usize },
    /// `out = sum` for another product, only the first `columns` of the panel.
    StoreFirst { out: *mut P::Inner, stride: usize, columns: usize },
}

/// Computes one panel's columns for all rows of `product`.
///
/// # Safety
///
/// The pointers and sizes in `product` must describe memory that is valid as its fields say, the output must not be
/// touched by anybody else meanwhile, and the path's instructions must be enabled in the calling function.
#[inline(always)]
pub(crate) unsafe fn multiply<P: Path>(product: &Product<P>) {
    // SAFETY: the caller's contract is handed on; widths above a path's maximum are never packed.
    unsafe {
        if P::MAX_VECTORS >= 4 {
            match product.vectors {
                4 => return all_rows::<P, 6, 4>(product),
                3 => return all_rows::<P, 8, 3>(product),
                _ => {}
            }
        }
        if P::MAX_VECTORS >= 2 && product.vectors == 2 {
            return all_rows::<P, 6, 2>(product);
        }
        all_rows::<P, 6, 1>(product)
    }
}

/// Blocks of `MR` rows, then what is left in blocks of 4, 2 and 1.
#[inline(always)]
unsafe fn all_rows<P: Path, const MR: usize, const NV: usize>(product: &Product<P>) {
    let mut prefetch = Prefetch::new(product.prefetch, product.prefetch_bytes);
    let mut row = 0;
    // SAFETY: `row + height <= rows` at every call; the rest is the caller's contract.
    unsafe {
        while row + MR <= product.rows {
            block::<P, MR, NV>(product, row, &mut prefetch);
            row += MR;
        }
        if MR > 4 && row + 4 <= product.rows {
            block::<P, 4, NV>(product, row, &mut prefetch);
            row += 4;
        }
        if row + 2 <= product.rows {
            block::<P, 2, NV>(product, row, &mut prefetch);
            row += 2;
        }
        if row < product.rows {
            block::<P, 1, NV>(product, row, &mut prefetch);
        }
    }
}

/// `MR` rows by `NV` vectors of columns: the sums in registers, then the epilogue.
#[inline(always)]
unsafe fn block<P: Path, const MR: usize, const NV: usize>(
    product: &Product<P>,
    row: usize,
    ahead: &mut Prefetch,
) {
    // SAFETY: rows row..row+MR exist, the panel holds `steps` groups of NV vectors: the caller's contract.
    unsafe {
        let a = product.activations.add(row * product.row_stride);
        let mut sums = [[P::zero_sum(); NV]; MR];
        let mut k = 0;
        while k + 2 <= product.steps {
            ahead.line();
            step::<P, MR, NV>(&mut sums, a, product.row_stride, product.panel, k);
            step::<P, MR, NV>(&mut sums, a, product.row_stride, product.panel, k + 1);
            k += 2;
        }
        if k < product.steps {
            step::<P, MR, NV>(&mut sums, a, product.row_stride, product.panel, k);
        }
        let values = values::<P, MR, NV>(product, row, sums);
        finish::<P, MR, NV>(&product.epilogue, row, values);
    }
}

#[inline(always)]
unsafe fn step<P: Path, const MR: usize, const NV: usize>(
    sums: &mut [[P::Sum; NV]; MR],
    a: *const P::Activation,
    row_stride: usize,
    panel: *const P::Weight,
    k: usize,
) {
    // SAFETY: as for `block`.
    unsafe {
        let b = panel.add(k * NV * lanes::<P>() * P::STEP);
        // A loop and not `array::from_fn`: a closure is a function of its own, which has none of the features that
        // this one is compiled with, and where it is not inlined every vector goes through memory.
        let mut weights = [P::load_weights(b); NV];
        for (v, weights) in weights.iter_mut().enumerate().skip(1) {
            *weights = P::load_weights(b.add(v * lanes::<P>() * P::STEP));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = P::broadcast(a.add(r * row_stride + k * P::STEP));
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = P::step(a, weights[v], *sum);
            }
        }
    }
}

/// The sums as numbers.
#[inline(always)]
pub(crate) unsafe fn values<P: Path, const MR: usize, const NV: usize>(
    product: &Product<P>,
    row: usize,
    sums: [[P::Sum; NV]; MR],
) -> [[Vector<P>; NV]; MR] {
    // SAFETY: quantised paths come with scales for every row and column of the product: the caller's contract.
    unsafe {
        let mut values = [[P::Simd::zero(); NV]; MR];
        for v in 0..NV {
            let mut columns = ColumnScales { scale: P::Simd::zero(), sum: P::Simd::zero() };
            if P::QUANTIZED {
                columns.scale = P::Simd::load(product.column_scales.add(v * lanes::<P>()));
                columns.sum = P::Simd::load(product.column_sums.add(v * lanes::<P>()));
            }
            for (r, (values, sums)) in values.iter_mut().zip(&sums).enumerate() {
                let mut scale = RowScale::default();
                if P::QUANTIZED {
                    scale = *product.row_scales.add((row + r) * product.row_scale_stride);
                }
                values[v] = P::value(sums[v], scale, &columns);
            }
        }
        values
    }
}

/// The epilogue of `MR` rows from `row` on.
#[inline(always)]
pub(crate) unsafe fn finish<P: Path, const MR: usize, const NV: usize>(
    epilogue: &Epilogue<P>,
    row: usize,
    sums: [[Vector<P>; NV]; MR],
) {
    let lanes = lanes::<P>();
    // SAFETY: rows row..row+MR and NV vectors of columns of the output exist: the caller's contract.
    unsafe {
        match *epilogue {
            Epilogue::Store { bias, out, stride } => {
                for v in 0..NV {
                    let bias = P::Simd::load(bias.add(v * lanes));
                    for (r, sums) in sums.iter().enumerate() {
                        P::store(out.add((row + r) * stride + v * lanes), P::Simd::add(sums[v], bias));
                    }
                }
            }
            Epilogue::Gelu { bias, out, stride } => {
                for v in 0..NV {
                    let bias = P::Simd::load(bias.add(v * lanes));
                    for (r, sums) in sums.iter().enumerate() {
                        let x = P::Simd::add(sums[v], bias);
                        P::store(out.add((row + r) * stride + v * lanes), gelu::<P::Simd>(x));
                    }
                }
            }
            Epilogue::Accumulate { bias, out, stride } => {
                for v in 0..NV {
                    let bias = optional::<P::Simd>(bias, v * lanes);
                    for (r, sums) in sums.iter().enumerate() {
                        let out = out.add((row + r) * stride + v * lanes);
                        P::Simd::store(out, P::Simd::add(P::Simd::load(out), P::Simd::add(sums[v], bias)));
                    }
                }
            }
            Epilogue::StoreF32 { bias, out, stride } => {
                for v in 0..NV {
                    let bias = optional::<P::Simd>(bias, v * lanes);
                    for (r, sums) in sums.iter().enumerate() {
                        P::Simd::store(out.add((row + r) * stride + v * lanes), P::Simd::add(sums[v], bias));
                    }
                }
            }
            Epilogue::StoreFirst { out, stride, columns } => {
                for v in 0..NV {
                    let column = v * lanes;
                    for (r, sums) in sums.iter().enumerate() {
                        let out = out.add((row + r) * stride + column);
                        if column + lanes <= columns {
                            P::store(out, sums[v]);
                        } else if column < columns {
                            P::store_first(out, columns - column, sums[v]);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn optional<S: Simd>(p: *const f32, offset: usize) -> S::V {
    // SAFETY: the caller vouches for the vector at `p + offset` unless p is null.
    if p.is_null() { unsafe { S::zero() } } else { unsafe { S::load(p.add(offset)) } }
}

/// Walks over memory that will be needed soon, a cache line at a time.
pub(crate) struct Prefetch {
    next: *const u8,
    end: *const u8,
}

const CACHE_LINE: usize = 64;

impl Prefetch {
    #[inline(always)]
    pub(crate) fn new(start: *const u8, bytes: usize) -> Self {
        Prefetch { next: start, end: start.wrapping_add(bytes) }
    }

    /// Asks for the next line, if one is left.
    #[inline(always)]
    pub(crate) fn line(&mut self) {
        if self.next < self.end {
            prefetch(self.next);
            self.next = self.next.wrapping_add(CACHE_LINE);
        }
    }
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
