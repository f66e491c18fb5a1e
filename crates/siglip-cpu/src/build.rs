//! Builds engines: picks the kernels, packs the weights.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use siglip::engine::{Engine, Precision};
use siglip::profile::Profile;
use siglip::weights::{TextWeights, VisionWeights};

use crate::check::{self, Difference};
use crate::dot::Loops;
use crate::isa::Isa;
use crate::kernels::Kernels;
use crate::path::{F32, Int8, Widened};
use crate::peak;
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
    /// The fastest kernels that this machine has for a precision, of those that [compute rightly](check()) here.
    ///
    /// # Errors
    ///
    /// [`BuildError::Precision`] where there are none, [`BuildError::Check`] where none is right.
    pub fn new(precision: Precision, pool: Arc<Pool>, max_batch_size: usize) -> Result<Self, BuildError> {
        let isa = pick(precision, fastest_first(precision), |isa| check(isa, precision))?;
        Ok(Options { precision, isa, pool, max_batch_size, profile: None })
    }
}

/// The first candidate that passes its check.
fn pick(
    precision: Precision,
    candidates: impl Iterator<Item = Isa>,
    check: impl Fn(Isa) -> Result<(), BuildError>,
) -> Result<Isa, BuildError> {
    let mut failure = BuildError::Precision { precision };
    for isa in candidates {
        match check(isa) {
            Ok(()) => return Ok(isa),
            Err(error) => {
                tracing::warn!("{error}; they are not used");
                failure = error;
            }
        }
    }
    Err(failure)
}

/// The sets that this machine has for a precision, the fastest first: in the order of [`Isa::ALL`], but those whose bf16
/// products are slower than the machine's f32 products at the end. In bf16 the next one then multiplies widened weights,
/// in int8 it differs in attention.
fn fastest_first(precision: Precision) -> impl Iterator<Item = Isa> {
    let slow = |isa: &Isa| isa.multiplies_bf16() && !outruns_f32(*isa);
    let (last, first): (Vec<_>, Vec<_>) = Isa::candidates(precision).partition(slow);
    first.into_iter().chain(last)
}

/// What the processor has for products of bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Products {
    /// Instructions that are faster than those for f32.
    Fast,
    /// Instructions that are slower than those for f32: weights are kept in bf16, and widened to be multiplied.
    Slow,
    /// No instructions, or none that compute rightly.
    None,
}

/// What this machine's processor has for products of bf16. The first call measures, for less than a millisecond.
pub fn bf16_products() -> Bf16Products {
    let right = |isa: &Isa| isa.multiplies_bf16() && check(*isa, Precision::Bf16).is_ok();
    match Isa::candidates(Precision::Bf16).find(right) {
        Some(isa) if outruns_f32(isa) => Bf16Products::Fast,
        Some(_) => Bf16Products::Slow,
        None => Bf16Products::None,
    }
}

/// The precision that `auto` means here: bf16 where the processor multiplies it, and rightly; f32 elsewhere. Where its
/// products of bf16 are slow, bf16 still halves the memory, at the rate of f32.
pub fn auto_precision() -> Precision {
    match bf16_products() {
        Bf16Products::Fast | Bf16Products::Slow => Precision::Bf16,
        Bf16Products::None => Precision::F32,
    }
}

/// Whether a set multiplies bf16 faster than the machine's best set multiplies f32, which one thread measures once in a
/// process. Where it has been seen, one was twice the other: a `vdpbf16ps` takes as long as a `vfmadd231ps` on an EPYC, and
/// four times as long on a Xeon whose tile unit was hidden from the virtual machine.
fn outruns_f32(isa: Isa) -> bool {
    static RESULTS: [OnceLock<bool>; Isa::ALL.len()] = [const { OnceLock::new() }; Isa::ALL.len()];
    *RESULTS[isa as usize].get_or_init(|| {
        let Some(single) = Isa::candidates(Precision::F32).next() else { return true };
        let rate = |isa, precision| on_path(isa, precision, Burst).unwrap_or(0.0);
        // In turns, and the best of each: what disturbs some of them disturbs neither result.
        let (mut bf16, mut f32) = (0.0_f64, 0.0_f64);
        for _ in 0..10 {
            bf16 = bf16.max(rate(isa, Precision::Bf16));
            f32 = f32.max(rate(single, Precision::F32));
        }
        bf16 > f32
    })
}

/// A path's rate in GFLOP/s over some microseconds.
struct Burst;

impl Task for Burst {
    type Output = f64;
    fn run<P: Kernels>(self) -> f64 {
        // SAFETY: tasks run only on paths that the machine has.
        unsafe {
            P::enter();
            let rate = peak::burst::<P>(1_000);
            P::leave();
            rate
        }
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
    /// The kernels compute something else than they should on this machine.
    #[error("{isa} kernels compute {precision} wrongly on this machine ({difference})")]
    Check {
        /// The kernels.
        isa: Isa,
        /// The precision they were checked for.
        precision: Precision,
        /// What was wrong.
        difference: Difference,
    },
    /// A patch's products do not fit a sum of 32 bits.
    #[error(
        "int8 adds up at most {MOST_BYTE_PRODUCTS} products, and a patch of this model has {values}; use bf16 or f32"
    )]
    Patch {
        /// Values of a patch.
        values: usize,
    },
    /// The system refused memory.
    #[error("no memory for the packed weights: {0}")]
    Memory(#[from] std::io::Error),
}

