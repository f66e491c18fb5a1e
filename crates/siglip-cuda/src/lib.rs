//! The CUDA engine: SigLIP's towers on NVIDIA cards, from a program that also runs where there is none.
//!
//! Nothing of CUDA is linked. The driver, NVRTC and cuBLASLt are opened when an engine is built, and their absence is a
//! [`CudaError`] that says how they are usually had. The kernels are CUDA C++ in `kernels/`, compiled by NVRTC for the
//! card that is there; the matrix products are cuBLASLt's.
//!
//! Its tests need no card: they compile every kernel for four generations of cards, and run the very same sources and call
//! sequences on an emulated driver. `docs/cuda.md` says what was run on which card, and what was not yet.
//!
//! The parts, from the outside in:
//!
//! - [`build`]: opens a card, returns one [`siglip::engine::Engine`] or two; [`mod@probe`]: what of CUDA is here, for `doctor`.
//! - `engine`: batches in and out, copies beside computation; `text`, `vision`: the two towers as sequences of launches;
//!   `encoder`: the blocks they share.
//! - `matmul`: one cuBLASLt product; `plan`: which algorithm computes it, so that a row's bits never depend on its batch.
//! - `scales`: what fp8 operands are divided by; `e4m3`: their format.
//! - `check`: what a card must compute right before its engine is handed out; `random`: numbers for that.
//! - `kernels`: our own kernels, each launch beside the host twin that it is tested against; `compile`: NVRTC.
//! - `gpu`, `memory`, `stream`: safe owners of what the driver hands out; `ffi`: the three libraries' functions.

pub mod build;
mod check;
mod clock;
mod compile;
mod e4m3;
#[cfg(test)]
mod emulator;
mod encoder;
mod engine;
mod error;
mod ffi;
mod gpu;
mod kernels;
mod matmul;
mod memory;
mod number;
mod peak;
mod plan;
pub mod probe;
mod random;
mod scales;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod vision;
mod weights;

pub use build::{Options, text_engines, vision_engines};
pub use error::CudaError;
pub use ffi::{Libraries, Library, LibraryPath};
pub use peak::measure_peak;
pub use probe::{Probe, probe};
