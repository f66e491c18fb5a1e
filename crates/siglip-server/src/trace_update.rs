//! What a client wants the trace settings to be, read as Triton reads it.

use siglip_protocol::Code;

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
    NegativeCount(i64),
    #[error("Attempting to set invalid trace setting :trace file name is not given")]
    NoFile,
}

impl TraceSettingError {
    pub(crate) fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

/// Numbers come as they travel, as lists of strings, of which one counts; none is no value.
impl TraceUpdate {
    pub(crate) fn set_levels(
        &mut self,
        levels: Option<Option<Vec<String>>>,
    ) -> Result<(), TraceSettingError> {
        let all = levels.iter().flatten().flatten();
        if all.clone().count() > 1 && all.clone().any(|level| level == OFF) {
            return Err(TraceSettingError::OffAndOthers);
        }
        self.levels = levels;
        Ok(())
    }

    pub(crate) fn set_rate(&mut self, values: Option<Vec<String>>) -> Result<(), TraceSettingError> {
        self.rate = read("trace_rate", values, unsigned)?;
        Ok(())
    }

    pub(crate) fn set_count(&mut self, values: Option<Vec<String>>) -> Result<(), TraceSettingError> {
        self.count = read("trace_count", values, count)?;
        Ok(())
    }

    pub(crate) fn set_log_frequency(&mut self, values: Option<Vec<String>>) -> Result<(), TraceSettingError> {
        self.log_frequency = read("log_frequency", values, unsigned)?;
        Ok(())
    }

    /// Checks, at the end, that there is a file to write traces to if any are wanted.
    pub(crate) fn check_file(&self, file: bool) -> Result<(), TraceSettingError> {
        let wanted = |level: &String| TRACE_LEVELS.contains(&level.as_str());
        if !file && self.levels.iter().flatten().flatten().any(wanted) {
            return Err(TraceSettingError::NoFile);
        }
        Ok(())
    }
}

fn read<T>(
    setting: &'static str,
    values: Option<Vec<String>>,
    number: impl Fn(&'static str, &str) -> Result<T, TraceSettingError>,
) -> Result<Option<Option<T>>, TraceSettingError> {
    match values.as_deref() {
        None => Ok(None),
        Some([]) => Ok(Some(None)),
        Some([value]) => Ok(Some(Some(number(setting, value)?))),
        Some(_) => Err(TraceSettingError::OneValue(setting)),
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
        Ok(_) => Err(TraceSettingError::NegativeCount(value)),
        Err(_) => Err(TraceSettingError::OutOfRange {
            setting,
            least: -1,
            most: i32::MAX.into(),
            got: got.to_owned(),
        }),
    }
}

/// The number that a text starts with, after white space; what follows it does not count. One too large for 64 bits
/// becomes the largest.
fn leading_number(setting: &'static str, got: &str) -> Result<i64, TraceSettingError> {
    let text = got.trim_ascii_start();
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit);
    let size = digits
        .map(|digit| i64::from(digit - b'0'))
        .reduce(|size, digit| size.saturating_mul(10).saturating_add(digit));
    match size {
        None => Err(TraceSettingError::NoNumber { setting, got: got.to_owned() }),
        Some(size) => Ok(if negative { -size } else { size }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(got: &str) -> Result<TraceUpdate, String> {
        let mut update = TraceUpdate::default();
        update.set_rate(Some(vec![got.to_owned()])).map_err(|error| error.to_string())?;
        Ok(update)
    }

    fn count(got: &str) -> Result<TraceUpdate, String> {
        let mut update = TraceUpdate::default();
        update.set_count(Some(vec![got.to_owned()])).map_err(|error| error.to_string())?;
        Ok(update)
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
        let mut update = TraceUpdate::default();
        assert_eq!(
            update.set_rate(Some(vec!["1".to_owned(); 2])),
            Err(TraceSettingError::OneValue("trace_rate"))
        );
        update.set_log_frequency(Some(Vec::new())).unwrap();
        update.set_count(None).unwrap();
        assert_eq!((update.rate, update.log_frequency, update.count), (None, Some(None), None));
    }

    #[test]
    fn levels() {
        let set = |levels: &[&str], file| {
            let mut update = TraceUpdate::default();
            update.set_levels(Some(Some(levels.iter().map(|&level| level.to_owned()).collect())))?;
            update.check_file(file)
        };
        for levels in [&["OFF", "TENSORS"][..], &["x", "OFF"], &["OFF", "OFF"]] {
            assert_eq!(set(levels, true), Err(TraceSettingError::OffAndOthers));
        }
        assert_eq!(set(&["TENSORS", "x"], false), Err(TraceSettingError::NoFile));
        for levels in [&["OFF"][..], &["x"], &["MAX"], &[]] {
            assert_eq!(set(levels, false), Ok(()));
        }
        assert_eq!(set(&["TENSORS", "TIMESTAMPS"], true), Ok(()));
    }
}
