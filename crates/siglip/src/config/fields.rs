//! Typed access to the fields of a JSON object, with errors that name the field.
//!
//! `serde`'s derived errors give a line and a column but no field, and cannot say what is allowed.

use std::fmt;

use serde_json::{Map, Value};

use super::ConfigError;

/// One JSON object of a `config.json`, with its place in the file. An absent object has no fields.
pub(super) struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    file: &'static str,
    /// The path of the object with a trailing dot, or nothing for the root.
    path: String,
}

impl<'a> Fields<'a> {
    /// The object that a whole file is.
    pub(super) fn root(file: &'static str, value: &'a Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(object) => Ok(Fields { object: Some(object), file, path: String::new() }),
            other => Err(ConfigError::Field {
                file,
                field: "(the whole file)".to_owned(),
                found: describe(other),
                allowed: "a JSON object".to_owned(),
            }),
        }
    }

    /// A nested object. `null` is the same as absent.
    pub(super) fn object(&self, name: &str) -> Result<Fields<'a>, ConfigError> {
        let (file, path) = (self.file, format!("{}{name}.", self.path));
        match self.get(name) {
            None => Ok(Fields { object: None, file, path }),
            Some(Value::Object(object)) => Ok(Fields { object: Some(object), file, path }),
            Some(other) => Err(self.error(name, describe(other), "a JSON object")),
        }
    }

    /// A whole number from 1 to `max`, or `default` if the field is absent or `null`.
    pub(super) fn size(&self, name: &str, default: usize, max: usize) -> Result<usize, ConfigError> {
        match self.get(name) {
            Some(value) => self.size_of(name, value, max),
            None if default <= max => Ok(default),
            // A default may be too large beside a field that is given, e.g. 12 heads beside a width of 8.
            None => Err(self.not_a_size(name, default, max)),
        }
    }

    /// As [`Fields::size`], but the field may also be a pair of two equal numbers, height and width.
    pub(super) fn square(&self, name: &str, default: usize, max: usize) -> Result<usize, ConfigError> {
        match self.get(name) {
            Some(Value::Array(pair)) => match pair.as_slice() {
                [height, width] if height == width => self.size_of(name, height, max),
                _ => {
                    let found = describe(&Value::Array(pair.clone()));
                    Err(self.error(name, found, "one number: only square images and patches are supported"))
                }
            },
            _ => self.size(name, default, max),
        }
    }

    /// A small positive number, or `default`.
    pub(super) fn epsilon(&self, name: &str, default: f32) -> Result<f32, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        // Rounded to f32, as every computation takes it; what rounds to zero is refused with the rest.
        let number = value.as_f64().map(|number| number as f32);
        number
            .filter(|number| *number > 0.0 && *number <= 1.0)
            .ok_or_else(|| self.error(name, describe(value), "a number above 0 and at most 1"))
    }

    /// A finite number, if the field is there.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.error(name, describe(value), "a number"))
    }

    /// A list of finite numbers, if the field is there.
    pub(super) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.map(Some).ok_or_else(|| self.error(name, describe(value), "a list of numbers"))
    }

    /// Whether this object has no fields.
    pub(super) fn is_empty(&self) -> bool {
        self.object.is_none_or(Map::is_empty)
    }

    /// A string, if the field is there.
    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(string)) => Ok(Some(string)),
            Some(other) => Err(self.error(name, describe(other), "a string")),
        }
    }

    /// A truth value, if the field is there.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.error(name, describe(other), "true or false")),
        }
    }

    /// The error for a field of this object.
    pub(super) fn error(
        &self,
        name: &str,
        found: impl fmt::Display,
        allowed: impl fmt::Display,
    ) -> ConfigError {
        ConfigError::Field {
            file: self.file,
            field: format!("{}{name}", self.path),
            found: found.to_string(),
            allowed: allowed.to_string(),
        }
    }

    fn size_of(&self, name: &str, value: &Value, max: usize) -> Result<usize, ConfigError> {
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.filter(|size| (1..=max).contains(size))
            .ok_or_else(|| self.not_a_size(name, describe(value), max))
    }

    fn not_a_size(&self, name: &str, found: impl fmt::Display, max: usize) -> ConfigError {
        self.error(name, found, format_args!("a whole number from 1 to {max}"))
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.object?.get(name).filter(|value| !value.is_null())
    }
}

/// The value as it stands in the file, cut where it is long.
fn describe(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
