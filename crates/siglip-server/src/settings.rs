//! Log and trace settings: clients may read and change them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::Level;

/// The settings, and those of models that differ.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    log_control: Option<LogControl>,
    log: Mutex<LogSettings>,
    trace: Mutex<TraceState>,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) info: bool,
    pub(crate) warning: bool,
    pub(crate) error: bool,
    pub(crate) verbose_level: u32,
    pub(crate) format: LogFormat,
}

impl LogSettings {
    /// The least important lines that are wanted. Triton switches each kind on and off by itself; here a kind brings
    /// those along that matter more.
    fn level(&self) -> Option<Level> {
        match self {
            LogSettings { verbose_level: 2.., .. } => Some(Level::TRACE),
            LogSettings { verbose_level: 1, .. } => Some(Level::DEBUG),
            LogSettings { info: true, .. } => Some(Level::INFO),
            LogSettings { warning: true, .. } => Some(Level::WARN),
            LogSettings { error: true, .. } => Some(Level::ERROR),
            _ => None,
        }
    }
}

/// Sets the level of the program's log; `None` for no lines at all.
#[derive(Clone)]
pub struct LogControl(Arc<dyn Fn(Option<Level>) + Send + Sync>);

impl LogControl {
    /// Levels are set by calling `set`.
    pub fn new(set: impl Fn(Option<Level>) + Send + Sync + 'static) -> Self {
        LogControl(Arc::new(set))
    }
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogControl")
    }
}

/// How times look in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    #[default]
    Default,
    Iso8601,
}

impl LogFormat {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogFormat::Default => "default",
            LogFormat::Iso8601 => "ISO8601",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [LogFormat::Default, LogFormat::Iso8601].into_iter().find(|format| format.name() == name)
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { info: true, warning: true, error: true, verbose_level: 0, format: LogFormat::Default }
    }
}

/// What is traced. Nothing is, but the settings are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TraceSettings {
    pub(crate) levels: Option<Vec<String>>,
    pub(crate) rate: Option<u32>,
    pub(crate) count: Option<i32>,
    pub(crate) log_frequency: Option<u32>,
}

#[derive(Debug, Default)]
struct TraceState {
    global: TraceSettings,
    models: BTreeMap<String, TraceSettings>,
}

/// A change of a trace setting: to a value, or back to what it is without being set.
#[derive(Clone, Debug, Default)]
pub(crate) struct TraceUpdate {
    pub(crate) levels: Option<Option<Vec<String>>>,
    pub(crate) rate: Option<Option<u32>>,
    pub(crate) count: Option<Option<i32>>,
    pub(crate) log_frequency: Option<Option<u32>>,
}

/// Trace settings as clients are shown them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownTrace {
    pub(crate) levels: Vec<String>,
    pub(crate) rate: String,
    pub(crate) count: String,
    pub(crate) log_frequency: String,
}

/// The levels that exist; others are ignored, as by Triton.
const TRACE_LEVELS: [&str; 2] = ["TIMESTAMPS", "TENSORS"];

impl Settings {
    pub(crate) fn log(&self) -> LogSettings {
        lock(&self.log).clone()
    }

    /// The settings as they are at start; changes of the log's are passed on to `log_control`.
    pub(crate) fn new(log_control: Option<LogControl>) -> Self {
        Settings { log_control, ..Settings::default() }
    }

    /// Changes log settings, and gives what they are then.
    pub(crate) fn update_log(&self, update: impl FnOnce(&mut LogSettings)) -> LogSettings {
        let mut log = lock(&self.log);
        update(&mut log);
        if let Some(control) = &self.log_control {
            (control.0)(log.level());
        }
        log.clone()
    }

    /// The trace settings of a model, or those for all.
    pub(crate) fn trace(&self, model: Option<&str>) -> ShownTrace {
        lock(&self.trace).show(model)
    }

    /// Changes the trace settings of a model, or those for all, and gives what they are then.
    pub(crate) fn update_trace(&self, model: Option<&str>, update: TraceUpdate) -> ShownTrace {
        let mut trace = lock(&self.trace);
        let settings = match model {
            None => &mut trace.global,
            Some(model) => trace.models.entry(model.to_owned()).or_default(),
        };
        if let Some(levels) = update.levels {
            settings.levels = levels;
        }
        if let Some(rate) = update.rate {
            settings.rate = rate;
        }
        if let Some(count) = update.count {
            settings.count = count;
        }
        if let Some(log_frequency) = update.log_frequency {
            settings.log_frequency = log_frequency;
        }
        trace.show(model)
    }
}

impl TraceState {
    fn show(&self, model: Option<&str>) -> ShownTrace {
        let of_model = model.and_then(|model| self.models.get(model)).cloned().unwrap_or_default();
        let global = &self.global;
        let levels = of_model.levels.or_else(|| global.levels.clone()).unwrap_or_default();
        let mut levels: Vec<String> =
            levels.into_iter().filter(|level| TRACE_LEVELS.contains(&level.as_str())).collect();
        if levels.is_empty() {
            levels.push("OFF".to_owned());
        }
        ShownTrace {
            levels,
            rate: of_model.rate.or(global.rate).unwrap_or(1000).to_string(),
            count: of_model.count.or(global.count).unwrap_or(-1).to_string(),
            log_frequency: of_model.log_frequency.or(global.log_frequency).unwrap_or(0).to_string(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Settings are whole whatever happened to a thread that held them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
