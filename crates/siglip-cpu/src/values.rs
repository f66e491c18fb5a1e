//! Attention's second product in bytes, for paths that quantise and have no faster instruction than f32's for it.
//!
//! Values are quantised channel by channel over a head's keys. Weights lie between 0 and 1, and a unit of 8 bits would be more
//! than each of hundreds of small ones that together outweigh the largest. So they have 15 bits, in two bytes that are
//! multiplied apart: `Σ w·v = 256 · Σ high·v + Σ low·v`. That takes half as long as in f32, and as long as in bf16.
//!
//! Values are the activations of the products here (unsigned, with a scale and an offset for each channel), weights their
//! columns (signed, with a sum for each query).

use crate::attention::{Attention, MAX_VECTORS};
use crate::buffer::Buffer;
use crate::epilogue::RawSums;
use crate::gemm::{Part, Product};
use crate::kernels::Kernels;
use crate::ops::{Exponentials, Extremes, largest_scores, weight_of_score};
use crate::path::{Element, MAX_BYTES, Path, RowScale, Vector, lanes};
use crate::scores;
use crate::simd::{MAX_LANES, Simd};

/// Whether the second product is computed here for heads of this size: where the first one is in 8 bits as well.
#[inline(always)]
pub(crate) fn in_8_bits<P: Path>(keys: usize, head_dim: usize) -> bool {
    P::VALUES && scores::in_8_bits::<P>(keys, head_dim)
}

/// Scratch memory of one thread.
pub(crate) struct Scratch {
    values: Buffer<u8>,
    scales: Buffer<RowScale>,
    offsets: Buffer<f32>,
    inverses: Buffer<f32>,
    low: Buffer<i8>,
    sums: Buffer<f32>,
}

/// Pointers into a [`Scratch`].
#[derive(Clone, Copy)]
pub(crate) struct ScratchMemory {
    /// `[steps][head_dim][STEP]`.
    values: *mut u8,
    /// How the values of each channel read, `[head_dim]`; and what they are quantised by.
    scales: *mut RowScale,
    offsets: *mut f32,
    inverses: *mut f32,
    /// The weights' low bytes, a right operand `[steps][vectors][LANES][STEP]`. The high ones take the scores' place.
    low: *mut i8,
    /// What a product's offsets are multiplied with, `[vectors][LANES]`.
    sums: *mut f32,
}

impl Scratch {
    /// For heads of always as many keys, and as many values each; none where the product is not in 8 bits.
    pub(crate) fn new<P: Path>(keys: usize, head_dim: usize) -> std::io::Result<Self> {
        let wanted = |size: usize| if in_8_bits::<P>(keys, head_dim) { size } else { 0 };
        let (keys, queries) = (keys.next_multiple_of(P::STEP), P::MAX_VECTORS * lanes::<P>());
        Ok(Scratch {
            values: Buffer::zeroed(wanted(keys * head_dim))?,
            scales: Buffer::zeroed(wanted(head_dim))?,
            offsets: Buffer::zeroed(wanted(head_dim))?,
            inverses: Buffer::zeroed(wanted(head_dim))?,
            low: Buffer::zeroed(wanted(keys * queries))?,
            sums: Buffer::zeroed(wanted(queries))?,
        })
    }

