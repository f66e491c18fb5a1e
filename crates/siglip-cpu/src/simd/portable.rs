//! No instruction set assumed: arrays that the compiler turns into whatever the target's baseline has (SSE2 on
//! x86-64). Also the scalar reference for the other sets.

use super::{Simd, sum_lanes};

/// Plain Rust on arrays of 8.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 8;

// Loops and not `array::from_fn` or `map`: those go through closures that are not always inlined, and a call a lane
// costs a hundred times the lane.
#[inline(always)]
fn map(mut a: [f32; N], f: impl Fn(f32) -> f32) -> [f32; N] {
    for x in &mut a {
        *x = f(*x);
    }
    a
}

#[inline(always)]
fn zip(mut a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    for (x, y) in a.iter_mut().zip(b) {
        *x = f(*x, y);
    }
    a
}

impl Simd for Portable {
    const LANES: usize = N;
    // 6 x 2 sums of half a vector, 2 weights, 1 activation: 15 of 16 registers of SSE2.
    const MAX_VECTORS: usize = 1;
    type V = [f32; N];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; N] {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; N] {
        // SAFETY: the caller vouches for N values at `p`.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; N]) {
        // SAFETY: the caller vouches for N values at `p`.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> [f32; N] {
        let mut lanes = [0.0; N];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            // SAFETY: the caller vouches for n values at `p`.
            *lane = unsafe { p.add(i).read_unaligned() };
        }
        lanes
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: [f32; N]) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: the caller vouches for n values at `p`.
            unsafe { p.add(i).write_unaligned(x) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> [f32; N] {
        // SAFETY: the caller vouches for N values at `p`.
        let bits = unsafe { p.cast::<[u16; N]>().read_unaligned() };
        let mut lanes = [0.0; N];
        for (lane, bits) in lanes.iter_mut().zip(bits) {
            *lane = f32::from_bits(u32::from(bits) << 16);
        }
        lanes
    }
    #[inline(always)]
    unsafe fn add(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        // Two roundings on purpose: a fused one would be a library call a lane where the target has no FMA.
        let products = zip(a, b, |x, y| x * y);
        zip(products, c, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn max(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn reciprocal(a: [f32; N]) -> [f32; N] {
        map(a, |x| 1.0 / x)
    }
    #[inline(always)]
    unsafe fn round(a: [f32; N]) -> [f32; N] {
        // Adding and taking away 1.5 * 2^23 rounds to an integer without a library call, for |x| < 2^22.
        const MAGIC: f32 = 12_582_912.0;
        map(a, |x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: [f32; N], n: [f32; N]) -> [f32; N] {
        zip(a, n, |x, n| x * f32::from_bits((((n as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: [f32; N]) -> f32 {
        sum_lanes(a)
    }
    #[inline(always)]
    unsafe fn maximum(a: [f32; N]) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
