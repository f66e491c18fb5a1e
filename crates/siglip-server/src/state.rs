//! What all doors share.

use std::sync::Arc;

use crate::cards::Cards;
use crate::machine::Machine;
use crate::options::ServerOptions;
use crate::regions::{MAX_REGIONS, Regions};
use crate::registry::Registry;
use crate::settings::Settings;
use crate::trace::Tracer;

/// The models, and what clients have set up.
pub(crate) struct ServerState {
    pub(crate) registry: Arc<Registry>,
    pub(crate) options: ServerOptions,
    pub(crate) regions: Regions,
    pub(crate) settings: Settings,
    /// If there is a file for traces.
    pub(crate) tracer: Option<Tracer>,
    pub(crate) machine: Machine,
    pub(crate) cards: Cards,
}

impl ServerState {
    /// The trace file's name, empty if there is none.
    pub(crate) fn trace_file(&self) -> String {
        self.tracer.as_ref().map_or_else(String::new, |tracer| tracer.file().display().to_string())
    }

    pub(crate) fn new(registry: Registry, options: ServerOptions, tracer: Option<Tracer>) -> Self {
        let settings = Settings::new(options.log.clone(), options.trace.as_ref());
        ServerState {
            registry: Arc::new(registry),
            options,
            regions: Regions::new(MAX_REGIONS),
            settings,
            tracer,
            machine: Machine::default(),
            cards: Cards::default(),
        }
    }
}
