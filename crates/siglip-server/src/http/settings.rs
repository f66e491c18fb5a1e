//! Log and trace settings over HTTP.

use http::Method;
use serde::Serialize;
use siglip_protocol::json::{self, AccessError, Kind, Value};

use super::manage::{ManageError, document};
use super::reply::Reply;
use crate::settings::{LogFormat, LogSettings, ShownTrace, TraceUpdate};
use crate::state::ServerState;

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
    json::validate(body)?;
    let root = Value::root(body);
    if root.get("log_file").is_some() {
        return Err(ManageError::FileLocation("log"));
    }
    let flag = |name| root.get(name).map(|value| value.bool()).transpose();
    let (info, warning, error) = (flag("log_info")?, flag("log_warning")?, flag("log_error")?);
    let verbose_level = root.get("log_verbose_level").map(|value| value.unsigned()).transpose()?;
    let format = root.get("log_format").map(|value| text(&value)).transpose()?;
    let format =
        format.map(|name| LogFormat::from_name(&name).ok_or(ManageError::LogFormat(name))).transpose()?;
    let settings = state.settings.update_log(|settings| {
        settings.info = info.unwrap_or(settings.info);
        settings.warning = warning.unwrap_or(settings.warning);
        settings.error = error.unwrap_or(settings.error);
        settings.format = format.unwrap_or(settings.format);
        if let Some(level) = verbose_level {
            settings.verbose_level = u32::try_from(level).unwrap_or(u32::MAX);
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
        json::validate(body)?;
        state.settings.update_trace(model, read_update(&Value::root(body))?)
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
fn read_update(root: &Value<'_>) -> Result<TraceUpdate, ManageError> {
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
    Ok(TraceUpdate {
        levels,
        rate: number(root, "trace_rate")?,
        count: number(root, "trace_count")?,
        log_frequency: number(root, "log_frequency")?,
    })
}

/// A number that travels as a string.
fn number<T: std::str::FromStr>(
    root: &Value<'_>,
    setting: &'static str,
) -> Result<Option<Option<T>>, ManageError> {
    let Some(value) = root.get(setting) else { return Ok(None) };
    if value.kind() == Kind::Null {
        return Ok(Some(None));
    }
    let got = text(&value)?;
    match got.parse() {
        Ok(number) => Ok(Some(Some(number))),
        Err(_) => Err(ManageError::TraceValue { setting, got }),
    }
}

fn text(value: &Value<'_>) -> Result<String, AccessError> {
    value.string().map(|text| String::from_utf8_lossy(&text).into_owned())
}
