//! What a client wants the trace settings to be, read as Triton reads it.

use siglip_protocol::{Code, leading_integer};

/// The levels that exist; others are ignored, as by Triton.
pub(crate) const TRACE_LEVELS: [&str; 2] = ["TIMESTAMPS", "TENSORS"];
/// What is said for no level.
pub(crate) const OFF: &str = "OFF";

/// A change of the trace settings: each stays as it is (`None`), or becomes a value, or what it is without being set.
#[derive(Clone, Debug, Default)]
pub(crate) struct TraceUpdate {
    pub(crate) levels: Option<Option<Vec<String>>>,
    pub(crate) rate: Option<Option<u32>>,
    pub(crate) count: Option<Option<i32>>,
    pub(crate) log_frequency: Option<Option<u32>>,
}

/// Why trace settings were not changed. The words are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TraceSettingError {
    #[error("Expect only one trace level 'OFF' is specified")]
    OffAndOthers,
    #[error("expect only 1 value for '{0}'")]
    OneValue(&'static str),
    #[error("Unable to parse '{setting}', got: {got}")]
    NoNumber { setting: &'static str, got: String },
    #[error("Unable to parse '{setting}', value is out of range [ {least}, {most} ], got: {got}")]
    OutOfRange { setting: &'static str, least: i64, most: i64, got: String },
    #[error("Unable to parse 'trace_count'. Expecting value >= -1, got:{0}")]
    NegativeCount(i32),
    #[error("Attempting to set invalid trace setting :trace file name is not given")]
    NoFile,
}

impl TraceSettingError {
    pub(crate) fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl TraceUpdate {
    /// Reads the settings in Triton's order. `levels` and `values` are as they travel, the latter lists of strings, of
    /// which one counts; none is no value. `file` is whether there is a file to write traces to.
    pub(crate) fn read<E: From<TraceSettingError>>(
        levels: Option<Option<Vec<String>>>,
        values: impl Fn(&'static str) -> Result<Option<Vec<String>>, E>,
        file: bool,
    ) -> Result<Self, E> {
        let all = || levels.iter().flatten().flatten();
        if all().count() > 1 && all().any(|level| level == OFF) {
            return Err(TraceSettingError::OffAndOthers.into());
        }
        let wanted = all().any(|level| TRACE_LEVELS.contains(&level.as_str()));
        let update = TraceUpdate {
            rate: read("trace_rate", &values, unsigned)?,
            count: read("trace_count", &values, count)?,
            log_frequency: read("log_frequency", &values, unsigned)?,
            levels,
        };
        if wanted && !file { Err(TraceSettingError::NoFile.into()) } else { Ok(update) }
    }
}

fn read<T, E: From<TraceSettingError>>(
    setting: &'static str,
    values: impl Fn(&'static str) -> Result<Option<Vec<String>>, E>,
    number: impl Fn(&'static str, &str) -> Result<T, TraceSettingError>,
) -> Result<Option<Option<T>>, E> {
    match values(setting)?.as_deref() {
        None => Ok(None),
        Some([]) => Ok(Some(None)),
        Some([value]) => Ok(Some(Some(number(setting, value)?))),
        Some(_) => Err(TraceSettingError::OneValue(setting).into()),
    }
}

/// As `strtoul` reads it: of a number below zero, its complement.
fn unsigned(setting: &'static str, got: &str) -> Result<u32, TraceSettingError> {
    let value = leading_number(setting, got)?;
    let size = u32::try_from(value.unsigned_abs()).map_err(|_| TraceSettingError::OutOfRange {
        setting,
        least: 0,
        most: u32::MAX.into(),
        got: got.to_owned(),
    })?;
    Ok(if value < 0 { size.wrapping_neg() } else { size })
}

fn count(setting: &'static str, got: &str) -> Result<i32, TraceSettingError> {
    let value = leading_number(setting, got)?;
    match i32::try_from(value) {
        Ok(count @ -1..) => Ok(count),
        Ok(count) => Err(TraceSettingError::NegativeCount(count)),
        Err(_) => Err(TraceSettingError::OutOfRange {
            setting,
            least: -1,
            most: i32::MAX.into(),
            got: got.to_owned(),
        }),
    }
}

fn leading_number(setting: &'static str, got: &str) -> Result<i128, TraceSettingError> {
    leading_integer(got.as_bytes())
        .ok_or_else(|| TraceSettingError::NoNumber { setting, got: got.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        levels: &[&str],
        numbers: &[(&str, &[&str])],
        file: bool,
    ) -> Result<TraceUpdate, TraceSettingError> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let values = |setting| {
            let values = numbers.iter().find(|(name, _)| *name == setting);
            Ok(values.map(|(_, values)| owned(values)))
        };
        TraceUpdate::read(Some(Some(owned(levels))), values, file)
    }

    fn number(setting: &str, got: &str) -> Result<TraceUpdate, String> {
        read(&[], &[(setting, &[got])], false).map_err(|error| error.to_string())
    }

    fn rate(got: &str) -> Result<TraceUpdate, String> {
        number("trace_rate", got)
    }

    fn count(got: &str) -> Result<TraceUpdate, String> {
        number("trace_count", got)
    }

    /// As a real Triton 24.10 answered.
    #[test]
    fn numbers() {
        for (got, expected) in
            [("5", 5), (" 5", 5), ("5x", 5), ("0x10", 0), ("1e3", 1), ("-1", u32::MAX), ("-5", u32::MAX - 4)]
        {
            assert_eq!(rate(got).unwrap().rate, Some(Some(expected)), "{got}");
        }
        for got in ["4294967296", "99999999999999999999", "-99999999999999999999"] {
            let words =
                format!("Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: {got}");
            assert_eq!(rate(got).unwrap_err(), words);
        }
        for got in ["", "z", "-", "+"] {
            assert_eq!(rate(got).unwrap_err(), format!("Unable to parse 'trace_rate', got: {got}"));
        }
        assert_eq!(count(" -1x").unwrap().count, Some(Some(-1)));
        assert_eq!(count("-5").unwrap_err(), "Unable to parse 'trace_count'. Expecting value >= -1, got:-5");
        for got in ["2147483648", "-2147483649", "99999999999999999999999"] {
            let words = format!(
                "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: {got}"
            );
            assert_eq!(count(got).unwrap_err(), words);
        }
    }

    #[test]
    fn several_values_and_none() {
        assert_eq!(
            read(&[], &[("trace_rate", &["1", "1"])], false).unwrap_err(),
            TraceSettingError::OneValue("trace_rate")
        );
        let update = read(&[], &[("log_frequency", &[])], false).unwrap();
        assert_eq!((update.rate, update.log_frequency, update.count), (None, Some(None), None));
    }

    #[test]
    fn levels() {
        let refused = |levels: &[&str], file| read(levels, &[], file).err();
        for levels in [&["OFF", "TENSORS"][..], &["x", "OFF"], &["OFF", "OFF"]] {
            assert_eq!(refused(levels, true), Some(TraceSettingError::OffAndOthers));
        }
        assert_eq!(refused(&["TENSORS", "x"], false), Some(TraceSettingError::NoFile));
        for levels in [&["OFF"][..], &["x"], &["MAX"], &[]] {
            assert_eq!(refused(levels, false), None);
        }
        assert_eq!(refused(&["TENSORS", "TIMESTAMPS"], true), None);
    }

    #[test]
    fn numbers_are_wrong_before_a_file_is_missing() {
        let refused = |levels: &[&str]| read(levels, &[("trace_rate", &["z"])], false).unwrap_err();
        assert!(matches!(refused(&["TENSORS"]), TraceSettingError::NoNumber { .. }));
        assert_eq!(refused(&["OFF", "TENSORS"]), TraceSettingError::OffAndOthers);
    }
}
