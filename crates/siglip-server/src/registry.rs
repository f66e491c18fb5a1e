//! What is served, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::sync::{PoisonError, RwLockReadGuard};
use std::time::Duration;

use siglip_protocol::leading_integer;

use crate::batcher::Batcher;
use crate::catalogue::Catalogue;
use crate::endpoint::{Endpoint, KINDS, Kind};
use crate::error::{LoadError, LookupError, ServeError};
use crate::options::{Compat, ServerOptions};
use crate::served::ServedModel;

/// The one version of every model.
pub(crate) const VERSION: &str = "1";

/// The endpoints by name, and the models behind them.
pub(crate) struct Registry {
    catalogue: Catalogue,
    compat: Compat,
    slots: RwLock<BTreeMap<&'static str, Slot>>,
}

/// A name that is served, or was and can be again.
struct Slot {
    kind: &'static Kind,
    /// The endpoint, unless it is unloaded.
    endpoint: Option<Arc<Endpoint>>,
}

/// A name as the repository's index shows it.
pub(crate) struct Listed {
    pub(crate) name: &'static str,
    /// Why it is not ready, if it is not.
    pub(crate) reason: Option<String>,
}

impl Registry {
    /// Takes the models in and names the endpoints.
    pub(crate) fn build(models: Vec<ServedModel>, options: &ServerOptions) -> Result<Self, ServeError> {
        let catalogue = Catalogue::build(models, options)?;
        let mut slots = BTreeMap::new();
        for kind in &KINDS {
            let endpoint = kind.load(&catalogue, options.compat)?;
            if let Some(endpoint) = endpoint {
                slots.insert(kind.name, Slot { kind, endpoint: Some(Arc::new(endpoint)) });
            }
        }
        if slots.is_empty() {
            return Err(ServeError::NoModel);
        }
        Ok(Registry { catalogue, compat: options.compat, slots: RwLock::new(slots) })
    }

    /// The endpoint of that name and version; without a version, or with an empty one, the only one.
    pub(crate) fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Endpoint>, LookupError> {
        let version = version.map_or(Ok(None), parse_version)?;
        let slots = self.slots();
        let slot = slots.get(name).ok_or_else(|| LookupError::Model(name.to_owned()))?;
        match (&slot.endpoint, version) {
            (Some(endpoint), None | Some(1)) => Ok(endpoint.clone()),
            (None, None) => Err(LookupError::Unloaded(name.to_owned())),
            (None, Some(1)) => Err(LookupError::VersionUnloaded(name.to_owned())),
            (_, Some(version)) => Err(LookupError::Version { model: name.to_owned(), version }),
        }
    }

    /// All endpoints that are loaded, by name.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.slots().values().filter_map(|slot| slot.endpoint.clone()).collect()
    }

    /// Whether all that is loaded can be asked.
    pub(crate) fn is_ready(&self) -> bool {
        self.batchers().all(|(_, batcher)| batcher.gauges().fault().is_none())
    }

    /// Whether batches end for as long as requests wait, and no tower has lost all its engines: only a new process would
    /// get them back.
    pub(crate) fn is_live(&self, stuck_after: Duration) -> bool {
        self.batchers().all(|(_, batcher)| {
            let gauges = batcher.gauges();
            !gauges.is_stuck(stuck_after) && !gauges.fleet.is_lost()
        })
    }

    /// All names, loaded or not.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let listed = |(&name, slot): (&&'static str, &Slot)| {
            let reason = match &slot.endpoint {
                Some(endpoint) => endpoint.fault(),
                None => Some("unloaded".to_owned()),
            };
            Listed { name, reason }
        };
        self.slots().iter().map(listed).collect()
    }

    /// The batchers of the towers that are loaded, each with its model's name.
    pub(crate) fn batchers(&self) -> impl Iterator<Item = (&str, Arc<Batcher>)> {
        self.catalogue.batchers()
    }

    /// Puts an endpoint that was unloaded back into service, with fresh statistics.
    ///
    /// May take as long as building an engine takes.
    pub(crate) fn load(&self, name: &str) -> Result<(), LoadError> {
        let kind = match self.slots().get(name) {
            None => return Err(LoadError::UnknownModel(name.to_owned())),
            Some(slot) if slot.endpoint.is_some() => return Ok(()),
            Some(slot) => slot.kind,
        };
        // Not under the lock: everything else goes on meanwhile.
        let endpoint = kind.load(&self.catalogue, self.compat)?.map(Arc::new);
        self.set(name, endpoint);
        Ok(())
    }

    /// Takes an endpoint out of service. Requests that it has taken in are answered. A tower that no endpoint uses any
    /// more is freed, if it can be built again.
    pub(crate) fn unload(&self, name: &str) {
        self.set(name, None);
    }

    fn set(&self, name: &str, endpoint: Option<Arc<Endpoint>>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let former = slots.get_mut(name).map(|slot| std::mem::replace(&mut slot.endpoint, endpoint));
        drop(slots);
        // Only now, and not under the lock: the last use of a tower ends its thread.
        drop(former);
    }

    fn slots(&self) -> RwLockReadGuard<'_, BTreeMap<&'static str, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A version as a client writes it: the number that the text starts with, as Triton reads it; none if it is empty.
pub(crate) fn parse_version(text: &str) -> Result<Option<i64>, LookupError> {
    if text.is_empty() {
        return Ok(None);
    }
    match leading_integer(text.as_bytes()).and_then(|version| i64::try_from(version).ok()) {
        Some(version) if version < 0 => Err(LookupError::NegativeVersion(text.to_owned())),
        Some(version) => Ok(Some(version)),
        None => Err(LookupError::VersionFormat(text.to_owned())),
    }
}
