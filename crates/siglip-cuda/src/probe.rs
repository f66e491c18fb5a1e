//! What of CUDA is on this machine, for `siglip doctor` and for `--device auto`.

use crate::error::CudaError;
use crate::ffi::cublaslt::CublasLt;
use crate::ffi::driver::Driver;
use crate::ffi::nvrtc::Nvrtc;
use crate::ffi::{Library, LibraryPath};
use crate::{compile, gpu};

/// What was found.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Each library with its file and version, or why it cannot be used.
    pub libraries: Vec<(Library, Result<Found, CudaError>)>,
    /// The cards that the driver sees, or why there is none.
    pub cards: Result<Vec<Card>, CudaError>,
}

/// An opened library.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file.
    pub path: String,
    /// Its version, e.g. `12.9`; for the driver the CUDA version that it supports.
    pub version: String,
}

/// A card.
#[derive(Clone, Debug)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: usize,
}

impl Card {
    /// Whether its generation is one that the engine is for: Ampere or later.
    pub fn is_supported(&self) -> bool {
        self.capability >= gpu::OLDEST_CAPABILITY
    }

    /// Whether its tensor cores multiply fp8: Ada and Hopper or later.
    pub fn has_fp8(&self) -> bool {
        self.capability >= gpu::FP8_CAPABILITY
    }
}

impl Probe {
    /// Whether an engine can be expected to build.
    pub fn usable(&self) -> bool {
        self.libraries.iter().all(|(_, found)| found.is_ok())
            && self.cards.as_ref().is_ok_and(|cards| cards.iter().any(Card::is_supported))
    }
}

/// Looks for the libraries and the cards. Takes no memory on any card.
pub fn probe(path: &LibraryPath) -> Probe {
    let driver = Driver::open(path);
    let cards = match &driver {
        Ok(driver) => cards(driver),
        Err(error) => Err(error.clone()),
    };
    let driver = driver.map(|driver| Found {
        version: gpu::driver_version(&driver).map_or_else(|_| "unknown".into(), dotted),
        path: driver.path,
    });
    let nvrtc = Nvrtc::open(path).map(|nvrtc| Found {
        version: compile::version(&nvrtc)
            .map_or_else(|| "unknown".into(), |(major, minor)| format!("{major}.{minor}")),
        path: nvrtc.path,
    });
    let cublaslt = CublasLt::open(path).map(|blas| {
        // SAFETY: takes nothing and returns a number.
        let version = unsafe { (blas.cublasLtGetVersion)() };
        Found { version: format!("{}.{}", version / 10_000, version / 100 % 100), path: blas.path }
    });
    let libraries = Library::ALL.into_iter().zip([driver, nvrtc, cublaslt]).collect();
    Probe { libraries, cards }
}

fn cards(driver: &Driver) -> Result<Vec<Card>, CudaError> {
    let card = |index| {
        let mut device = 0;
        // SAFETY: writes one int.
        driver.check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&raw mut device, index) })?;
        Ok(Card {
            name: gpu::card_name(driver, device)?,
            capability: gpu::card_capability(driver, device)?,
            memory: gpu::card_memory(driver, device)?,
        })
    };
    (0..gpu::card_count(driver)? as i32).map(card).collect()
}

fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
