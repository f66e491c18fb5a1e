//! The CPU engine: SigLIP's towers on packed weights and fused kernels, for whatever instruction set the machine has.
//!
//! The parts, from the outside in:
//!
//! - [`build`]: picks the kernels, packs the weights, returns a [`siglip::engine::Engine`].
//! - `text`, `vision`: the two towers, each one closure that runs on all threads; `encoder`: the blocks they share.
//! - `scratch`: the memory that passes work in.
//! - `linear`, `attention` (with `scores` and `values` in 8 bits): one phase of a block each; [`threads`]: who runs them.
//! - `gemm`, `epilogue`, `gelu`, `ops`: the kernels, written once over `path` (what is multiplied with what), `simd` (with which vectors)
//!   and `dot` (with which products of narrow values); `kernels`: where they are compiled for each instruction set;
//!   [`isa`]: which sets there are.
//! - `widened`: products with weights of half the bits; `tiles`: products and attention on AMX.
//! - `check`: what kernels must pass on this machine before they are used.
//! - `pack`, `buffer`: weights in the kernels' order, in huge pages.

mod attention;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod buffer;
pub mod build;
mod check;
mod dot;
mod encoder;
mod epilogue;
mod gelu;
mod gemm;
pub mod isa;
mod kernels;
mod linear;
mod ops;
mod pack;
mod path;
mod peak;
mod profile;
mod scores;
mod scratch;
mod share;
mod simd;
#[cfg(test)]
mod tests;
mod text;
pub mod threads;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod tower;
mod values;
mod vision;
mod widened;

pub use build::{
    Bf16Products, BuildError, Options, auto_precision, bf16_products, check, measure_peak, text_engine,
    vision_engine,
};
pub use check::Difference;
pub use isa::{Experience, Isa};
pub use threads::{Pool, available_threads};
