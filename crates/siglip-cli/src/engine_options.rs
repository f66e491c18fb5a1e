//! Where engines compute and how: the processor, or NVIDIA cards.

use std::sync::Arc;
use std::time::Duration;

use siglip::engine::Precision;
use siglip::profile::Profile;
use siglip_cuda::probe::{Card, probe};
use siglip_cuda::{CudaError, Libraries, LibraryPath, Probe};

use crate::args::{CudaArgs, EngineArgs, PrecisionArg};
use crate::device::Device;
use crate::failure::Failure;
use crate::load;

/// What the engines of a command are built with.
#[derive(Clone)]
pub(crate) enum EngineOptions {
    Cpu(siglip_cpu::Options),
    Cuda(CardOptions),
}

/// The cards to compute on, and how.
#[derive(Clone)]
pub(crate) struct CardOptions {
    /// Those that were asked for.
    pub(crate) cards: Vec<usize>,
    /// How, on each of them.
    options: siglip_cuda::Options,
}

impl CardOptions {
    /// For one of the cards, whose tower is to have that many engines.
    pub(crate) fn on(&self, card: usize, engines: usize) -> siglip_cuda::Options {
        siglip_cuda::Options { card, engines, ..self.options.clone() }
    }

    /// Where the engines add up their operations' times.
    pub(crate) fn profile(&mut self, profile: Option<Arc<Profile>>) {
        self.options.profile = profile;
    }
}

impl EngineOptions {
    /// The devices that are asked for, or with `auto` the best there is.
    pub(crate) fn new(args: &EngineArgs, max_batch_size: usize) -> Result<EngineOptions, Failure> {
        let cards = match &args.device {
            Device::Cpu => Vec::new(),
            Device::Cuda(cards) => cards.clone(),
            Device::AllCards => supported_cards(&probe(&library_path(&args.cuda)))?,
            Device::Auto => best_card(args).into_iter().collect(),
        };
        if let Some(&first) = cards.first() {
            let libraries = Libraries::open(&library_path(&args.cuda))?;
            let precision = args.precision.resolve(Precision::Bf16);
            let options = siglip_cuda::Options::new(libraries, first, precision, max_batch_size);
            return Ok(EngineOptions::Cuda(CardOptions { cards, options }));
        }
        let precision = args.precision.resolve(siglip_cpu::auto_precision());
        let pool = load::pool(args.threads)?;
        let mut options = siglip_cpu::Options::new(precision, pool, max_batch_size)?;
        if let Some(isa) = args.isa {
            options.isa = isa;
        }
        Ok(EngineOptions::Cpu(options))
    }

    pub(crate) fn precision(&self) -> Precision {
        match self {
            EngineOptions::Cpu(options) => options.precision,
            EngineOptions::Cuda(cards) => cards.options.precision,
        }
    }

    pub(crate) fn max_batch_size(&self) -> usize {
        match self {
            EngineOptions::Cpu(options) => options.max_batch_size,
            EngineOptions::Cuda(cards) => cards.options.max_batch_size,
        }
    }

    /// The kernels that compute, as far as they make a difference to the result.
    pub(crate) fn kernels(&self) -> String {
        match self {
            EngineOptions::Cpu(options) => options.isa.to_string(),
            EngineOptions::Cuda(_) => "cuda".into(),
        }
    }

    /// How many devices compute: the processor, or the cards that were asked for.
    pub(crate) fn devices(&self) -> usize {
        match self {
            EngineOptions::Cpu(_) => 1,
            EngineOptions::Cuda(cards) => cards.cards.len(),
        }
    }

    /// The peak of one device's matrix products in this precision, in GFLOP/s, measured for about `duration`.
    pub(crate) fn measure_peak(&self, duration: Duration) -> Result<f64, Failure> {
        Ok(match self {
            EngineOptions::Cpu(options) => siglip_cpu::measure_peak(options, duration)?,
            EngineOptions::Cuda(cards) => siglip_cuda::measure_peak(&cards.options, duration)?,
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
    probe.cards.as_ref().ok()?.iter().position(Card::is_supported)
}

/// All cards that the engine is for: one at least.
fn supported_cards(probe: &Probe) -> Result<Vec<usize>, Failure> {
    let cards = probe.cards.as_ref().map_err(|error| Failure::Cuda(error.clone()))?;
    let supported = cards.iter().enumerate().filter(|(_, card)| card.is_supported());
    let supported: Vec<usize> = supported.map(|(index, _)| index).collect();
    if supported.is_empty() {
        return Err(Failure::Cuda(CudaError::NoCard));
    }
    Ok(supported)
}
