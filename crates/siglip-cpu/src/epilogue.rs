//! What becomes of a product's sums, computed while they are still in registers.
//!
//! A layer's products and attention's end differently, and there is a type for either: a kernel's loops are compiled for each
//! height and width of a block, and the ends with them, so that every end that a product cannot have is one less for each.

use crate::gelu::gelu;
use crate::gemm::{Product, prefetch_values};
use crate::path::{ColumnScales, Path, RowScale, Vector, inner_layout, lanes};
use crate::simd::Simd;

/// What a product may end in.
pub(crate) trait Ending<P: Path>: Copy {
    /// The memory that is written for `width` columns, from a row on.
    fn rows(&self, row: usize, width: usize) -> OutputRows;

    /// How often that memory is asked for while a block's products are computed, and for how many of its `rows` each time.
    fn fetches(&self, rows: usize) -> (usize, usize);

    /// The end of the row `part` of each of `MG` groups of rows, `row` being the first of them.
    ///
    /// The sums come as a copy: were the array itself read in a loop, it would be kept in memory at every step.
    ///
    /// # Safety
    ///
    /// As for [`crate::gemm::multiply`]; the product's rows and columns of these sums exist.
    unsafe fn finish<const MG: usize, const NV: usize>(
        product: &Product<P, Self>,
        row: usize,
        part: usize,
        sums: [[P::Sum; NV]; MG],
    );
}

/// What becomes of the sums of a layer. Pointers are to the panel's first column: `bias` there, `out` in the first row.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<P: Path> {
    /// `out = sum + bias`, stored for another product.
    Store { bias: *const f32, out: *mut P::Inner, stride: usize },
    /// `out = gelu(sum + bias)`, stored for another product in the layout that it reads.
    Gelu { bias: *const f32, out: *mut P::Inner, stride: usize },
    /// `out += sum + bias` in f32; without a bias (null) where the inner dimension is split and this is not its
    /// first part.
    Accumulate { bias: *const f32, out: *mut f32, stride: usize },
    /// `out = sum + bias` in f32.
    StoreF32 { bias: *const f32, out: *mut f32, stride: usize },
}

impl<P: Path> Epilogue<P> {
    /// The same on another path that stores results alike.
    pub(crate) fn on<Q: Path<Inner = P::Inner>>(self) -> Epilogue<Q> {
        match self {
            Epilogue::Store { bias, out, stride } => Epilogue::Store { bias, out, stride },
            Epilogue::Gelu { bias, out, stride } => Epilogue::Gelu { bias, out, stride },
            Epilogue::Accumulate { bias, out, stride } => Epilogue::Accumulate { bias, out, stride },
            Epilogue::StoreF32 { bias, out, stride } => Epilogue::StoreF32 { bias, out, stride },
        }
    }

    /// The same from a row on, for results that lie row after row.
    pub(crate) fn skip_rows(mut self, row: usize) -> Self {
        match &mut self {
            Epilogue::Store { out, stride, .. } | Epilogue::Gelu { out, stride, .. } => {
                *out = out.wrapping_add(row * *stride);
            }
            Epilogue::Accumulate { out, stride, .. } | Epilogue::StoreF32 { out, stride, .. } => {
                *out = out.wrapping_add(row * *stride);
            }
        }
        self
    }
}

impl<P: Path> Ending<P> for Epilogue<P> {
    #[inline(always)]
    fn rows(&self, row: usize, width: usize) -> OutputRows {
        match *self {
            Epilogue::Store { out, stride, .. } => {
                OutputRows::new(out.wrapping_add(row * stride), stride, width)
            }
            Epilogue::Gelu { out, stride, .. } => {
                let layout = inner_layout::<P>();
                let first = out.wrapping_add(layout.row::<P::Inner>(row, stride));
                OutputRows::new(first, layout.row::<P::Inner>(1, stride), width)
            }
            Epilogue::Accumulate { out, stride, .. } | Epilogue::StoreF32 { out, stride, .. } => {
                OutputRows::new(out.wrapping_add(row * stride), stride, width)
            }
        }
    }

