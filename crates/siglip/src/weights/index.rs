//! The index of weights that are in several files, `model.safetensors.index.json`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};

use serde::Deserialize;

/// Which file holds which tensors.
pub(crate) struct WeightsIndex {
    /// The tensors of each file, in order. The names are those of files beside the index.
    pub(crate) files: BTreeMap<String, Vec<String>>,
}

impl WeightsIndex {
    /// Reads an index. The error is a clause that says what is wrong.
    pub(crate) fn parse(bytes: &[u8]) -> Result<WeightsIndex, String> {
        /// The part that matters.
        #[derive(Deserialize)]
        struct Raw {
            weight_map: HashMap<String, String>,
        }
        let Raw { weight_map } =
            serde_json::from_slice(bytes).map_err(|error| format!("its JSON: {error}"))?;
        let mut files = BTreeMap::<String, Vec<String>>::new();
        for (tensor, file) in weight_map {
            files.entry(file).or_default().push(tensor);
        }
        if let Some(file) = files.keys().find(|file| !is_plain_file_name(file)) {
            return Err(format!("`{file}` is not the name of a file beside it"));
        }
        files.values_mut().for_each(|tensors| tensors.sort_unstable());
        Ok(WeightsIndex { files })
    }
}

fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    // A backslash separates on Windows only; no published file name has one.
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains('\\')
}
