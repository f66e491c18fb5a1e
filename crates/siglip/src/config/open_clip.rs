//! The configuration of a folder in open_clip's layout, `open_clip_config.json`.
//!
//! The text tower's sizes stand in the file. Of the vision tower it has timm's name for it only, whose sizes stand in
//! timm's code; the weights show all of them but the number of heads, which is taken from the name.
//!
//! The activation is GELU's tanh form in every SigLIP, whatever the file says: the training's code used it, and so do
//! the same models in `transformers`. open_clip itself computes the exact form for SigLIP 1.

use serde_json::Value;

use super::fields::Fields;
use super::{Activation, Config, ConfigError, TextConfig, VisionConfig, limit};
use crate::model::layout;
use crate::preprocessor::{Normalize, PreprocessorConfig, Resample};
use crate::weights::{Weights, open_clip};

/// What an `open_clip_config.json` and the weights beside it say.
#[derive(Debug)]
pub(crate) struct OpenClip {
    pub(crate) config: Config,
    /// Whether the text tower ends in a projection.
    pub(crate) projected: bool,
    /// From images to pixels, if the file says how.
    pub(crate) preprocessor: Option<PreprocessorConfig>,
    /// Where open_clip would fetch the tokenizer.
    pub(crate) tokenizer: Option<String>,
}

impl OpenClip {
    /// Reads the bytes of an `open_clip_config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the field, what it holds and what is allowed.
    pub(crate) fn from_json(bytes: &[u8], weights: &Weights) -> Result<OpenClip, ConfigError> {
        let file = layout::OPEN_CLIP_CONFIG;
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| ConfigError::Json { file, error })?;
        let root = Fields::root(file, &value)?;
        let model = root.object("model_cfg")?;
        let embed_dim = model.size("embed_dim", 512, limit::WIDTH)?;
        let text_fields = model.object("text_cfg")?;
        let (text, projected) = text(&text_fields, embed_dim)?;
        let vision = vision(&model.object("vision_cfg")?, weights)?;
        if let Some(vision) = &vision
            && vision.hidden_size != embed_dim
        {
            let allowed = format!("the width of the vision tower's weights, {}", vision.hidden_size);
            return Err(model.error("embed_dim", embed_dim, allowed));
        }
        let preprocessor = match &vision {
            Some(vision) => preprocessor(&root.object("preprocess_cfg")?, vision.image_size)?,
            None => None,
        };
        let tokenizer = text_fields.string("hf_tokenizer_name")?.map(str::to_owned);
        Ok(OpenClip { config: Config { text: Some(text), vision }, projected, preprocessor, tokenizer })
    }
}

/// The text tower, and whether it ends in a projection. Defaults are those of open_clip's `CLIPTextCfg`.
fn text(fields: &Fields<'_>, embed_dim: usize) -> Result<(TextConfig, bool), ConfigError> {
    let hidden_size = fields.size("width", 512, limit::WIDTH)?;
    let heads = fields.size("heads", 8, hidden_size)?;
    if !hidden_size.is_multiple_of(heads) {
        return Err(fields.error("heads", heads, format_args!("a divisor of width, {hidden_size}")));
    }
    // What makes a text tower SigLIP's and not CLIP's.
    if fields.flag("no_causal_mask")? != Some(true) {
        return Err(fields.error("no_causal_mask", "not true", "true, as for every SigLIP"));
    }
    expect(fields, "pool_type", "last")?;
    let projected = match fields.string("proj_type")? {
        Some("none") => false,
        None | Some("linear") => true,
        Some(found) => {
            return Err(fields.error("proj_type", format_args!("`{found}`"), "`linear` or `none`"));
        }
    };
    if projected && fields.flag("proj_bias")? != Some(true) {
        return Err(fields.error("proj_bias", "not true", "true, as for every SigLIP with a projection"));
    }
    if !projected && hidden_size != embed_dim {
        let allowed = format!("embed_dim, {embed_dim}, where proj_type is `none`");
        return Err(fields.error("width", hidden_size, allowed));
    }
    let ratio = fields.number("mlp_ratio")?.unwrap_or(4.0);
    // As Python's `int`; a number out of range saturates and is then refused.
    let intermediate_size = (hidden_size as f64 * ratio) as usize;
    if !(1..=limit::WIDTH).contains(&intermediate_size) {
        let allowed = format!("a ratio that makes an MLP 1 to {} wide", limit::WIDTH);
        return Err(fields.error("mlp_ratio", ratio, allowed));
    }
    let config = TextConfig {
        vocab_size: fields.size("vocab_size", 49_408, limit::VOCABULARY)?,
        hidden_size,
        intermediate_size,
        num_hidden_layers: fields.size("layers", 12, limit::LAYERS)?,
        num_attention_heads: heads,
        max_position_embeddings: fields.size("context_length", 77, limit::POSITIONS)?,
        projection_size: embed_dim,
        // Torch's default, unless the file says otherwise.
        layer_norm_eps: fields.object("norm_kwargs")?.epsilon("eps", 1e-5)?,
        hidden_act: Activation::GeluTanh,
    };
    Ok((config, projected))
}