/// Products of an unsigned and a signed byte that a sum of 32 bits holds. A configuration's other sizes are smaller.
pub(crate) const MOST_BYTE_PRODUCTS: usize = i32::MAX as usize / (255 * 127);

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
pub(crate) trait Task {
    type Output;
    fn run<P: Kernels>(self) -> Self::Output;
}

/// Runs a task on the path that `options` names, if the path passes its check.
pub(crate) fn dispatch<T: Task>(options: &Options, task: T) -> Result<T::Output, BuildError> {
    check(options.isa, options.precision)?;
    on_path(options.isa, options.precision, task)
}

/// Checks a set's kernels for a precision against plain loops; the first call in a process computes, the others know.
///
/// # Errors
///
/// [`BuildError::Isa`] where the machine has no such kernels, [`BuildError::Check`] where they differ.
pub fn check(isa: Isa, precision: Precision) -> Result<(), BuildError> {
    type Result = std::result::Result<(), Difference>;
    static RESULTS: [[OnceLock<Result>; 3]; Isa::ALL.len()] =
        [const { [const { OnceLock::new() }; 3] }; Isa::ALL.len()];
    let column = match precision {
        Precision::F32 => 0,
        Precision::Bf16 => 1,
        Precision::Int8 => 2,
        _ => return Err(BuildError::Precision { precision }),
    };
    let cell = &RESULTS[isa as usize][column];
    let result = match cell.get() {
        Some(result) => result,
        None => {
            let result = on_path(isa, precision, Check)?;
            cell.get_or_init(|| result)
        }
    };
    result.clone().map_err(|difference| BuildError::Check { isa, precision, difference })
}

struct Check;

impl Task for Check {
    type Output = Result<(), Difference>;
    fn run<P: Kernels>(self) -> Self::Output {
        // SAFETY: tasks run only on paths that the machine has.
        unsafe { check::check::<P>() }
    }
}

fn on_path<T: Task>(isa: Isa, precision: Precision, task: T) -> Result<T::Output, BuildError> {
    #[cfg(target_arch = "aarch64")]
    use crate::{
        dot::{Bfmmla, Sdot, Usmmla},
        path::Bf16,
        simd::Neon,
    };
    #[cfg(target_arch = "x86_64")]
    use crate::{
        dot::{Vdpbf16ps, Vpdpbusd, Vpdpbusd256, Vpmaddwd},
        path::Bf16,
        simd::{Avx2, Avx512},
        tiles::{Amx, Tiled},
    };
    if !isa.is_available() || !isa.supports(precision) {
        return Err(BuildError::Isa { isa, precision });
    }
    Ok(match (isa, precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, Precision::Bf16) => task.run::<Bf16<Tiled<Amx<false>, Vdpbf16ps>>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, Precision::Int8) => {
            task.run::<Int8<Tiled<Amx<true>, Vpdpbusd>, Bf16<Tiled<Amx<false>, Vdpbf16ps>>>>()
        }
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Precision::Bf16) => task.run::<Bf16<Vdpbf16ps>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Precision::Int8) => task.run::<Int8<Vpdpbusd, Bf16<Vdpbf16ps>>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, Precision::Int8) => task.run::<Int8<Vpdpbusd, F32<Avx512>>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::F32) => task.run::<F32<Avx512>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Bf16) => task.run::<Widened<Avx512>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, Precision::Int8) => task.run::<Int8<Vpdpbusd256, F32<Avx2>>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::F32) => task.run::<F32<Avx2>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Bf16) => task.run::<Widened<Avx2>>(),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Int8) => task.run::<Int8<Vpmaddwd, F32<Avx2>>>(),
        #[cfg(target_arch = "aarch64")]
        (Isa::NeonBf16, Precision::Bf16) => task.run::<Bf16<Bfmmla>>(),
        #[cfg(target_arch = "aarch64")]
        (Isa::NeonBf16, Precision::Int8) => task.run::<Int8<Usmmla, Bf16<Bfmmla>>>(),
        #[cfg(target_arch = "aarch64")]
        (Isa::NeonDotprod, Precision::Int8) => task.run::<Int8<Sdot, F32<Neon>>>(),
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, Precision::F32) => task.run::<F32<Neon>>(),
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, Precision::Bf16) => task.run::<Widened<Neon>>(),
        (Isa::Portable, Precision::Int8) => task.run::<Int8<Loops, F32<Portable>>>(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_its_check_is_passed_over() {
        let precision = Precision::F32;
        let difference = Difference { kernel: "GELU", got: 2.0, expected: 1.0 };
        let check = |wrong: &'static [Isa]| {
            let difference = difference.clone();
            move |isa| match wrong.contains(&isa) {
                false => Ok(()),
                true => Err(BuildError::Check { isa, precision, difference: difference.clone() }),
            }
        };
        let candidates = || [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter();
        assert_eq!(pick(precision, candidates(), check(&[])).unwrap(), Isa::Avx512);
        assert_eq!(pick(precision, candidates(), check(&[Isa::Avx512])).unwrap(), Isa::Avx2);
        let picked = pick(precision, candidates(), check(&[Isa::Avx512, Isa::Avx2]));
        assert_eq!(picked.unwrap(), Isa::Portable);
        assert_eq!(
            pick(precision, candidates(), check(&Isa::ALL)).unwrap_err().to_string(),
            "portable kernels compute f32 wrongly on this machine (GELU gives 2 where 1 is right)"
        );
    }
}
