//! The check notices kernels that are broken on purpose, and passes those that are not.

use super::*;
use crate::attention::{self, Attention};
use crate::dot::{IntegerDot, Loops};
use crate::epilogue::RawSums;
use crate::gemm::{self, Product};
use crate::isa::Isa;
use crate::kernels::kernels;
use crate::path::{ColumnScale, ColumnScales, F32, Int8, MAX_STEP, Path, Vector};
use crate::simd::Portable;
use crate::{ops, peak};
use siglip::engine::Precision;

#[test]
fn every_path_of_this_machine_passes() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for isa in Isa::candidates(precision) {
            crate::check(isa, precision).unwrap();
        }
    }
}

#[test]
fn a_broken_kernel_is_named() {
    fn found<P: Kernels>() -> Option<&'static str> {
        // SAFETY: the instructions are the target's, or were asked for.
        unsafe { check::<P>() }.err().map(|difference| difference.kernel)
    }
    assert_eq!(found::<Broken<NOTHING>>(), None);
    assert_eq!(found::<Broken<PRODUCT>>(), Some("the matrix product"));
    assert_eq!(found::<Broken<LAST_ROW>>(), Some("the matrix product"));
    assert_eq!(found::<Broken<GELU>>(), Some("GELU"));
    assert_eq!(found::<Broken<ATTENTION>>(), Some("attention"));
    assert_eq!(found::<Broken<LAST_QUERY>>(), Some("attention"));
    assert_eq!(found::<Broken<BESIDE>>(), Some("attention beside the head"));
    assert_eq!(found::<Broken<LAYER_NORM>>(), Some("layer norm"));
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512Vnni.is_available() {
        use crate::dot::{EmulatedVdpbf16ps, Vpdpbusd};
        use crate::path::Bf16;
        use crate::tiles::{Emulated, Tiled};
        type Tiles = Bf16<Tiled<Emulated<false>, EmulatedVdpbf16ps>>;
        assert_eq!(found::<Bf16<EmulatedVdpbf16ps>>(), None);
        assert_eq!(found::<Int8<Vpdpbusd, Bf16<EmulatedVdpbf16ps>>>(), None);
        assert_eq!(found::<Tiles>(), None);
        assert_eq!(found::<Int8<Tiled<Emulated<true>, Vpdpbusd>, Tiles>>(), None);
    }
    assert_eq!(found::<Int8<Loops, F32<Portable>>>(), None);
    assert_eq!(found::<Int8<Saturating, F32<Portable>>>(), Some("the matrix product"));
}

#[test]
fn a_result_that_is_no_number_is_a_difference() {
    let difference = expect("GELU", f32::NAN, 1.0, 1e-3).unwrap_err();
    assert_eq!(difference.to_string(), "GELU gives NaN where 1 is right");
}

const NOTHING: u8 = 0;
const PRODUCT: u8 = 1;
const LAST_ROW: u8 = 2;
const GELU: u8 = 3;
const ATTENTION: u8 = 4;
const LAYER_NORM: u8 = 5;
const LAST_QUERY: u8 = 6;
const BESIDE: u8 = 7;

/// The portable f32 path with one mistake.
#[derive(Clone, Copy)]
struct Broken<const WHERE: u8>;

type Right = F32<Portable>;

impl<const WHERE: u8> Kernels for Broken<WHERE> {
    unsafe fn enter() {}
    unsafe fn leave() {}
    unsafe fn multiply(product: &Product<Self>) {
        let mut product = *product;
        if WHERE == LAST_ROW {
            product.rows -= 1;
        }
        // SAFETY: the caller's; so for the other kernels.
        unsafe { gemm::multiply(&product) }
        if let (GELU, Epilogue::Gelu { out, .. }) = (WHERE, product.epilogue) {
            // SAFETY: the output has a first value.
            unsafe { *out += 0.01 };
        }
    }
    unsafe fn multiply_steps(_: &Product<Self, RawSums>) {
        unreachable!("attention's products are on another path")
    }
    unsafe fn layer_norm(norm: &LayerNorm<Self>) {
        // SAFETY: see above.
        unsafe { ops::layer_norm(norm) }
        if WHERE == LAYER_NORM {
            // SAFETY: the output has `size` values.
            unsafe { *norm.out.add(norm.size - 1) += 0.01 };
        }
    }
    unsafe fn quantize(quantize: &Quantize<Self>) {
        // SAFETY: see above.
        unsafe { ops::quantize(quantize) }
    }
    unsafe fn attend(attention: &Attention<Self>) {
        let mut attention = *attention;
        if WHERE == ATTENTION {
            attention.scale_log2e *= 1.01;
        }
        if WHERE == LAST_QUERY {
            attention.queries -= 1;
        }
        // SAFETY: see above.
        unsafe { attention::attend(&attention) }
        if WHERE == BESIDE {
            // SAFETY: rows are longer than the head.
            unsafe { *attention.out.first.add(attention.head_dim) = 0.0 };
        }
    }
    unsafe fn peak_steps(_: usize) -> f32 {
        unreachable!("no check measures")
    }
    const PEAK_FLOP: usize = 0;
}