    /// What is added to is asked for at once: nothing before the block's end reads it. Where many values are only stored, the
    /// stores would take all fill buffers at once and leave none for the next block's operands, so they are asked for evenly
    /// over the block; in the short blocks of 8 bits not row by row, since the end of each stretch is a branch that is not
    /// foreseen. GELU keeps stores apart, so only these blocks gain from asking for its rows.
    #[inline(always)]
    fn fetches(&self, rows: usize) -> (usize, usize) {
        match self {
            Epilogue::Accumulate { .. } => (1, rows),
            Epilogue::Store { .. } | Epilogue::Gelu { .. } if P::QUANTIZED => (3, rows.div_ceil(3)),
            Epilogue::Store { .. } => (rows, 1),
            Epilogue::Gelu { .. } | Epilogue::StoreF32 { .. } => (0, 0),
        }
    }

    #[inline(always)]
    unsafe fn finish<const MG: usize, const NV: usize>(
        product: &Product<P, Self>,
        row: usize,
        part: usize,
        sums: [[P::Sum; NV]; MG],
    ) {
        let lanes = lanes::<P>();
        // SAFETY: the rows and NV vectors of columns of the output exist: the caller's contract.
        unsafe {
            match product.epilogue {
                Epilogue::Store { bias, out, stride } => {
                    for v in 0..NV {
                        let columns = Columns::new(product, v);
                        let bias = P::Simd::load(bias.add(v * lanes));
                        for (g, sums) in sums.iter().enumerate() {
                            let row = row + g * P::ROWS;
                            let x = P::Simd::add(columns.value(sums[v], row, part), bias);
                            P::store(out.add(row * stride + v * lanes), x);
                        }
                    }
                }
                Epilogue::Gelu { bias, out, stride } => {
                    for v in 0..NV {
                        let columns = Columns::new(product, v);
                        let bias = P::Simd::load(bias.add(v * lanes));
                        for (g, sums) in sums.iter().enumerate() {
                            let row = row + g * P::ROWS;
                            let x = P::Simd::add(columns.value(sums[v], row, part), bias);
                            let out = out.add(inner_layout::<P>().row::<P::Inner>(row, stride) + v * lanes);
                            P::store(out, gelu::<P>(x));
                        }
                    }
                }
                Epilogue::Accumulate { bias, out, stride } => {
                    for v in 0..NV {
                        let columns = Columns::new(product, v);
                        let bias = optional::<P::Simd>(bias, v * lanes);
                        for (g, sums) in sums.iter().enumerate() {
                            let row = row + g * P::ROWS;
                            let x = P::Simd::add(columns.value(sums[v], row, part), bias);
                            let out = out.add(row * stride + v * lanes);
                            P::Simd::store(out, P::Simd::add(P::Simd::load(out), x));
                        }
                    }
                }
                Epilogue::StoreF32 { bias, out, stride } => {
                    for v in 0..NV {
                        let columns = Columns::new(product, v);
                        let bias = P::Simd::load(bias.add(v * lanes));
                        for (g, sums) in sums.iter().enumerate() {
                            let row = row + g * P::ROWS;
                            let x = P::Simd::add(columns.value(sums[v], row, part), bias);
                            P::Simd::store(out.add(row * stride + v * lanes), x);
                        }
                    }
                }
            }
        }
    }
}

/// What becomes of the sums of one of attention's products, in f32. Pointers as in [`Epilogue`].
#[derive(Clone, Copy)]
pub(crate) enum RawSums {
    /// `out = sum`.
    Store { out: *mut f32, stride: usize },
    /// `out += sum`.
    Add { out: *mut f32, stride: usize },
}

impl<P: Path> Ending<P> for RawSums {
    #[inline(always)]
    fn rows(&self, row: usize, width: usize) -> OutputRows {
        let (RawSums::Store { out, stride } | RawSums::Add { out, stride }) = *self;
        OutputRows::new(out.wrapping_add(row * stride), stride, width)
    }

