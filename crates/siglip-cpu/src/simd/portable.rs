//! No instruction set assumed: arrays that the compiler turns into whatever the target's baseline has (SSE2 on
//! x86-64). Also the scalar reference for the other sets.

use super::{Simd, sum_lanes};

/// Plain Rust on arrays of 8.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 8;

// Written out by a macro and not with `array::from_fn`, `map` or closures of our own: those are functions that are not
// inlined in every build, and a call a lane costs a hundred times the lane.
macro_rules! lanewise {
    ($a:expr, |$x:ident| $value:expr) => {{
        let mut lanes = $a;
        for lane in &mut lanes {
            let $x = *lane;
            *lane = $value;
        }
        lanes
    }};
    ($a:expr, $b:expr, |$x:ident, $y:ident| $value:expr) => {{
        let (mut lanes, b) = ($a, $b);
        let mut i = 0;
        while i < N {
            let ($x, $y) = (lanes[i], b[i]);
            lanes[i] = $value;
            i += 1;
        }
        lanes
    }};
}

impl Simd for Portable {
    const LANES: usize = N;
    // 6 x 2 sums of half a vector, 2 weights, 1 activation: 15 of 16 registers of SSE2.
    const MAX_VECTORS: usize = 1;
    const FUSED: bool = false;
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
        lanewise!(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; N], b: [f32; N]) -> [f32; N] {
        lanewise!(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; N], b: [f32; N]) -> [f32; N] {
        lanewise!(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        // Two roundings on purpose: a fused one would be a library call a lane where the target has no FMA.
        let products = lanewise!(a, b, |x, y| x * y);
        lanewise!(products, c, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn max(a: [f32; N], b: [f32; N]) -> [f32; N] {
        lanewise!(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; N], b: [f32; N]) -> [f32; N] {
        lanewise!(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn reciprocal(a: [f32; N]) -> [f32; N] {
        lanewise!(a, |x| 1.0 / x)
    }
    #[inline(always)]
    unsafe fn round(a: [f32; N]) -> [f32; N] {
        // Adding and taking away 1.5 * 2^23 rounds to an integer without a library call, for |x| < 2^22.
        const MAGIC: f32 = 12_582_912.0;
        lanewise!(a, |x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: [f32; N], n: [f32; N]) -> [f32; N] {
        lanewise!(a, n, |x, n| x * f32::from_bits((((n as i32) + 127) as u32) << 23))
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
