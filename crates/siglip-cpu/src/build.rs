//! Builds engines: picks the kernels, packs the weights.

use std::sync::Arc;
use std::time::Duration;

use siglip::engine::{Engine, Precision};
use siglip::weights::{TextWeights, VisionWeights};

use crate::isa::Isa;
use crate::kernels::Kernels;
use crate::path::{F32, Int8, Widened};
use crate::peak;
use crate::profile::Profile;
use crate::simd::Portable;
use crate::text::TextTower;
use crate::threads::Pool;
use crate::vision::VisionTower;

/// How an engine is built.
#[derive(Clone)]
pub struct Options {
    /// The precision of matrix products: [`Precision::F32`], [`Precision::Bf16`] or [`Precision::Int8`].
    pub precision: Precision,
    /// The kernels to use.
    pub isa: Isa,
    /// The threads to run on; engines of one process share them.
    pub pool: Arc<Pool>,
    /// The most rows of one batch. Scratch memory does not grow with it beyond a few items.
    pub max_batch_size: usize,
    /// Where times are added up, if they are wanted.
    pub profile: Option<Arc<Profile>>,
}

impl Options {
    /// The fastest kernels that this machine has for a precision.
    ///
    /// # Errors
    ///
    /// [`BuildError::Precision`] where there are none.
    pub fn new(precision: Precision, pool: Arc<Pool>, max_batch_size: usize) -> Result<Self, BuildError> {
        let isa = Isa::candidates(precision).next().ok_or(BuildError::Precision { precision })?;
        Ok(Options { precision, isa, pool, max_batch_size, profile: None })
    }
}

/// Why an engine was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No kernels for the precision.
    #[error("the CPU engine computes in f32, bf16 or int8, not in {precision}")]
    Precision {
        /// What was asked for.
        precision: Precision,
    },
    /// The machine lacks the instruction set, or the set has no kernels for the precision.
    #[error("{isa} kernels cannot run {precision} here; this machine can use {}", available(*precision))]
    Isa {
        /// What was asked for.
        isa: Isa,
        /// The precision it was asked for.
        precision: Precision,
    },
    /// The system refused memory.
    #[error("no memory for the packed weights: {0}")]
    Memory(#[from] std::io::Error),
}

fn available(precision: Precision) -> String {
    Isa::candidates(precision).map(Isa::name).collect::<Vec<_>>().join(", ")
}

/// Builds the text tower.
///
/// # Errors
///
/// See [`BuildError`].
pub fn text_engine(weights: &TextWeights, options: &Options) -> Result<Box<dyn Engine>, BuildError> {
    dispatch(options, Text(weights, options))?
}

/// Builds the vision tower.
///
/// # Errors
///
/// See [`BuildError`].
pub fn vision_engine(weights: &VisionWeights, options: &Options) -> Result<Box<dyn Engine>, BuildError> {
    dispatch(options, Vision(weights, options))?
}

/// Measures the peak of the matrix instruction that `options` would use, in GFLOP/s over all threads, for about
/// `duration`.
///
/// # Errors
///
/// See [`BuildError`].
pub fn measure_peak(options: &Options, duration: Duration) -> Result<f64, BuildError> {
    dispatch(options, Peak(&options.pool, duration))
}

/// Something to do on a path that is only known at run time.
trait Task {
    type Output;
    fn run<P: Kernels>(self) -> Self::Output;
}

fn dispatch<T: Task>(options: &Options, task: T) -> Result<T::Output, BuildError> {
    let (isa, precision) = (options.isa, options.precision);
    if !isa.is_available() || !isa.supports(precision) {
        return Err(BuildError::Isa { isa, precision });
    }
    Ok(match (isa, precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Precision::Bf16) => task.run::<crate::path::Bf16>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::F32) => task.run::<F32<crate::simd::Avx512>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Bf16) => task.run::<Widened<crate::simd::Avx512>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::F32) => task.run::<F32<crate::simd::Avx2>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Bf16) => task.run::<Widened<crate::simd::Avx2>>(),
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, Precision::F32) => task.run::<F32<crate::simd::Neon>>(),
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, Precision::Bf16) => task.run::<Widened<crate::simd::Neon>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Precision::Int8) => task.run::<Int8<crate::simd::Avx512, crate::path::Bf16>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, Precision::Int8) => {
            task.run::<Int8<crate::simd::Avx512, F32<crate::simd::Avx512>>>()
        }
        (Isa::Portable, Precision::Int8) => task.run::<Int8<Portable, F32<Portable>>>(),
        (Isa::Portable, Precision::F32) => task.run::<F32<Portable>>(),
        (Isa::Portable, Precision::Bf16) => task.run::<Widened<Portable>>(),
        _ => return Err(BuildError::Isa { isa, precision }),
    })
}

struct Text<'a>(&'a TextWeights, &'a Options);

impl Task for Text<'_> {
    type Output = Result<Box<dyn Engine>, BuildError>;
    fn run<P: Kernels>(self) -> Self::Output {
        Ok(Box::new(TextTower::<P>::new(self.0, self.1)?))
    }
}

struct Vision<'a>(&'a VisionWeights, &'a Options);

impl Task for Vision<'_> {
    type Output = Result<Box<dyn Engine>, BuildError>;
    fn run<P: Kernels>(self) -> Self::Output {
        Ok(Box::new(VisionTower::<P>::new(self.0, self.1)?))
    }
}

struct Peak<'a>(&'a Pool, Duration);

impl Task for Peak<'_> {
    type Output = f64;
    fn run<P: Kernels>(self) -> f64 {
        peak::measure::<P>(self.0, self.1)
    }
}