    /// Results stay in the cache as they are; what is added to was written just before.
    #[inline(always)]
    fn fetches(&self, rows: usize) -> (usize, usize) {
        match self {
            RawSums::Store { .. } => (0, 0),
            RawSums::Add { .. } => (1, rows),
        }
    }

    #[inline(always)]
    unsafe fn finish<const MG: usize, const NV: usize>(
        product: &Product<P, Self>,
        row: usize,
        part: usize,
        sums: [[P::Sum; NV]; MG],
    ) {
        let lanes = lanes::<P>();
        // SAFETY: the rows and NV vectors of columns of the output exist: the caller's contract.
        unsafe {
            match product.epilogue {
                RawSums::Store { out, stride } => {
                    for v in 0..NV {
                        let columns = Columns::new(product, v);
                        for (g, sums) in sums.iter().enumerate() {
                            let row = row + g * P::ROWS;
                            let out = out.add(row * stride + v * lanes);
                            P::Simd::store(out, columns.value(sums[v], row, part));
                        }
                    }
                }
                RawSums::Add { out, stride } => {
                    for v in 0..NV {
                        let columns = Columns::new(product, v);
                        for (g, sums) in sums.iter().enumerate() {
                            let row = row + g * P::ROWS;
                            let out = out.add(row * stride + v * lanes);
                            let x = columns.value(sums[v], row, part);
                            P::Simd::store(out, P::Simd::add(P::Simd::load(out), x));
                        }
                    }
                }
            }
        }
    }
}

/// Memory that a product writes, whose rows are asked for one after the other.
#[derive(Clone, Copy)]
pub(crate) struct OutputRows {
    next: *const u8,
    /// Bytes from row to row, and of each row.
    stride: usize,
    width: usize,
}

impl OutputRows {
    /// Rows of `width` values, `stride` values from row to row.
    #[inline(always)]
    fn new<T>(first: *const T, stride: usize, width: usize) -> Self {
        OutputRows { next: first.cast(), stride: stride * size_of::<T>(), width: width * size_of::<T>() }
    }

    /// Asks for `rows` more rows.
    #[inline(always)]
    pub(crate) fn fetch(&mut self, rows: usize) {
        for _ in 0..rows {
            prefetch_values(self.next, self.width);
            self.next = self.next.wrapping_add(self.stride);
        }
    }
}

/// One vector of a panel's columns, and how its sums read.
struct Columns<P: Path> {
    scales: ColumnScales<P>,
    row_scales: *const RowScale,
}

impl<P: Path> Columns<P> {
    #[inline(always)]
    unsafe fn new<E>(product: &Product<P, E>, vector: usize) -> Self {
        // SAFETY: quantised paths come with scales for every column of the product: the caller's contract.
        unsafe {
            let mut scales = ColumnScales { scale: P::Simd::zero(), sum: P::Simd::zero() };
            if P::QUANTIZED {
                scales.scale = P::Simd::load(product.column_scales.add(vector * lanes::<P>()));
                scales.sum = P::Simd::load(product.column_sums.add(vector * lanes::<P>()));
            }
            Columns { scales, row_scales: product.row_scales }
        }
    }

    /// The sums as numbers: those of the row `part` of a group.
    #[inline(always)]
    unsafe fn value(&self, sums: P::Sum, row: usize, part: usize) -> Vector<P> {
        // SAFETY: quantised paths come with scales for every row of the product: the caller's contract.
        unsafe {
            let mut scale = RowScale::default();
            if P::QUANTIZED {
                scale = *self.row_scales.add(row);
            }
            P::value(sums, part, scale, &self.scales)
        }
    }
}

#[inline(always)]
unsafe fn optional<S: Simd>(p: *const f32, offset: usize) -> S::V {
    // SAFETY: the caller vouches for the vector at `p + offset` unless p is null.
    if p.is_null() { unsafe { S::zero() } } else { unsafe { S::load(p.add(offset)) } }
}
