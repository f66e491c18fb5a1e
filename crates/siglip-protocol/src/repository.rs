//! The index of the models that are served.

use serde::Serialize;

/// An entry of the index.
#[derive(Clone, Debug, Serialize)]
pub struct IndexEntry<'a> {
    /// The model.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
    pub state: &'a str,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
