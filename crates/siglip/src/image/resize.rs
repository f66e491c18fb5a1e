//! Pillow's `Image.resize` for 8-bit RGB, to the bit (`Resample.c` of Pillow 10.4 to 11.3).
//!
//! Antialiased: when shrinking, the filter is stretched so that it covers all the pixels that fall into one. First a
//! horizontal pass, then a vertical one, with pixels rounded to 8 bits between them; weights are integers with 22
//! bits after the point. A pass that would keep the size is left out. Whoever uses fewer bits, or the other order,
//! gets other pixels.
//!
//! All arithmetic is on integers, so that the order of the sums does not matter and vectors may take any shape.
//! The vertical pass runs along rows. The horizontal one takes a strip of rows at a time and turns it on its side,
//! so that it runs along columns of the strip.

use super::bytes::transpose;
use crate::preprocessor::Resample;

/// Bits after the point of a weight: 32, less 8 of the pixel, less 2 for the sum's overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Rows that the horizontal pass works on together.
const STRIP: usize = 16;

/// Bytes of a row that the vertical pass works on together.
const LANES: usize = 64;

/// For each pixel of the result along one side, the pixels that it is made of and their weights.
pub(super) struct Weights {
    /// First source pixel, and where its weights begin and end in `values`.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    values: Vec<i32>,
}

impl Weights {
    /// Weights that bring `from` pixels to `to` (both at least 1); the arithmetic is that of `precompute_coeffs`.
    pub(super) fn new(from: usize, to: usize, filter: Resample) -> Weights {
        let scale = from as f64 / to as f64;
        let filter_scale = scale.max(1.0);
        let (reach, shape): (f64, fn(f64) -> f64) = match filter {
            Resample::Bilinear => (1.0, bilinear),
            Resample::Bicubic => (2.0, bicubic),
        };
        let support = reach * filter_scale;
        let step = 1.0 / filter_scale;
        let mut weights = Weights { spans: Vec::with_capacity(to), values: Vec::new() };
        let mut exact = Vec::new();
        for place in 0..to {
            let center = (place as f64 + 0.5) * scale;
            // Casts cut off towards zero, and below zero there is nothing, as in C.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|pixel| shape((pixel as f64 - center + 0.5) * step)));
            let sum = exact.iter().fold(0.0, |sum, weight| sum + weight);
            let start = weights.values.len();
            weights.values.extend(exact.iter().map(|weight| {
                let weight = if sum != 0.0 { weight / sum } else { *weight };
                let scaled = weight * f64::from(1 << PRECISION_BITS);
                (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            }));
            weights.spans.push((first, start..weights.values.len()));
        }
        weights
    }

    /// Each result pixel's first source pixel and weights.
    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans.iter().map(|(first, range)| (*first, self.values.get(range.clone()).unwrap_or_default()))
    }
}

fn bilinear(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 1.0 - x } else { 0.0 }
}

/// The cubic of Keys (1981) with a = −0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Resizes `pixels` (`from.0` wide, `from.1` high, three bytes a pixel, rows without gaps) to `to`, width first.
/// All sides are at least 1.
pub(super) fn rgb8(pixels: Vec<u8>, from: (usize, usize), to: (usize, usize), filter: Resample) -> Vec<u8> {
    let arch = pulp::Arch::new();
    let mut pixels = pixels;
    if from.0 != to.0 {
        let weights = Weights::new(from.0, to.0, filter);
        let mut narrowed = vec![0; to.0 * from.1 * 3];
        arch.dispatch(Horizontal {
            source: &pixels,
            width: from.0,
            weights: &weights,
            new_width: to.0,
            out: &mut narrowed,
        });
        pixels = narrowed;
    }
    if from.1 != to.1 {
        let weights = Weights::new(from.1, to.1, filter);
        let mut resized = vec![0; to.0 * to.1 * 3];
        arch.dispatch(Vertical { source: &pixels, width: to.0 * 3, weights: &weights, out: &mut resized });
        pixels = resized;
    }
    pixels
}

/// Rounds a sum of weighted bytes to a byte.
#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The horizontal pass over all rows of `source`, each `width` pixels, into rows of `new_width`.
///
/// The passes are types of their own, not closures, because only then is their code sure to be compiled for the
/// vector instructions of the processor at hand: the call of a closure is not always inlined.
struct Horizontal<'a> {
    source: &'a [u8],
    width: usize,
    weights: &'a Weights,
    new_width: usize,
    out: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Horizontal<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Horizontal { source, width, weights, new_width, out } = self;
        // The strip on its side: for each byte of a row, that byte of each of the strip's rows.
        let mut columns = vec![[0u8; STRIP]; width * 3];
        let mut results = vec![[0u8; STRIP]; new_width * 3];
        let rows = source.chunks(width * 3 * STRIP).zip(out.chunks_mut(new_width * 3 * STRIP));
        for (strip, out) in rows {
            turn(strip, width * 3, &mut columns);
            let (results_of_pixels, _) = results.as_chunks_mut::<3>();
            for ((first, weights), result) in weights.iter().zip(results_of_pixels) {
                let (taps, _) = columns.get(first * 3..).unwrap_or_default().as_chunks::<3>();
                let mut red = [HALF; STRIP];
                let mut green = [HALF; STRIP];
                let mut blue = [HALF; STRIP];
                for ([r, g, b], &weight) in taps.iter().zip(weights) {
                    add_weighted(&mut red, r, weight);
                    add_weighted(&mut green, g, weight);
                    add_weighted(&mut blue, b, weight);
                }
                let [r, g, b] = result;
                to_bytes(&red, r);
                to_bytes(&green, g);
                to_bytes(&blue, b);
            }
            turn_back(&results, new_width * 3, out);
        }
    }
}

