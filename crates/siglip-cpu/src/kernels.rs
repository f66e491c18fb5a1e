//! The entry points: the generic kernels, compiled once for each instruction set.
//!
//! [`Kernels`] is implemented for exactly the combinations that an engine may be built on. Its methods are where the
//! wide instructions begin: each wraps a function that enables its set's features, into which the generic code of
//! [`crate::gemm`], [`crate::ops`], [`crate::attention`] and [`crate::peak`] is inlined.

use crate::attention::{self, Attention, Operands};
use crate::dot::Loops;
use crate::epilogue::RawSums;
use crate::gemm::{self, Product};
use crate::ops::{self, LayerNorm, Quantize};
use crate::path::{F32, Int8, Path, Widened};
use crate::peak;
use crate::simd::Portable;
use crate::widened;

/// A [`Path`] with its compiled kernels.
///
/// # Safety of the methods
///
/// The machine must have the path's instructions ([`crate::isa::Isa::is_available`]), and the arguments must describe
/// valid memory as their types say.
pub(crate) trait Kernels: Path<Attention: ActivationKernels> {
    /// To be called on a thread before the methods below.
    unsafe fn enter();
    /// To be called on a thread after them, however many calls there were.
    unsafe fn leave();
    /// [`gemm::multiply`], of a layer.
    unsafe fn multiply(product: &Product<Self>);
    /// [`gemm::multiply_steps`]. Only for paths with [scores](Path::SCORES) in 8 bits.
    unsafe fn multiply_steps(product: &Product<Self, RawSums>);
    /// [`ops::layer_norm`].
    unsafe fn layer_norm(norm: &LayerNorm<Self>);
    /// [`ops::quantize`].
    unsafe fn quantize(quantize: &Quantize<Self>);
    /// [`attention::attend`].
    unsafe fn attend(attention: &Attention<Self>);
    /// [`peak::steps`].
    unsafe fn peak_steps(rounds: usize) -> f32;
    /// Operations of one round of `peak_steps`.
    const PEAK_FLOP: usize;
}

/// The compiled kernel for products of activations with one another.
///
/// # Safety of the method
///
/// As for [`Kernels`].
pub(crate) trait ActivationKernels: Path {
    /// [`Operands::multiply`]. Not for paths with a tile unit, whose attention has kernels of its own.
    unsafe fn multiply(_: &Operands<Self>) {
        unreachable!("attention with tiles does not multiply with vectors")
    }
}