// SAFETY (all methods): the caller's, for the same method of the right path.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl<const WHERE: u8> Path for Broken<WHERE> {
    type Simd = Portable;
    type Activation = f32;
    type Weight = f32;
    type Inner = f32;
    type Attention = Right;
    type A = Vector<Self>;
    type B = Vector<Self>;
    type Sum = Vector<Self>;

    const STEP: usize = Right::STEP;
    const MAX_VECTORS: usize = Right::MAX_VECTORS;
    const SHORT: bool = false;
    const FUSED: bool = Right::FUSED;

    fn convert(row: &[f32], converted: &mut [f32]) -> ColumnScale {
        Right::convert(row, converted)
    }
    unsafe fn broadcast(p: *const f32, stride: usize) -> Self::A {
        unsafe { Right::broadcast(p, stride) }
    }
    unsafe fn load_weights(p: *const f32) -> Self::B {
        unsafe { Right::load_weights(p) }
    }
    unsafe fn zero_sum() -> Self::Sum {
        unsafe { Right::zero_sum() }
    }
    unsafe fn step(a: Self::A, b: Self::B, mut sum: Self::Sum) -> Self::Sum {
        if WHERE == PRODUCT {
            // The last bit of one lane.
            sum[3] = sum[3].next_up();
        }
        unsafe { Right::step(a, b, sum) }
    }
    unsafe fn value(sum: Self::Sum, _: usize, _: RowScale, _: &ColumnScales<Self>) -> Vector<Self> {
        sum
    }
    unsafe fn store(p: *mut f32, v: Vector<Self>) {
        unsafe { Right::store(p, v) }
    }
    unsafe fn store_step(p: *mut f32, rows: [Vector<Self>; MAX_STEP]) {
        unsafe { Right::store_step(p, rows) }
    }
    unsafe fn store_quantized(_: *mut f32, _: Vector<Self>) {
        unreachable!("this path is not quantised")
    }
}

/// What `vpmaddubsw` would do: sums of two products stop at the ends of 16 bits.
#[derive(Clone, Copy)]
struct Saturating;

// SAFETY (all methods): the caller's, for the same method of the right instruction.
#[allow(clippy::undocumented_unsafe_blocks, reason = "stated once above for the whole block")]
impl IntegerDot for Saturating {
    type Simd = Portable;
    type Activations = [i32; 8];
    type Weights = [i32; 8];
    type Sums = [i32; 8];

    unsafe fn broadcast(p: *const u8, _: usize) -> [i32; 8] {
        unsafe { Loops::broadcast(p, 0) }
    }
    unsafe fn load(p: *const i8) -> [i32; 8] {
        unsafe { Loops::load(p) }
    }
    unsafe fn zero() -> [i32; 8] {
        [0; 8]
    }
    unsafe fn dot(a: [i32; 8], b: [i32; 8], mut sum: [i32; 8]) -> [i32; 8] {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            let product = |i: usize| i32::from(a[i]) * i32::from(b[i] as i8);
            for pair in [product(0) + product(1), product(2) + product(3)] {
                *sum += pair.clamp(i16::MIN.into(), i16::MAX.into());
            }
        }
        sum
    }
    unsafe fn to_floats(sum: [i32; 8], _: usize) -> [f32; 8] {
        unsafe { Loops::to_floats(sum, 0) }
    }
    unsafe fn store_bytes(p: *mut u8, v: [f32; 8]) {
        unsafe { Loops::store_bytes(p, v) }
    }
}

kernels!(Int8<Saturating, F32<Portable>>);
