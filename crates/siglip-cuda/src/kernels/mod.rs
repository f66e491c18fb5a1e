//! Our own kernels: for each the struct that it takes, its launch, and in tests a host twin of the same arithmetic.
//!
//! A launch checks that every buffer holds what the kernel touches; it is recorded once and replayed, so that costs
//! nothing.

pub(crate) mod attention;
pub(crate) mod attention_rows;
pub(crate) mod embedding;
pub(crate) mod layer_norm;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use crate::compile::{Constants, Source, Target, compile};
use crate::error::CudaError;
use crate::ffi::driver::Handle;
use crate::gpu::{Gpu, Module};
use crate::number::Number;
use crate::stream::Stream;

/// Threads of every kernel's blocks.
const THREADS: u32 = 128;
/// Rows of a block, where a warp computes a row.
const WARPS: usize = THREADS as usize / 32;

/// The kernels, compiled and loaded for a card and a tower's sizes.
pub(crate) struct Kernels {
    gpu: Arc<Gpu>,
    pub(crate) constants: Constants,
    /// What they were compiled for, for people.
    pub(crate) target: String,
    token_embedding: Handle,
    patches: Handle,
    layer_norm: Handle,
    layer_norm_wide: Handle,
    /// There for fp8 only.
    layer_norm_fp8: Option<Handle>,
    /// For few positions and for more; not there for f32.
    attention: Option<[Handle; 2]>,
    attention_rows: Handle,
    /// Keep the functions loaded.
    _modules: Vec<Module>,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Kernels {}

impl Kernels {
    pub(crate) fn new(gpu: &Arc<Gpu>, constants: Constants) -> Result<Kernels, CudaError> {
        let nvrtc = &gpu.libraries.nvrtc;
        let target = Target::of(nvrtc, gpu.arch())?;
        let load = |source| Module::load(gpu, &compile(nvrtc, source, &constants, target)?);
        let embedding = load(Source::EMBEDDING)?;
        let layer_norm = load(Source::LAYER_NORM)?;
        let attention = load(Source::ATTENTION)?;
        let attention_rows = load(Source::ATTENTION_ROWS)?;
        let fp8 = constants.number == Number::E4m3;
        let on_tensor_cores = constants.number != Number::F32;
        let attentions = || {
            Ok::<_, CudaError>([attention.function(c"attention")?, attention.function(c"attention_wide")?])
        };
        Ok(Kernels {
            gpu: Arc::clone(gpu),
            constants,
            target: format!("sm_{}", gpu.arch()),
            token_embedding: embedding.function(c"token_embedding")?,
            patches: embedding.function(c"patches")?,
            layer_norm: layer_norm.function(c"layer_norm")?,
            layer_norm_wide: layer_norm.function(c"layer_norm_wide")?,
            layer_norm_fp8: fp8.then(|| layer_norm.function(c"layer_norm_fp8")).transpose()?,
            attention: on_tensor_cores.then(attentions).transpose()?,
            attention_rows: attention_rows.function(c"attention_rows")?,
            _modules: vec![embedding, layer_norm, attention, attention_rows],
        })
    }

    /// Puts a kernel into the stream.
    ///
    /// # Safety
    ///
    /// `parameters` is the struct that the kernel takes, and its addresses hold what the kernel touches on this grid.
    unsafe fn launch<P>(
        &self,
        function: Handle,
        grid: [usize; 3],
        mut parameters: P,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let [x, y, z] = grid.map(|blocks| u32::try_from(blocks).unwrap_or(u32::MAX));
        let mut arguments = [(&raw mut parameters).cast::<c_void>()];
        // SAFETY: the parameters live until the call returns, which copies them; the rest is as the caller guarantees.
        let code = unsafe {
            (self.gpu.driver().cuLaunchKernel)(
                function,
                x,
                y,
                z,
                THREADS,
                1,
                1,
                0,
                stream.handle(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.gpu.check("cuLaunchKernel", code)
    }
}

/// log2(e) / √head_dim: softmax in powers of two.
fn scale_log2(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}
