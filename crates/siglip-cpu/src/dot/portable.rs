//! No instruction in particular.

use super::IntegerDot;
use crate::simd::Portable;

/// Plain Rust. Wrapping like the instructions: no layer comes near, but the peak's endless sums do.
#[derive(Clone, Copy)]
pub(crate) struct Loops;

impl IntegerDot for Loops {
    type Simd = Portable;
    type Activations = [i32; 8];
    type Weights = [i32; 8];
    type Sums = [i32; 8];

    const FUSED: bool = false;

    #[inline(always)]
    unsafe fn broadcast(p: *const u8, _: usize) -> [i32; 8] {
        // SAFETY: the caller vouches for four bytes.
        [unsafe { p.cast::<i32>().read_unaligned() }; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const i8) -> [i32; 8] {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { p.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn zero() -> [i32; 8] {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn dot(a: [i32; 8], b: [i32; 8], mut sum: [i32; 8]) -> [i32; 8] {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            for (a, b) in a.to_ne_bytes().into_iter().zip(b.to_ne_bytes()) {
                *sum = sum.wrapping_add(i32::from(a) * i32::from(b as i8));
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn to_floats(sum: [i32; 8], _: usize) -> [f32; 8] {
        let mut floats = [0.0; 8];
        for (float, sum) in floats.iter_mut().zip(sum) {
            *float = sum as f32;
        }
        floats
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: [f32; 8]) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller vouches for 8 bytes.
            unsafe { p.add(i).write(x.round_ties_even() as u8) }
        }
    }
}