/// The vision tower, if the weights hold one.
fn vision(fields: &Fields<'_>, weights: &Weights) -> Result<Option<VisionConfig>, ConfigError> {
    let shape = |name: &str| weights.shape(&format!("{}{name}", open_clip::VISION));
    let Some(patches) = shape("patch_embed.proj.weight") else { return Ok(None) };
    let name = fields.string("timm_model_name")?.unwrap_or_default();
    if name.starts_with("naflexvit") {
        return Err(ConfigError::NaFlex);
    }
    let heads = heads(name).filter(|_| !name.contains("_gap_")).ok_or_else(|| {
        let allowed = "one of timm's SigLIP towers with a pooling head: `vit_base_…_siglip_…`, `vit_large_…`, \
                       `vit_so400m_…` or `vit_giantopt_…`";
        fields.error("timm_model_name", format_args!("`{name}`"), allowed)
    })?;
    expect(fields, "timm_pool", "map")?;
    expect(fields, "timm_proj", "none")?;

    let unclear = |what: &str| fields.error("timm_model_name", format_args!("`{name}`"), what);
    let &[hidden_size, num_channels, patch_size, _] = patches else {
        return Err(unclear("a tower whose patch embedding in the weights has 4 dimensions"));
    };
    if patches.contains(&0) || !hidden_size.is_multiple_of(heads) {
        return Err(unclear(&format!(
            "a tower whose width in the weights, {hidden_size}, its {heads} heads divide"
        )));
    }
    let intermediate_size = shape("blocks.0.mlp.fc1.weight").and_then(|shape| shape.first().copied());
    let layers =
        (0..limit::LAYERS).take_while(|layer| shape(&format!("blocks.{layer}.norm1.weight")).is_some());
    let (Some(intermediate_size), num_hidden_layers @ 1..) = (intermediate_size, layers.count()) else {
        return Err(unclear("a tower whose blocks are in the weights"));
    };
    let image_size = fields.square("image_size", 224, limit::IMAGE)?;
    let config = VisionConfig {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads: heads,
        num_channels,
        image_size,
        patch_size,
        // timm's, for all of them.
        layer_norm_eps: 1e-6,
        hidden_act: Activation::GeluTanh,
    };
    let patches = config.num_patches();
    if !(1..=limit::POSITIONS).contains(&patches) {
        let allowed = format!("a size of 1 to {} patches of {patch_size} pixels", limit::POSITIONS);
        return Err(fields.error("image_size", image_size, allowed));
    }
    Ok(Some(config))
}

/// The attention heads of timm's tower of this name (`timm/models/vision_transformer.py`).
fn heads(name: &str) -> Option<usize> {
    let (size, _) = name.strip_prefix("vit_")?.split_once("_siglip")?;
    match size.split('_').next()? {
        "base" => Some(12),
        "large" | "so400m" | "giantopt" => Some(16),
        _ => None,
    }
}

/// How images become pixels, if the file says so.
fn preprocessor(fields: &Fields<'_>, side: usize) -> Result<Option<PreprocessorConfig>, ConfigError> {
    if fields.is_empty() {
        return Ok(None);
    }
    expect(fields, "resize_mode", "squash")?;
    let resample = match fields.string("interpolation")? {
        None | Some("bicubic") => Resample::Bicubic,
        Some("bilinear") => Resample::Bilinear,
        Some(found) => {
            let found = format_args!("`{found}`");
            return Err(fields.error("interpolation", found, "`bicubic` or `bilinear`"));
        }
    };
    let numbers = |name: &str| {
        let numbers = fields.numbers(name)?;
        numbers.ok_or_else(|| fields.error(name, "not there", "a list of one number for each channel"))
    };
    let (mean, std) = (numbers("mean")?, numbers("std")?);
    if mean.is_empty() || mean.len() != std.len() || std.contains(&0.0) {
        let allowed = format!("one number for each of mean, {}, none of them 0", mean.len());
        return Err(fields.error("std", format_args!("{std:?}"), allowed));
    }
    Ok(Some(PreprocessorConfig {
        size: Some((side, side)),
        resample,
        rescale_factor: Some(1.0 / 255.0),
        normalize: Some(Normalize { mean, std }),
    }))
}

/// Refuses anything but one value of a field.
fn expect(fields: &Fields<'_>, name: &str, allowed: &str) -> Result<(), ConfigError> {
    match fields.string(name)? {
        Some(found) if found == allowed => Ok(()),
        found => {
            let found = found.map_or("not there".to_owned(), |found| format!("`{found}`"));
            Err(fields.error(name, found, format_args!("`{allowed}`")))
        }
    }
}