/// Adds each byte times `weight` to its sum.
#[inline(always)]
fn add_weighted<const N: usize>(sums: &mut [i32; N], bytes: &[u8; N], weight: i32) {
    for (sum, &byte) in sums.iter_mut().zip(bytes) {
        *sum = sum.wrapping_add(i32::from(byte).wrapping_mul(weight));
    }
}

#[inline(always)]
fn to_bytes<const N: usize>(sums: &[i32; N], bytes: &mut [u8; N]) {
    for (byte, &sum) in bytes.iter_mut().zip(sums) {
        *byte = to_byte(sum);
    }
}

/// Turns rows of `width` bytes into columns of [`STRIP`].
#[inline(always)]
fn turn(strip: &[u8], width: usize, columns: &mut [[u8; STRIP]]) {
    for (half, rows) in strip.chunks(width * 8).enumerate() {
        let mut done = 0;
        if rows.len() == width * 8 {
            for (block, columns) in columns.chunks_exact_mut(8).enumerate() {
                let mut words = [0; 8];
                for (word, row) in words.iter_mut().zip(rows.chunks_exact(width)) {
                    if let Some(bytes) = row.get(block * 8..).and_then(|bytes| bytes.first_chunk()) {
                        *word = u64::from_le_bytes(*bytes);
                    }
                }
                transpose(&mut words);
                for (word, column) in words.iter().zip(columns) {
                    if let Some(bytes) = column.as_chunks_mut::<8>().0.get_mut(half) {
                        *bytes = word.to_le_bytes();
                    }
                }
            }
            done = width / 8 * 8;
        }
        for (row, bytes) in rows.chunks(width).enumerate() {
            for (column, &byte) in columns.iter_mut().zip(bytes).skip(done) {
                column[(half * 8 + row) % STRIP] = byte;
            }
        }
    }
}

/// The reverse of [`turn`].
#[inline(always)]
fn turn_back(columns: &[[u8; STRIP]], width: usize, strip: &mut [u8]) {
    for (half, rows) in strip.chunks_mut(width * 8).enumerate() {
        let mut done = 0;
        if rows.len() == width * 8 {
            for (block, columns) in columns.chunks_exact(8).enumerate() {
                let mut words = [0; 8];
                for (word, column) in words.iter_mut().zip(columns) {
                    if let Some(bytes) = column.as_chunks::<8>().0.get(half) {
                        *word = u64::from_le_bytes(*bytes);
                    }
                }
                transpose(&mut words);
                for (word, row) in words.iter().zip(rows.chunks_exact_mut(width)) {
                    if let Some(bytes) = row.get_mut(block * 8..).and_then(|bytes| bytes.first_chunk_mut()) {
                        *bytes = word.to_le_bytes();
                    }
                }
            }
            done = width / 8 * 8;
        }
        for (row, bytes) in rows.chunks_mut(width).enumerate() {
            for (column, byte) in columns.iter().zip(bytes).skip(done) {
                *byte = column[(half * 8 + row) % STRIP];
            }
        }
    }
}

/// The vertical pass over rows of `width` bytes.
struct Vertical<'a> {
    source: &'a [u8],
    width: usize,
    weights: &'a Weights,
    out: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Vertical<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Vertical { source, width, weights, out } = self;
        for ((first, weights), out) in weights.iter().zip(out.chunks_mut(width)) {
            let rows = source.get(first * width..).unwrap_or_default();
            let (blocks, rest) = out.as_chunks_mut::<LANES>();
            let done = blocks.len() * LANES;
            // So many sums at a time as stay in registers while the rows go by.
            for (block, out) in blocks.iter_mut().enumerate() {
                let mut sums = [HALF; LANES];
                for (row, &weight) in rows.chunks_exact(width).zip(weights) {
                    if let Some(bytes) = row.get(block * LANES..).and_then(|row| row.first_chunk()) {
                        add_weighted(&mut sums, bytes, weight);
                    }
                }
                to_bytes(&sums, out);
            }
            for (place, out) in (done..).zip(rest) {
                let mut sum = HALF;
                for (row, &weight) in rows.chunks_exact(width).zip(weights) {
                    let byte = row.get(place).copied().unwrap_or(0);
                    sum = sum.wrapping_add(i32::from(byte).wrapping_mul(weight));
                }
                *out = to_byte(sum);
            }
        }
    }
}
