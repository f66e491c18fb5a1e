//! Where engines compute and how: the processor, or an NVIDIA card.

use std::time::Duration;

use siglip::engine::Precision;
use siglip_cuda::{Libraries, LibraryPath, Probe, probe};

use crate::args::{CudaArgs, Device, EngineArgs, PrecisionArg};
use crate::failure::Failure;
use crate::load;

/// What the engines of a command are built with.
#[derive(Clone)]
pub(crate) enum EngineOptions {
    Cpu(siglip_cpu::Options),
    Cuda(siglip_cuda::Options),
}

impl EngineOptions {
    /// The device that is asked for, or with `auto` the best there is.
    pub(crate) fn new(args: &EngineArgs, max_batch_size: usize) -> Result<EngineOptions, Failure> {
        let card = match args.device {
            Device::Cpu => None,
            Device::Cuda(card) => Some(card),
            Device::Auto => best_card(args),
        };
        match card {
            Some(card) => {
                let libraries = Libraries::open(&library_path(&args.cuda))?;
                let precision = args.precision.resolve(Precision::Bf16);
                let options = siglip_cuda::Options::new(libraries, card, precision, max_batch_size);
                Ok(EngineOptions::Cuda(options))
            }
            None => {
                let precision = args.precision.resolve(siglip_cpu::auto_precision());
                let pool = load::pool(args.threads)?;
                let mut options = siglip_cpu::Options::new(precision, pool, max_batch_size)?;
                if let Some(isa) = args.isa {
                    options.isa = isa;
                }
                Ok(EngineOptions::Cpu(options))
            }
        }
    }

    pub(crate) fn precision(&self) -> Precision {
        match self {
            EngineOptions::Cpu(options) => options.precision,
            EngineOptions::Cuda(options) => options.precision,
        }
    }

    pub(crate) fn max_batch_size(&self) -> usize {
        match self {
            EngineOptions::Cpu(options) => options.max_batch_size,
            EngineOptions::Cuda(options) => options.max_batch_size,
        }
    }

    /// The kernels that compute, as far as they make a difference to the result.
    pub(crate) fn kernels(&self) -> String {
        match self {
            EngineOptions::Cpu(options) => options.isa.to_string(),
            EngineOptions::Cuda(_) => "cuda".into(),
        }
    }

    /// The peak of the device's matrix products in this precision, in GFLOP/s, measured for about `duration`.
    pub(crate) fn measure_peak(&self, duration: Duration) -> Result<f64, Failure> {
        Ok(match self {
            EngineOptions::Cpu(options) => siglip_cpu::measure_peak(options, duration)?,
            EngineOptions::Cuda(options) => siglip_cuda::measure_peak(options, duration)?,
        })
    }
}

pub(crate) fn library_path(args: &CudaArgs) -> LibraryPath {
    LibraryPath::new(args.cuda_libraries.clone())
}

/// The card that `--device auto` means, if any. That there is none is no news; that one lies idle is.
fn best_card(args: &EngineArgs) -> Option<usize> {
    // These ask for the processor.
    if args.isa.is_some() || args.precision == PrecisionArg::Int8 {
        return None;
    }
    let probe = probe(&library_path(&args.cuda));
    let card = first_card(&probe)?;
    let missing: Vec<_> = probe.libraries.iter().filter_map(|(_, found)| found.as_ref().err()).collect();
    for error in &missing {
        tracing::warn!("a card is there and not used: {error}");
    }
    missing.is_empty().then_some(card)
}

fn first_card(probe: &Probe) -> Option<usize> {
    probe.cards.as_ref().ok()?.iter().position(siglip_cuda::probe::Card::is_supported)
}
