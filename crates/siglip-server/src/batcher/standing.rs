//! How each of a batcher's engines fares: one that goes wrong takes no more batches, and the others go on.

use std::sync::{Mutex, PoisonError};

/// The engines of one batcher, in the order in which they were given.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Where each engine computes. Engines of one device take turns on it.
    devices: Vec<String>,
    standings: Mutex<Vec<Standing>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Sound,
    /// Its answer to a known input is wrong. It may become right again.
    Faulty(String),
    /// It cannot be used again.
    Lost(String),
}

impl Fleet {
    pub(super) fn new(devices: Vec<String>) -> Self {
        let standings = Mutex::new(vec![Standing::Sound; devices.len()]);
        Fleet { devices, standings }
    }

    /// Takes down what is wrong with an engine, or that nothing is.
    pub(super) fn set_fault(&self, engine: usize, fault: Option<String>) {
        let now = fault.map_or(Standing::Sound, |fault| Standing::Faulty(self.place(engine, &fault)));
        self.with(|standings| {
            if let Some(standing) = standings.get_mut(engine)
                && !matches!(standing, Standing::Lost(_))
            {
                *standing = now;
            }
        });
    }

    /// Takes down that an engine cannot be used again, nor can those beside it on its device.
    pub(super) fn lose(&self, engine: usize, reason: &str) {
        let lost = Standing::Lost(self.place(engine, reason));
        let device = self.devices.get(engine);
        self.with(|standings| {
            for (standing, other) in standings.iter_mut().zip(&self.devices) {
                if Some(other) == device {
                    *standing = lost.clone();
                }
            }
        });
    }

    /// Whether an engine is to be given batches: if it is sound, or if none is.
    pub(super) fn is_wanted(&self, engine: usize) -> bool {
        self.with(|standings| {
            let none_is_sound = !standings.contains(&Standing::Sound);
            none_is_sound || standings.get(engine) == Some(&Standing::Sound)
        })
    }

    /// Why an engine cannot be used again, if so.
    pub(super) fn lost(&self, engine: usize) -> Option<String> {
        self.with(|standings| match standings.get(engine) {
            Some(Standing::Lost(reason)) => Some(reason.clone()),
            _ => None,
        })
    }

    /// What is wrong, if no engine is sound.
    pub(crate) fn fault(&self) -> Option<String> {
        self.with(|standings| {
            let faults = standings.iter().map(|standing| match standing {
                Standing::Sound => None,
                Standing::Faulty(fault) | Standing::Lost(fault) => Some(fault.clone()),
            });
            faults.collect::<Option<Vec<_>>>()?.into_iter().next()
        })
    }

    /// Whether no engine can be used again: only a new process helps.
    pub(crate) fn is_lost(&self) -> bool {
        self.with(|standings| standings.iter().all(|standing| matches!(standing, Standing::Lost(_))))
    }

    /// Each device once, with its engines and whether one of them is sound.
    pub(crate) fn devices(&self) -> Vec<DeviceState> {
        let mut states: Vec<DeviceState> = Vec::new();
        self.with(|standings| {
            for (device, standing) in self.devices.iter().zip(standings.iter()) {
                let sound = *standing == Standing::Sound;
                match states.iter_mut().find(|state| state.device == *device) {
                    Some(state) => {
                        state.engines += 1;
                        state.sound |= sound;
                    }
                    None => states.push(DeviceState { device: device.clone(), engines: 1, sound }),
                }
            }
        });
        states
    }

    /// A fault as people read it: with the device, where there are several.
    fn place(&self, engine: usize, fault: &str) -> String {
        match (self.devices.get(engine), self.devices.first()) {
            (Some(device), Some(first)) if self.devices.iter().any(|other| other != first) => {
                format!("{device}: {fault}")
            }
            _ => fault.to_owned(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Standing>) -> T) -> T {
        act(&mut self.standings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A device as doors and metrics show it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeviceState {
    /// `cpu`, `cuda:0`.
    pub(crate) device: String,
    /// Engines on it: batches that it takes at once.
    pub(crate) engines: usize,
    /// Whether it is given batches.
    pub(crate) sound: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_card_takes_its_engines_along_and_no_others() {
        let devices = ["cuda:0", "cuda:0", "cuda:1", "cuda:1"].map(str::to_owned).to_vec();
        let fleet = Fleet::new(devices);
        fleet.lose(1, "it broke");
        assert_eq!([0, 1, 2, 3].map(|engine| fleet.is_wanted(engine)), [false, false, true, true]);
        assert_eq!(fleet.lost(0).as_deref(), Some("cuda:0: it broke"));
        assert!(fleet.fault().is_none() && !fleet.is_lost());
        let state = |device: &str, sound| DeviceState { device: device.to_owned(), engines: 2, sound };
        assert_eq!(fleet.devices(), [state("cuda:0", false), state("cuda:1", true)]);
        // What is lost does not come back.
        fleet.set_fault(0, None);
        assert!(!fleet.is_wanted(0));

        fleet.set_fault(2, Some("wrong".to_owned()));
        assert!(!fleet.is_wanted(2) && fleet.is_wanted(3));
        fleet.set_fault(3, Some("wrong, too".to_owned()));
        assert_eq!(fleet.fault().as_deref(), Some("cuda:0: it broke"));
        assert!(fleet.is_wanted(2), "better than nothing");
        assert!(!fleet.is_lost());
        fleet.set_fault(3, None);
        assert!(fleet.fault().is_none());
    }
}
