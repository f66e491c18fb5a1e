//! Everything that can go wrong between this crate and a card.

use siglip::engine::{EngineError, Precision};

use crate::ffi::Library;

/// Why CUDA cannot be used, or stopped working.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// A library is nowhere to be found.
    #[error("{library} cannot be opened ({reason}); {}", library.advice())]
    Library {
        /// The library.
        library: Library,
        /// What the system's loader said.
        reason: String,
    },
    /// A library is there but lacks a function: it is too old.
    #[error("{library} ({path}) has no function `{symbol}`: it is too old; {}", library.advice())]
    Symbol {
        /// The library.
        library: Library,
        /// The file that was opened.
        path: String,
        /// The function that it lacks.
        symbol: &'static str,
    },
    /// The driver is older than the oldest that is supported.
    #[error(
        "the NVIDIA driver supports CUDA {}.{}, and {}.{} is needed; a newer driver helps", version / 1000,
        version % 1000 / 10, needed / 1000, needed % 1000 / 10
    )]
    OldDriver {
        /// What it supports, as 1000 × major + 10 × minor.
        version: i32,
        /// What is needed.
        needed: i32,
    },
    /// The driver sees no card.
    #[error(
        "the NVIDIA driver sees no card: is one installed, passed to the container (--gpus all), and not hidden by CUDA_VISIBLE_DEVICES?"
    )]
    NoCard,
    /// There are fewer cards.
    #[error("there is no card {index}: the NVIDIA driver sees {count}, counted from 0")]
    CardIndex {
        /// The card asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The card's generation has no bf16 tensor cores.
    #[error("card {index} ({name}) has compute capability {}.{}, and 8.0 (Ampere) or later is needed", capability.0, capability.1)]
    OldCard {
        /// Which card.
        index: usize,
        /// Its name.
        name: String,
        /// Major and minor.
        capability: (i32, i32),
    },
    /// The card's tensor cores have no fp8.
    #[error(
        "card {index} ({name}) has compute capability {}.{}, and fp8 needs 8.9 (Ada) or later: take --precision bf16",
        capability.0, capability.1
    )]
    NoFp8 {
        /// Which card.
        index: usize,
        /// Its name.
        name: String,
        /// Major and minor.
        capability: (i32, i32),
    },
    /// The model's layers do not fit fp8 products.
    #[error(
        "fp8 takes layers whose widths are multiples of 16, and this tower has one of {width}: take --precision bf16"
    )]
    Fp8Width {
        /// The width.
        width: usize,
    },
    /// No engine for the precision.
    #[error("the CUDA engine computes in bf16, f16, f32 or fp8, not in {0}")]
    Precision(Precision),
    /// The model is outside of what the kernels are written for.
    #[error(
        "the CUDA engine takes heads of up to 128 values in {precision}, and this tower's have {head_dim}; f32 has no such limit"
    )]
    HeadDim {
        /// Values of one head.
        head_dim: usize,
        /// The precision asked for.
        precision: Precision,
    },
    /// The card's memory does not hold what was asked for.
    #[error(
        "card {index} has {:.0} MB free of {:.0} MB, and {what} needs {:.0} MB: free some, or take a smaller \
         --max-batch-size", *free as f64 / 1e6, *total as f64 / 1e6, *needed as f64 / 1e6
    )]
    OutOfMemory {
        /// Which card.
        index: usize,
        /// What the memory is for.
        what: String,
        /// Bytes that it needs.
        needed: usize,
        /// Bytes that were free.
        free: usize,
        /// Bytes that the card has.
        total: usize,
    },
    /// A call of the driver failed.
    #[error("the NVIDIA driver failed at {call}: {name} ({code}), {meaning}")]
    Driver {
        /// The function.
        call: &'static str,
        /// Its result.
        code: i32,
        /// The result's name, e.g. `CUDA_ERROR_ILLEGAL_ADDRESS`.
        name: String,
        /// The driver's words for it.
        meaning: String,
    },
    /// A call of cuBLASLt failed.
    #[error("cuBLASLt failed at {call}: {name} ({status})")]
    Blas {
        /// The function.
        call: &'static str,
        /// Its result.
        status: i32,
        /// The result's name, e.g. `CUBLAS_STATUS_NOT_SUPPORTED`.
        name: String,
    },
    /// cuBLASLt has no algorithm for a product.
    #[error(
        "cuBLASLt has no algorithm for a product of {rows} × {inputs} by {inputs} × {outputs} on this card"
    )]
    NoAlgorithm {
        /// Rows of the activations.
        rows: usize,
        /// Width of the activations.
        inputs: usize,
        /// Width of the result.
        outputs: usize,
    },
    /// What the card computes is wrong by more than rounding.
    #[error(
        "card {index} ({name}) computes {what} wrongly: {got} where {expected:.5} is right; please report it, with what `siglip \
         doctor` says; --device cpu does without the card"
    )]
    Wrong {
        /// Which card.
        index: usize,
        /// Its name.
        name: String,
        /// What was computed.
        what: String,
        /// What the card says.
        got: f32,
        /// What the host says.
        expected: f64,
    },
    /// NVRTC failed.
    #[error("NVRTC failed at {call} for {target}: {log}")]
    Compile {
        /// The function.
        call: &'static str,
        /// What was compiled for, e.g. `sm_90`.
        target: String,
        /// The compiler's words.
        log: String,
    },
}

impl CudaError {
    /// Whether what was asked for can never be done, whatever the state of the machine.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            CudaError::Precision(_)
                | CudaError::HeadDim { .. }
                | CudaError::NoFp8 { .. }
                | CudaError::Fp8Width { .. }
        )
    }

    /// As an engine's error, which names the card.
    pub(crate) fn on_card(self, index: usize) -> EngineError {
        let words = format!("card {index}: {self}");
        if self.is_fatal() { EngineError::Lost(words) } else { EngineError::Device(words) }
    }

    /// Whether the card cannot be used by this process any more: its context returns the same error from now on to
    /// whatever it is asked, says NVIDIA's documentation of these results (`CUresult` in the driver's API).
    fn is_fatal(&self) -> bool {
        matches!(self, CudaError::Driver { code: 214 | 220 | 700 | 702 | 709 | 710 | 714..=719, .. })
    }
}
