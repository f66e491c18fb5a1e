//! What all doors share.

use std::sync::Arc;

use crate::machine::Machine;
use crate::options::ServerOptions;
use crate::regions::Regions;
use crate::registry::Registry;
use crate::settings::Settings;

/// The models, and what clients have set up.
pub(crate) struct ServerState {
    pub(crate) registry: Arc<Registry>,
    pub(crate) options: ServerOptions,
    pub(crate) regions: Regions,
    pub(crate) settings: Settings,
    pub(crate) machine: Machine,
}

impl ServerState {
    pub(crate) fn new(registry: Registry, options: ServerOptions) -> Self {
        let log = options.log.clone();
        ServerState {
            registry: Arc::new(registry),
            options,
            regions: Regions::default(),
            settings: Settings::new(log),
            machine: Machine::default(),
        }
    }
}
