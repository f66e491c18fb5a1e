//! Log and trace settings over gRPC.

use siglip_protocol::grpc::inference as grpc;
use siglip_protocol::grpc::inference::log_settings_request::setting_value::ParameterChoice as LogValue;
use siglip_protocol::grpc::inference::log_settings_response as log_response;
use siglip_protocol::grpc::inference::trace_setting_response as trace_response;

use super::error::ManageError;
use crate::settings::LogFormat;
use crate::state::ServerState;
use crate::trace_update::TraceUpdate;

pub(super) fn log(
    state: &ServerState,
    request: &grpc::LogSettingsRequest,
) -> Result<grpc::LogSettingsResponse, ManageError> {
    let get = |name| request.settings.get(name).map(|value| &value.parameter_choice);
    if get("log_file").is_some() {
        return Err(ManageError::FileLocation("log"));
    }
    let flag = |setting| match get(setting) {
        None => Ok(None),
        Some(Some(LogValue::BoolParam(value))) => Ok(Some(*value)),
        Some(_) => Err(ManageError::SettingType { setting, expected: "boolean" }),
    };
    let (info, warning, error) = (flag("log_info")?, flag("log_warning")?, flag("log_error")?);
    let verbose_level = match get("log_verbose_level") {
        None => None,
        Some(Some(LogValue::Uint32Param(level))) => Some(*level),
        Some(_) => return Err(ManageError::SettingType { setting: "log_verbose_level", expected: "int32" }),
    };
    let format = match get("log_format") {
        None => None,
        Some(Some(LogValue::StringParam(name))) => {
            Some(LogFormat::from_name(name).ok_or_else(|| ManageError::LogFormat(name.clone()))?)
        }
        Some(_) => return Err(ManageError::SettingType { setting: "log_format", expected: "string" }),
    };
    let log = state.settings.update_log(|log| {
        log.info = info.unwrap_or(log.info);
        log.warning = warning.unwrap_or(log.warning);
        log.error = error.unwrap_or(log.error);
        log.verbose_level = verbose_level.unwrap_or(log.verbose_level);
        log.format = format.unwrap_or(log.format);
    });
    use log_response::setting_value::ParameterChoice;
    let settings = [
        ("log_file", ParameterChoice::StringParam(String::new())),
        ("log_info", ParameterChoice::BoolParam(log.info)),
        ("log_warning", ParameterChoice::BoolParam(log.warning)),
        ("log_error", ParameterChoice::BoolParam(log.error)),
        ("log_verbose_level", ParameterChoice::Uint32Param(log.verbose_level)),
        ("log_format", ParameterChoice::StringParam(log.format.name().to_owned())),
    ];
    let settings = settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), log_response::SettingValue { parameter_choice: Some(value) }));
    Ok(grpc::LogSettingsResponse { settings: settings.collect() })
}

pub(super) fn trace(
    state: &ServerState,
    request: grpc::TraceSettingRequest,
) -> Result<grpc::TraceSettingResponse, ManageError> {
    let model = Some(request.model_name.as_str()).filter(|model| !model.is_empty());
    if let Some(model) = model
        && state.registry.find(model, None).is_err()
    {
        return Err(ManageError::TraceModel(model.to_owned()));
    }
    let settings = &request.settings;
    if settings.contains_key("trace_file") {
        return Err(ManageError::FileLocation("trace"));
    }
    let values = |setting| settings.get(setting).map(|values| values.value.clone());
    let levels = values("trace_level").map(|levels| (!levels.is_empty()).then_some(levels));
    let update =
        TraceUpdate::read(levels, |setting| Ok::<_, ManageError>(values(setting)), state.tracer.is_some())?;
    let shown = state.settings.update_trace(model, update);
    let settings = [
        ("trace_level", shown.levels),
        ("trace_rate", vec![shown.rate]),
        ("trace_count", vec![shown.count]),
        ("log_frequency", vec![shown.log_frequency]),
        ("trace_file", vec![state.trace_file()]),
        ("trace_mode", vec!["triton".to_owned()]),
    ];
    let settings =
        settings.into_iter().map(|(name, value)| (name.to_owned(), trace_response::SettingValue { value }));
    Ok(grpc::TraceSettingResponse { settings: settings.collect() })
}
