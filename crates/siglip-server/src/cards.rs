//! Load, memory and power of the cards that engines compute on, as NVIDIA's management library (NVML) tells them. The
//! driver brings it; it is opened when there is a card to ask after.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::sync::{Mutex, OnceLock, PoisonError};

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// The name under which every driver brings it; the one without a number is for building programs.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// What a card shows; none where it could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CardReading {
    pub(crate) uuid: String,
    /// The part of the last moments in which a kernel ran, from 0 to 1.
    pub(crate) utilization: Option<f64>,
    /// Bytes.
    pub(crate) memory_total: Option<f64>,
    /// Bytes.
    pub(crate) memory_used: Option<f64>,
    /// Watts.
    pub(crate) power_usage: Option<f64>,
    /// Watts.
    pub(crate) power_limit: Option<f64>,
    /// Joules since it was first read, which is when the server starts.
    pub(crate) energy: Option<f64>,
}

/// NVML, once it was needed.
#[derive(Debug, Default)]
pub(crate) struct Cards {
    nvml: OnceLock<Option<Nvml>>,
    /// Of each card when it was first read, in millijoules.
    first_energy: Mutex<HashMap<String, u64>>,
    /// Cards that something was said of in the log.
    complained: Mutex<BTreeSet<String>>,
}

impl Cards {
    /// Reads cards by their UUIDs. Without any, or without NVML, there is nothing to read.
    pub(crate) fn read(&self, uuids: &BTreeSet<String>) -> Vec<CardReading> {
        if uuids.is_empty() {
            return Vec::new();
        }
        let nvml = self.nvml.get_or_init(|| match open(LIBRARY.as_ref()) {
            Ok(nvml) => Some(nvml),
            Err(error) => {
                tracing::warn!("there will be no metrics of cards: {LIBRARY}: {error}");
                None
            }
        });
        let Some(nvml) = nvml else { return Vec::new() };
        uuids.iter().filter_map(|uuid| self.read_card(nvml, uuid)).collect()
    }

    fn read_card(&self, nvml: &Nvml, uuid: &str) -> Option<CardReading> {
        let device = self.said(uuid, nvml.device_by_uuid(uuid))?;
        let memory = self.said(uuid, device.memory_info());
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
        Some(CardReading {
            uuid: uuid.to_owned(),
            utilization: self
                .said(uuid, device.utilization_rates())
                .map(|rates| f64::from(rates.gpu) / 100.0),
            memory_total: memory.as_ref().map(|memory| memory.total as f64),
            memory_used: memory.as_ref().map(|memory| memory.used as f64),
            power_usage: self.said(uuid, device.power_usage()).map(watts),
            power_limit: self.said(uuid, device.enforced_power_limit()).map(watts),
            energy: self.energy(uuid, &device),
        })
    }

    fn energy(&self, uuid: &str, device: &Device<'_>) -> Option<f64> {
        let now = self.said(uuid, device.total_energy_consumption())?;
        let mut first = self.first_energy.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *first.entry(uuid.to_owned()).or_insert(now);
        Some(now.saturating_sub(first) as f64 / 1e3)
    }

    /// What was read. The first time that a card does not tell something, the log says so.
    fn said<T>(&self, uuid: &str, read: Result<T, NvmlError>) -> Option<T> {
        read.inspect_err(|error| {
            let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
            if complained.insert(uuid.to_owned()) {
                tracing::warn!("some metrics of the card {uuid} are missing: {error}");
            }
        })
        .ok()
    }
}

fn open(library: &OsStr) -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(library).init()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// NVML's functions as its documentation has them, for one card that does not tell its power limit.
    const FAKE: &str = r#"
        #include <string.h>
        typedef struct { unsigned gpu, memory; } Rates;
        typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
        static unsigned long long energy = 5000000;
        int nvmlInit_v2(void) { return 0; }
        int nvmlShutdown(void) { return 0; }
        int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
            *device = &energy;
            return strcmp(uuid, "GPU-1") ? 6 : 0;
        }
        int nvmlDeviceGetUtilizationRates(void* device, Rates* rates) { rates->gpu = 75; rates->memory = 1; return 0; }
        int nvmlDeviceGetMemoryInfo_v2(void* device, Memory* memory) {
            memory->total = 1000; memory->used = 250; memory->free = 700; memory->reserved = 50;
            return 0;
        }
        int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) { *milliwatts = 312500; return 0; }
        int nvmlDeviceGetEnforcedPowerLimit(void* device, unsigned* milliwatts) { return 3; }
        int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
            *millijoules = energy;
            energy += 1500;
            return 0;
        }
    "#;

    fn fake(folder: &Path) -> Option<Nvml> {
        let (source, library) = (folder.join("nvml.c"), folder.join("libnvidia-ml.so.1"));
        std::fs::write(&source, FAKE).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output();
        match built {
            Ok(output) if output.status.success() => Some(open(library.as_os_str()).unwrap()),
            Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => {
                eprintln!("skipped: cc: {error}");
                None
            }
        }
    }

    #[test]
    fn a_card_is_read_and_energy_counts_from_the_first_reading() {
        let folder = tempfile::tempdir().unwrap();
        let Some(nvml) = fake(folder.path()) else { return };
        let cards = Cards { nvml: Some(nvml).into(), ..Cards::default() };
        let uuids = BTreeSet::from(["GPU-1".to_owned(), "GPU-2".to_owned()]);
        let mut expected = CardReading {
            uuid: "GPU-1".to_owned(),
            utilization: Some(0.75),
            memory_total: Some(1000.0),
            memory_used: Some(250.0),
            power_usage: Some(312.5),
            power_limit: None,
            energy: Some(0.0),
        };
        assert_eq!(cards.read(&uuids), [expected.clone()]);
        expected.energy = Some(1.5);
        assert_eq!(cards.read(&uuids), [expected]);
        assert_eq!(
            *cards.complained.lock().unwrap(),
            uuids,
            "both were missing something, and it was said once"
        );
    }

    #[test]
    fn without_cards_nothing_is_opened() {
        let cards = Cards::default();
        assert_eq!(cards.read(&BTreeSet::new()), []);
        assert!(cards.nvml.get().is_none());
    }
}
