//! Log and trace settings over HTTP.

use http::Method;
use serde::Serialize;
use siglip_protocol::json::{self, AccessError, Kind, Value};

use super::manage::{ManageError, document};
use super::reply::Reply;
use crate::settings::{LogFormat, LogSettings, ShownTrace};
use crate::state::ServerState;
use crate::trace_update::TraceUpdate;

#[derive(Serialize)]
struct LogDocument {
    log_file: &'static str,
    log_info: bool,
    log_warning: bool,
    log_error: bool,
    log_verbose_level: u32,
    log_format: &'static str,
}

pub(super) fn log(state: &ServerState, method: &Method, body: &[u8]) -> Result<Reply, ManageError> {
    if method == Method::GET {
        return Ok(log_document(&state.settings.log()));
    }
    let root = json::parse(body)?;
    let setting = |name| root.get(name).filter(|value| value.kind() != Kind::Null);
    if setting("log_file").is_some() {
        return Err(ManageError::FileLocation("log"));
    }
    let flag = |name| setting(name).map(|value| value.bool()).transpose();
    let (info, warning, error) = (flag("log_info")?, flag("log_warning")?, flag("log_error")?);
    let verbose_level = setting("log_verbose_level").map(|value| value.unsigned()).transpose()?;
    let format = setting("log_format").map(|value| text(&value)).transpose()?;
    let format =
        format.map(|name| LogFormat::from_name(&name).ok_or(ManageError::LogFormat(name))).transpose()?;
    let settings = state.settings.update_log(|settings| {
        settings.info = info.unwrap_or(settings.info);
        settings.warning = warning.unwrap_or(settings.warning);
        settings.error = error.unwrap_or(settings.error);
        settings.format = format.unwrap_or(settings.format);
        if let Some(level) = verbose_level {
            // Triton keeps 32 bits of it, and takes half of what these can be for less than nothing.
            settings.verbose_level = (level as i32).max(0).cast_unsigned();
        }
    });
    Ok(log_document(&settings))
}

fn log_document(settings: &LogSettings) -> Reply {
    document(&LogDocument {
        log_file: "",
        log_info: settings.info,
        log_warning: settings.warning,
        log_error: settings.error,
        log_verbose_level: settings.verbose_level,
        log_format: settings.format.name(),
    })
}

#[derive(Serialize)]
struct TraceDocument {
    trace_level: Vec<String>,
    trace_rate: String,
    trace_count: String,
    log_frequency: String,
    trace_file: String,
    trace_mode: &'static str,
}

pub(super) fn trace(
    state: &ServerState,
    model: Option<&str>,
    method: &Method,
    body: &[u8],
) -> Result<Reply, ManageError> {
    if let Some(model) = model
        && state.registry.find(model, None).is_err()
    {
        return Err(ManageError::TraceModel(model.to_owned()));
    }
    let shown = if method == Method::GET {
        state.settings.trace(model)
    } else {
        let update = read_update(&json::parse(body)?, state.tracer.is_some())?;
        state.settings.update_trace(model, update)
    };
    let ShownTrace { levels, rate, count, log_frequency } = shown;
    Ok(document(&TraceDocument {
        trace_level: levels,
        trace_rate: rate,
        trace_count: count,
        log_frequency,
        trace_file: state.trace_file(),
        trace_mode: "triton",
    }))
}

/// A setting that is `null` goes back to what it is without being set.
fn read_update(root: &Value<'_>, file: bool) -> Result<TraceUpdate, ManageError> {
    if root.get("trace_file").is_some() {
        return Err(ManageError::FileLocation("trace"));
    }
    let levels = match root.get("trace_level") {
        None => None,
        Some(levels) if levels.kind() == Kind::Null => Some(None),
        Some(levels) => {
            let levels = levels.array()?.elements().map(|level| text(&level));
            Some(Some(levels.collect::<Result<Vec<_>, _>>()?))
        }
    };
    TraceUpdate::read(levels, |setting| Ok(number(root, setting)?), file)
}

/// A number that travels as a string.
fn number(root: &Value<'_>, setting: &str) -> Result<Option<Vec<String>>, AccessError> {
    match root.get(setting) {
        None => Ok(None),
        Some(value) if value.kind() == Kind::Null => Ok(Some(Vec::new())),
        Some(value) => Ok(Some(vec![text(&value)?])),
    }
}

fn text(value: &Value<'_>) -> Result<String, AccessError> {
    value.string().map(|text| String::from_utf8_lossy(&text).into_owned())
}
