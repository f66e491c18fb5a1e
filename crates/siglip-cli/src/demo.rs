//! The model that is embedded in the program. `demo/README.md` says what it is and how it was trained.

use siglip::model::EmbeddedFiles;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../../demo/model/", $name))
    };
}

/// The files of `demo/model`.
pub(crate) const FILES: EmbeddedFiles = EmbeddedFiles {
    name: "demo",
    config: file!("config.json"),
    weights: file!("model.safetensors"),
    tokenizer_json: None,
    spiece: Some(file!("spiece.model")),
    preprocessor: Some(file!("preprocessor_config.json")),
};
