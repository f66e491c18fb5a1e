//! Log and trace settings: clients may read and change them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::Level;

use crate::trace::TraceOptions;
use crate::trace_update::{OFF, TRACE_LEVELS, TraceUpdate};

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

/// What is traced, where a file for it was given at start; without one the settings are kept and mean nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TraceSettings {
    pub(crate) levels: Option<Vec<String>>,
    pub(crate) rate: Option<u32>,
    pub(crate) count: Option<i32>,
    pub(crate) log_frequency: Option<u32>,
}

#[derive(Debug, Default)]
struct TraceState {
    /// As they were at start.
    initial: TraceSettings,
    global: TraceSettings,
    models: BTreeMap<String, TraceSettings>,
    /// Requests since the settings that they go by were last changed: of models with settings of their own, and of all
    /// others under no name.
    requests: BTreeMap<Option<String>, u64>,
}

/// How a request is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceSample {
    pub(crate) timestamps: bool,
    pub(crate) tensors: bool,
    /// Traces in a file; 0 for all in one.
    pub(crate) log_frequency: u32,
}

/// Trace settings as clients are shown them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownTrace {
    pub(crate) levels: Vec<String>,
    pub(crate) rate: String,
    pub(crate) count: String,
    pub(crate) log_frequency: String,
}

impl Settings {
    pub(crate) fn log(&self) -> LogSettings {
        lock(&self.log).clone()
    }

    /// The settings as they are at start; changes of the log's are passed on to `log_control`.
    pub(crate) fn new(log_control: Option<LogControl>, trace: Option<&TraceOptions>) -> Self {
        let initial = trace.map_or_else(TraceSettings::default, |trace| TraceSettings {
            levels: Some(trace.levels.clone()),
            rate: Some(trace.rate),
            count: Some(trace.count),
            log_frequency: Some(trace.log_frequency),
        });
        let trace = TraceState { initial: initial.clone(), global: initial, ..TraceState::default() };
        Settings { log_control, trace: Mutex::new(trace), ..Settings::default() }
    }

    /// Counts a request for a model; what is traced of it, if it is one of those that are.
    pub(crate) fn sample_trace(&self, model: &str) -> Option<TraceSample> {
        lock(&self.trace).sample(model)
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
        let state = &mut *trace;
        let initial = TraceSettings::default();
        let (settings, initial) = match model {
            None => (&mut state.global, &state.initial),
            Some(model) => (state.models.entry(model.to_owned()).or_default(), &initial),
        };
        if let Some(levels) = update.levels {
            settings.levels = levels.or_else(|| initial.levels.clone());
        }
        if let Some(rate) = update.rate {
            settings.rate = rate.or(initial.rate);
        }
        if let Some(count) = update.count {
            settings.count = count.or(initial.count);
        }
        if let Some(log_frequency) = update.log_frequency {
            settings.log_frequency = log_frequency.or(initial.log_frequency);
        }
        state.requests.remove(&model.map(str::to_owned));
        trace.show(model)
    }
}

impl TraceState {
    /// What counts for a model, or for all, every setting having a value.
    fn effective(&self, model: Option<&str>) -> TraceSettings {
        let own = model.and_then(|model| self.models.get(model)).cloned().unwrap_or_default();
        let global = &self.global;
        TraceSettings {
            levels: own.levels.or_else(|| global.levels.clone()),
            rate: own.rate.or(global.rate).or(Some(1000)),
            count: own.count.or(global.count).or(Some(-1)),
            log_frequency: own.log_frequency.or(global.log_frequency).or(Some(0)),
        }
    }

    fn show(&self, model: Option<&str>) -> ShownTrace {
        let settings = self.effective(model);
        let levels = settings.levels.unwrap_or_default().into_iter();
        let mut levels: Vec<String> = levels.filter(|level| TRACE_LEVELS.contains(&level.as_str())).collect();
        if levels.is_empty() {
            levels.push(OFF.to_owned());
        }
        ShownTrace {
            levels,
            rate: settings.rate.unwrap_or_default().to_string(),
            count: settings.count.unwrap_or_default().to_string(),
            log_frequency: settings.log_frequency.unwrap_or_default().to_string(),
        }
    }

    fn sample(&mut self, model: &str) -> Option<TraceSample> {
        let settings = self.effective(Some(model));
        let levels = settings.levels.unwrap_or_default();
        let has = |name: &str| levels.iter().any(|level| level == name);
        let [timestamps, tensors] = TRACE_LEVELS.map(has);
        if !(timestamps || tensors) || settings.count == Some(0) {
            return None;
        }
        let own = self.models.get_mut(model);
        let requests = self.requests.entry(own.as_ref().map(|_| model.to_owned())).or_default();
        *requests += 1;
        if !settings.rate.is_some_and(|rate| rate > 0 && requests.is_multiple_of(u64::from(rate))) {
            return None;
        }
        // What is left to be traced, of the settings that say so.
        let count = match own {
            Some(own) if own.count.is_some() => &mut own.count,
            _ => &mut self.global.count,
        };
        if let Some(count) = count
            && *count > 0
        {
            *count -= 1;
        }
        Some(TraceSample { timestamps, tensors, log_frequency: settings.log_frequency.unwrap_or_default() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Settings are whole whatever happened to a thread that held them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