macro_rules! kernels {
    // Weights are widened before they are multiplied.
    (widened $simd:ty $(, $features:literal)?) => {
        kernels!(
            @ Widened<$simd>,
            ($($features)?),
            widened::multiply::<$simd>,
            attention::attend::<Widened<$simd>>,
            (|| {}, || {}),
            peak::steps::<F32<$simd>>,
            peak::flop::<F32<$simd>>()
        );
    };
    ($path:ty $(, $features:literal)?) => {
        kernels!(
            @ $path,
            ($($features)?),
            gemm::multiply,
            attention::attend::<$path>,
            (|| {}, || {}),
            peak::steps::<$path>,
            peak::flop::<$path>()
        );
    };
    // Layers are multiplied with a tile unit.
    ($path:ty, $features:literal, $tiles:ty) => {
        kernels!(
            @ $path,
            ($features),
            tiles::multiply::<$path, $tiles>,
            tiles::attend::<$path, $tiles>,
            (<$tiles as Tiles>::configure, <$tiles as Tiles>::release),
            tiles::peak_steps::<$path, $tiles>,
            tiles::peak_flop::<$path>()
        );
    };
    (@ $path:ty, ($($features:literal)?), $multiply:expr, $attend:expr, ($enter:expr, $leave:expr),
     $peak_steps:expr, $peak_flop:expr) => {
        // Within the methods the features are enabled, so what is `inline(always)` below compiles to the wide set.
        impl Kernels for $path {
            #[allow(unused_unsafe, reason = "most paths have nothing to do")]
            unsafe fn enter() {
                // SAFETY: the caller's contract.
                unsafe { $enter() }
            }
            #[allow(unused_unsafe, reason = "as above")]
            unsafe fn leave() {
                // SAFETY: the caller's contract.
                unsafe { $leave() }
            }
            unsafe fn multiply(product: &Product<Self>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn enabled(product: &Product<$path>) {
                    // SAFETY: the caller's contract.
                    unsafe { $multiply(product) }
                }
                // SAFETY: the caller's contract.
                unsafe { enabled(product) }
            }
            unsafe fn multiply_steps(product: &Product<Self, RawSums>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn enabled(product: &Product<$path, RawSums>) {
                    if !<$path as Path>::SCORES {
                        unreachable!("attention's products are on another path");
                    }
                    // SAFETY: the caller's contract.
                    unsafe { gemm::multiply_steps(product) }
                }
                // SAFETY: the caller's contract.
                unsafe { enabled(product) }
            }
            unsafe fn layer_norm(norm: &LayerNorm<Self>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn enabled(norm: &LayerNorm<$path>) {
                    // SAFETY: the caller's contract.
                    unsafe { ops::layer_norm(norm) }
                }
                // SAFETY: the caller's contract.
                unsafe { enabled(norm) }
            }
            unsafe fn quantize(quantize: &Quantize<Self>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn enabled(quantize: &Quantize<$path>) {
                    // SAFETY: the caller's contract.
                    unsafe { ops::quantize(quantize) }
                }
                // SAFETY: the caller's contract.
                unsafe { enabled(quantize) }
            }
            unsafe fn attend(attention: &Attention<Self>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn enabled(attention: &Attention<$path>) {
                    // SAFETY: the caller's contract.
                    unsafe { $attend(attention) }
                }
                // SAFETY: the caller's contract.
                unsafe { enabled(attention) }
            }
            unsafe fn peak_steps(rounds: usize) -> f32 {
                $(#[target_feature(enable = $features)])?
                unsafe fn enabled(rounds: usize) -> f32 {
                    // SAFETY: the caller's contract.
                    unsafe { $peak_steps(rounds) }
                }
                // SAFETY: the caller's contract.
                unsafe { enabled(rounds) }
            }
            const PEAK_FLOP: usize = $peak_flop;
        }
    };
}

macro_rules! activation_kernels {
    ($path:ty $(, $features:literal)?) => {
        impl ActivationKernels for $path {
            unsafe fn multiply(operands: &Operands<Self>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn enabled(operands: &Operands<$path>) {
                    // SAFETY: the caller's contract.
                    unsafe { operands.multiply() }
                }
                // SAFETY: the caller's contract.
                unsafe { enabled(operands) }
            }
        }
    };
}
#[cfg(test)]
pub(crate) use kernels;

kernels!(F32<Portable>);
activation_kernels!(F32<Portable>);
kernels!(widened Portable);
kernels!(Int8<Loops, F32<Portable>>);

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::*;
    use crate::dot::{Vdpbf16ps, Vpdpbusd, Vpdpbusd256, Vpmaddwd};
    use crate::path::Bf16;
    use crate::simd::{Avx2, Avx512};
    use crate::tiles::{self, Amx, Tiled, Tiles};

    kernels!(F32<Avx2>, "avx2,fma");
    activation_kernels!(F32<Avx2>, "avx2,fma");
    kernels!(widened Avx2, "avx2,fma");
    kernels!(Int8<Vpmaddwd, F32<Avx2>>, "avx2,fma");
    kernels!(Int8<Vpdpbusd256, F32<Avx2>>, "avx2,fma,avxvnni");
    kernels!(F32<Avx512>, "avx512f,avx512bw,avx512dq,avx512vl");
    activation_kernels!(F32<Avx512>, "avx512f,avx512bw,avx512dq,avx512vl");
    kernels!(widened Avx512, "avx512f,avx512bw,avx512dq,avx512vl");
    kernels!(Bf16<Vdpbf16ps>, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16");
    activation_kernels!(Bf16<Vdpbf16ps>, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16");
    kernels!(Int8<Vpdpbusd, F32<Avx512>>, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");
    kernels!(
        Int8<Vpdpbusd, Bf16<Vdpbf16ps>>,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni"
    );
    kernels!(Bf16<Tiled<Amx<false>, Vdpbf16ps>>, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", Amx<false>);
    impl ActivationKernels for Bf16<Tiled<Amx<false>, Vdpbf16ps>> {}
    kernels!(
        Int8<Tiled<Amx<true>, Vpdpbusd>, Bf16<Tiled<Amx<false>, Vdpbf16ps>>>,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni",
        Amx<true>
    );
    #[cfg(test)]
    mod emulated {
        use super::*;
        use crate::dot::EmulatedVdpbf16ps;
        use crate::tiles::Emulated;

        kernels!(Bf16<EmulatedVdpbf16ps>, "avx512f,avx512bw,avx512dq,avx512vl");
        activation_kernels!(Bf16<EmulatedVdpbf16ps>, "avx512f,avx512bw,avx512dq,avx512vl");
        kernels!(
            Int8<Vpdpbusd, Bf16<EmulatedVdpbf16ps>>,
            "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
        );
        kernels!(
            Bf16<Tiled<Emulated<false>, EmulatedVdpbf16ps>>,
            "avx512f,avx512bw,avx512dq,avx512vl",
            Emulated<false>
        );
        impl ActivationKernels for Bf16<Tiled<Emulated<false>, EmulatedVdpbf16ps>> {}
        kernels!(
            Int8<Tiled<Emulated<true>, Vpdpbusd>, Bf16<Tiled<Emulated<false>, EmulatedVdpbf16ps>>>,
            "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
            Emulated<true>
        );
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::*;
    use crate::dot::{Bfmmla, Sdot, Usmmla};
    use crate::path::Bf16;
    use crate::simd::Neon;

    kernels!(F32<Neon>, "neon");
    activation_kernels!(F32<Neon>, "neon");
    kernels!(widened Neon, "neon");
    kernels!(Int8<Sdot, F32<Neon>>, "neon,dotprod");
    kernels!(Bf16<Bfmmla>, "neon,bf16");
    activation_kernels!(Bf16<Bfmmla>, "neon,bf16");
    kernels!(Int8<Usmmla, Bf16<Bfmmla>>, "neon,bf16,i8mm");
}