    pub(crate) fn memory(&mut self) -> ScratchMemory {
        ScratchMemory {
            values: self.values.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            offsets: self.offsets.as_mut_ptr(),
            inverses: self.inverses.as_mut_ptr(),
            low: self.low.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let floats = self.offsets.bytes() + self.inverses.bytes() + self.sums.bytes();
        self.values.bytes() + self.scales.bytes() + self.low.bytes() + floats
    }
}

/// Quantises a head's values and packs them as a left operand that lies step by step.
///
/// # Safety
///
/// As for [`crate::attention::attend`], with [`in_8_bits`] of the head's size.
#[inline(always)]
pub(crate) unsafe fn quantize_values<P: Kernels>(head: &Attention<P>) {
    let memory = head.scratch.values;
    // SAFETY: rows and vectors are the head's; the scratch memory was made for as many.
    unsafe {
        for at in scores::vectors::<P>(head.head_dim) {
            let mut extremes = Extremes::<P::Simd>::new();
            for key in 0..head.keys {
                extremes.add(P::Inner::load::<P::Simd>(head.v.add(key * head.kv_stride + at)));
            }
            let (offset, inverse) = extremes.row_scales(memory.scales.add(at));
            P::Simd::store(memory.offsets.add(at), offset);
            P::Simd::store(memory.inverses.add(at), inverse);
        }
        for first in (0..head.keys).step_by(P::STEP) {
            let keys = P::STEP.min(head.keys - first);
            for at in scores::vectors::<P>(head.head_dim) {
                let offset = P::Simd::load(memory.offsets.add(at));
                let inverse = P::Simd::load(memory.inverses.add(at));
                let mut rows = [P::Simd::zero(); MAX_BYTES];
                for (i, row) in rows.iter_mut().enumerate().take(keys) {
                    let x = P::Inner::load::<P::Simd>(head.v.add((first + i) * head.kv_stride + at));
                    *row = P::Simd::mul(P::Simd::sub(x, offset), inverse);
                }
                P::store_groups(memory.values.add(first * head.head_dim + at * P::STEP), rows);
            }
        }
    }
}

/// `log2(127 · 256)`, of the weight of the largest score: none has a high byte of more than 127, though exponentials are not
/// exact.
const LOG2_WHOLE: f32 = 14.988_685;

/// Scores become weights in two bytes.
///
/// # Safety
///
/// As for [`crate::ops::exponentials`], which this is instead of, for the scores of a head and the widest panel's factors.
#[inline(always)]
pub(crate) unsafe fn weights<P: Kernels, const NV: usize>(head: &Attention<P>, columns: &Exponentials) {
    let memory = head.scratch.values;
    let width = NV * lanes::<P>();
    // SAFETY: keys below `keys` and vectors below NV. A step's bytes are a quarter as long as its scores, so they are
    // written over scores of this step and before, of which each vector was read.
    unsafe {
        let largest = largest_scores::<P::Simd, NV>(columns);
        let (scale, whole) = (P::Simd::splat(columns.scale_log2e), P::Simd::splat(LOG2_WHOLE));
        let mut sums = [P::Simd::zero(); NV];
        for first in (0..columns.keys).step_by(P::STEP) {
            let keys = P::STEP.min(columns.keys - first);
            for (v, (sum, largest)) in sums.iter_mut().zip(largest).enumerate() {
                let at = v * lanes::<P>();
                let mut weights: [Vector<P>; MAX_BYTES] = [P::Simd::zero(); MAX_BYTES];
                for (i, weight) in weights.iter_mut().enumerate().take(keys) {
                    let score = P::Simd::load(columns.scores.add((first + i) * width + at));
                    // Not `score · scale - largest · scale` at once: what that rounds away of huge scores would make the
                    // largest weight larger than two bytes.
                    *weight = weight_of_score::<P>(P::Simd::sub(score, largest), scale, whole);
                    *sum = P::Simd::add(*sum, *weight);
                }
                let at = first * width + at * P::STEP;
                P::store_two_bytes(columns.scores.cast::<i8>().add(at), memory.low.add(at), weights);
            }
        }
        for (v, sum) in sums.into_iter().enumerate() {
            let at = v * lanes::<P>();
            P::Simd::store(columns.factors.add(at), P::Simd::reciprocal(sum));
            P::Simd::store(memory.sums.add(at), P::Simd::mul(sum, P::Simd::splat(1.0 / HIGH)));
        }
    }
}

/// What a unit of a high byte is worth.
const HIGH: f32 = 256.0;

/// A number for each query of the widest panel.
type Queries = [f32; MAX_VECTORS * MAX_LANES];
const EACH_HIGH: &Queries = &[HIGH; MAX_VECTORS * MAX_LANES];
const EACH_LOW: &Queries = &[1.0; MAX_VECTORS * MAX_LANES];
const NO_SUMS: &Queries = &[0.0; MAX_VECTORS * MAX_LANES];

/// `vᵀ · weights`, `[head_dim][queries]`, in units of a low byte.
///
/// # Safety
///
/// As for [`weights`], after it and after [`quantize_values`].
#[inline(always)]
pub(crate) unsafe fn mix<P: Kernels>(head: &Attention<P>, vectors: usize) {
    let memory = head.scratch.values;
    let (out, stride) = (head.scratch.mixed, vectors * lanes::<P>());
    // Offsets count once: with the high bytes.
    let high =
        (head.scratch.scores.cast(), EACH_HIGH, memory.sums.cast_const(), RawSums::Store { out, stride });
    let low = (memory.low, EACH_LOW, NO_SUMS.as_ptr(), RawSums::Add { out, stride });
    for (bytes, scales, sums, epilogue) in [high, low] {
        // SAFETY: values and weights were quantised, with scales for each, and there is room for the sums.
        unsafe {
            P::multiply_steps(&Product {
                activations: memory.values.cast(),
                row_stride: head.head_dim,
                rows: head.head_dim,
                panel: bytes.cast(),
                steps: head.keys.div_ceil(P::STEP),
                vectors,
                widened: std::ptr::null_mut(),
                row_scales: memory.scales,
                column_scales: scales.as_ptr(),
                column_sums: sums,
                part: Part::WHOLE,
                epilogue,
                prefetch: std::ptr::null(),
                prefetch_bytes: 0,
            });
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #![expect(clippy::print_stderr, reason = "tests that are skipped say so")]

    use std::ops::RangeInclusive;

    use super::*;
    use crate::Isa;
    use crate::dot::{Loops, Vpdpbusd, Vpdpbusd256};
    use crate::path::{F32, Int8};
    use crate::simd::{Avx2, Avx512, Portable};

    /// Bytes of a group.
    const STEP: usize = 4;

    /// Numbers, each of which is rounded to the one at the same place among the integers.
    type Rows = [[f32; MAX_LANES]; STEP];

    #[inline(always)]
    unsafe fn loaded<P: Path>(rows: &Rows) -> [Vector<P>; MAX_BYTES] {
        // SAFETY: no vector is longer than a row.
        unsafe {
            let mut loaded = [P::Simd::zero(); MAX_BYTES];
            for (loaded, row) in loaded.iter_mut().zip(rows) {
                *loaded = P::Simd::load(row.as_ptr());
            }
            loaded
        }
    }

    /// All integers of a range, in four rows a time, and what is rounded to them.
    fn in_rows(range: RangeInclusive<i16>) -> impl Iterator<Item = (Rows, [[i16; MAX_LANES]; STEP])> {
        let last = *range.end();
        range.step_by(7).map(move |first| {
            let mut integers = [[0; MAX_LANES]; STEP];
            for (i, integer) in integers.as_flattened_mut().iter_mut().enumerate() {
                *integer = first.saturating_add(i as i16 * 3).min(last);
            }
            let rounded = |(i, integer): (usize, i16)| f32::from(integer) + [0.0, 0.4, -0.4][i % 3];
            let rows = integers.map(|row| {
                let mut numbers = row.into_iter().enumerate().map(rounded);
                std::array::from_fn(|_| numbers.next().unwrap_or_default())
            });
            (rows, integers)
        })
    }

    #[inline(always)]
    unsafe fn check<P: Path>() {
        for (rows, integers) in in_rows(0..=255).chain(in_rows(-128..=127)) {
            let mut bytes = [[0_u8; STEP]; MAX_LANES];
            // SAFETY: there is room for a step of the longest vector; the caller has the instructions.
            unsafe { P::store_groups(bytes.as_mut_ptr().cast(), loaded::<P>(&rows)) };
            for (lane, group) in bytes.iter().enumerate().take(lanes::<P>()) {
                assert_eq!(*group, integers.map(|row| row[lane] as u8));
            }
        }
    }

    #[inline(always)]
    unsafe fn check_two_bytes<P: Path>() {
        for (rows, integers) in in_rows(0..=(127 << 8) + 127) {
            let (mut high, mut low) = ([[0_i8; STEP]; MAX_LANES], [[0_i8; STEP]; MAX_LANES]);
            // SAFETY: there is room for a step of the longest vector; the caller has the instructions.
            unsafe {
                P::store_two_bytes(high.as_mut_ptr().cast(), low.as_mut_ptr().cast(), loaded::<P>(&rows));
            }
            for (lane, (high, low)) in high.iter().zip(&low).enumerate().take(lanes::<P>()) {
                for (row, (high, low)) in high.iter().zip(low).enumerate() {
                    let integer = i32::from(*high) * HIGH as i32 + i32::from(*low);
                    assert_eq!(integer, i32::from(integers[row][lane]), "{high} and {low}");
                }
            }
        }
    }

    #[test]
    fn bytes_are_the_numbers_without_instructions_for_them() {
        // SAFETY: no instructions but the target's.
        unsafe { check::<Int8<Loops, F32<Portable>>>() }
    }

    #[test]
    fn bytes_are_the_numbers_with_avx512() {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        unsafe fn run() {
            // SAFETY: these are the path's instructions.
            unsafe {
                check::<Int8<Vpdpbusd, F32<Avx512>>>();
                check_two_bytes::<Int8<Vpdpbusd, F32<Avx512>>>();
            }
        }
        if !Isa::Avx512Vnni.is_available() {
            eprintln!("skipped: this machine has no AVX-512 VNNI");
            return;
        }
        // SAFETY: the machine has them.
        unsafe { run() }
    }

    #[test]
    fn bytes_are_the_numbers_with_avx2() {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn run() {
            // SAFETY: what is stored needs no more than these of the path's instructions.
            unsafe {
                check::<Int8<Vpdpbusd256, F32<Avx2>>>();
                check_two_bytes::<Int8<Vpdpbusd256, F32<Avx2>>>();
            }
        }
        if !Isa::Avx2.is_available() {
            eprintln!("skipped: this machine has no AVX2");
            return;
        }
        // SAFETY: the machine has them.
        unsafe { run() }
    }

    #[test]
    fn the_largest_weight_fits() {
        assert!((LOG2_WHOLE.exp2() - (127 << 8) as f32).abs() < 0.1);
    }
}
