//! `BFMMLA` gives the bits of the manual's pseudo-code, in either row and whatever the other row holds.

use super::*;
use crate::isa::Isa;
use crate::path::Element;

/// Groups of a chain.
const STEPS: usize = 50;

#[test]
fn bfmmla_rounds_as_the_manual_says() {
    if !Isa::NeonBf16.is_available() {
        return;
    }
    for round in 0..20 {
        let rows = [values(2 * round), values(2 * round + 1)];
        let columns = [100, 101, 102, 103].map(|column| values(4 * round + column));
        // SAFETY: the machine has the instructions.
        let (together, alone) =
            unsafe { (chain([&rows[0], &rows[1]], &columns), chain([&rows[1]; 2], &columns)) };
        for (got, row) in [(together[0], &rows[0]), (together[1], &rows[1]), (alone[0], &rows[1])] {
            let expected: [f32; 4] = std::array::from_fn(|column| manual(row, &columns[column]));
            assert_eq!(got, expected, "round {round}");
        }
    }
}

/// Four columns' sums of two rows.
#[target_feature(enable = "neon,bf16")]
unsafe fn chain(rows: [&[u16]; 2], columns: &[Vec<u16>; 4]) -> [[f32; 4]; 2] {
    let a: Vec<u16> = rows.concat();
    // SAFETY: each row and each column holds STEPS groups; a packed group of four columns is 16 values.
    unsafe {
        let mut sums = Bfmmla::zero();
        for step in 0..STEPS {
            let at = step * Bfmmla::STEP;
            let packed: Vec<u16> =
                columns.iter().flat_map(|column| &column[at..at + Bfmmla::STEP]).copied().collect();
            let activations = Bfmmla::broadcast(a.as_ptr().add(at), STEPS * Bfmmla::STEP);
            sums = Bfmmla::dot(activations, Bfmmla::load(packed.as_ptr()), sums);
        }
        let mut results = [[0.0; 4]; 2];
        for (row, result) in results.iter_mut().enumerate() {
            vst1q_f32(result.as_mut_ptr(), Bfmmla::row(sums, row));
        }
        results
    }
}

/// bf16 values whose products differ by many powers of two, so that nearly every sum is rounded; a few are denormal, or
/// have denormal products.
fn values(seed: usize) -> Vec<u16> {
    let value = |i: usize| {
        let x = (i as u32).wrapping_add(1).wrapping_mul(2_654_435_761);
        let x = (x ^ (x >> 15)).wrapping_mul(2_246_822_519);
        let exponent = match i % 13 {
            4 => 0,
            5 => 60,
            _ => 117 + (x >> 8) % 20,
        };
        ((x & 0x807f) | exponent << 7) as u16
    };
    (0..STEPS * Bfmmla::STEP).map(|i| value(seed * STEPS * Bfmmla::STEP + i)).collect()
}

/// A chain of the manual's `BFDotAdd`.
fn manual(a: &[u16], b: &[u16]) -> f32 {
    let product = |i: usize| {
        let (a, b) = (flush(a[i].to_f32()), flush(b[i].to_f32()));
        round_to_odd(f64::from(a) * f64::from(b), 0.0)
    };
    (0..a.len()).step_by(2).fold(0.0, |sum, i| add(sum, add(product(i), product(i + 1))))
}

fn add(a: f32, b: f32) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    // The sum and what it lost (Knuth's TwoSum).
    let sum = a + b;
    let of_b = sum - a;
    round_to_odd(sum, (a - (sum - of_b)) + (b - of_b))
}

/// The exact value `x + rest` as f32: of the two neighbours the odd one, unless it is one itself.
fn round_to_odd(x: f64, rest: f64) -> f32 {
    let nearest = x as f32;
    let missing = if f64::from(nearest) == x { rest } else { x - f64::from(nearest) };
    if missing == 0.0 || nearest.to_bits() & 1 == 1 {
        return flush(nearest);
    }
    flush(if missing > 0.0 { nearest.next_up() } else { nearest.next_down() })
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}
