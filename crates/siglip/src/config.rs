//! A model's hyper-parameters, read from the Hub's `config.json`.
//!
//! A published file holds only what differs from the defaults of `transformers`' config classes, so this
//! module's main work is to fill the rest in the same way. The defaults stand in one place,
//! [`TextConfig::default`] and [`VisionConfig::default`], and are those of `SiglipTextConfig` and
//! `SiglipVisionConfig` (`transformers/models/siglip/configuration_siglip.py`, unchanged from 4.37 to 5.23).
//!
//! The family is told by `model_type`, never by `architectures`: fine-tunes leave that one wrong or out. SigLIP
//! 2 at a fixed resolution is a plain `siglip`; only its NaFlex variant is a `siglip2`, which is refused.

mod fields;
pub(crate) mod open_clip;

use fields::Fields;
use serde_json::Value;

use crate::model::layout;

/// The hyper-parameters of a model: one tower or both.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The text tower, if the file describes one.
    pub text: Option<TextConfig>,
    /// The vision tower, if the file describes one.
    pub vision: Option<VisionConfig>,
}

impl Config {
    /// Reads the bytes of a `config.json`: a whole model (`model_type` `siglip`), or one tower of it
    /// (`siglip_text_model`, `siglip_vision_model`).
    ///
    /// In a whole model an absent `text_config` or `vision_config` means the default tower, as in `transformers`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the field, what it holds and what is allowed.
    pub fn from_json(bytes: &[u8]) -> Result<Config, ConfigError> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| ConfigError::Json { file: layout::CONFIG, error })?;
        let root = Fields::root(layout::CONFIG, &value)?;
        match root.string("model_type")? {
            Some("siglip") => Ok(Config {
                text: Some(TextConfig::from_fields(&root.object("text_config")?)?),
                vision: Some(VisionConfig::from_fields(&root.object("vision_config")?)?),
            }),
            Some("siglip_text_model") => {
                Ok(Config { text: Some(TextConfig::from_fields(&root)?), vision: None })
            }
            Some("siglip_vision_model") => {
                Ok(Config { text: None, vision: Some(VisionConfig::from_fields(&root)?) })
            }
            Some("siglip2" | "siglip2_text_model" | "siglip2_vision_model") => Err(ConfigError::NaFlex),
            found => Err(ConfigError::ModelType { found: found.map(str::to_owned) }),
        }
    }
}

/// The hyper-parameters of a text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the token embedding: token ids are below this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the hidden layer of each block's MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of each block. Divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Context length: every text is padded to exactly this many tokens.
    pub max_position_embeddings: usize,
    /// Width of the embedding. `hidden_size` unless the file says otherwise.
    pub projection_size: usize,
    /// What every layer norm adds to the variance.
    pub layer_norm_eps: f32,
    /// The activation of the MLPs.
    pub hidden_act: Activation,
}

impl TextConfig {
    /// Width of one attention head. Not a power of two for so400m: 1152 / 16 = 72.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn from_fields(fields: &Fields<'_>) -> Result<TextConfig, ConfigError> {
        let default = TextConfig::default();
        let hidden_size = fields.size("hidden_size", default.hidden_size, limit::WIDTH)?;
        let num_attention_heads = heads(fields, default.num_attention_heads, hidden_size)?;
        let config = TextConfig {
            vocab_size: fields.size("vocab_size", default.vocab_size, limit::VOCABULARY)?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", default.intermediate_size, limit::WIDTH)?,
            num_hidden_layers: fields.size("num_hidden_layers", default.num_hidden_layers, limit::LAYERS)?,
            num_attention_heads,
            max_position_embeddings: fields.size(
                "max_position_embeddings",
                default.max_position_embeddings,
                limit::POSITIONS,
            )?,
            projection_size: fields.size("projection_size", hidden_size, limit::WIDTH)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", default.layer_norm_eps)?,
            hidden_act: activation(fields)?,
        };
        Ok(config)
    }
}

impl Default for TextConfig {
    /// `google/siglip-base-patch16-224`'s.
    fn default() -> Self {
        TextConfig {
            vocab_size: 32_000,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 64,
            projection_size: 768,
            layer_norm_eps: 1e-6,
            hidden_act: Activation::GeluTanh,
        }
    }
}

/// The hyper-parameters of a vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream and of the embedding: the pooling head does not project.
    pub hidden_size: usize,
    /// Width of the hidden layer of each MLP, the pooling head's included.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of each block and of the pooling head. Divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Colour channels of an image.
    pub num_channels: usize,
    /// Height and width of an image, in pixels.
    pub image_size: usize,
    /// Height and width of a patch, in pixels.
    pub patch_size: usize,
    /// What every layer norm adds to the variance.
    pub layer_norm_eps: f32,
    /// The activation of the MLPs.
    pub hidden_act: Activation,
}

impl VisionConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Patches along one side. Pixels that do not fill a patch are dropped: 384 / 14 is 27, and 6 pixels are unused.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of an image: the positions of the tower.
    pub fn num_patches(&self) -> usize {
        self.grid() * self.grid()
    }

    fn from_fields(fields: &Fields<'_>) -> Result<VisionConfig, ConfigError> {
        let default = VisionConfig::default();
        let hidden_size = fields.size("hidden_size", default.hidden_size, limit::WIDTH)?;
        let num_attention_heads = heads(fields, default.num_attention_heads, hidden_size)?;
        let image_size = fields.square("image_size", default.image_size, limit::IMAGE)?;
        let patch_size = fields.square("patch_size", default.patch_size, limit::IMAGE)?;
        if patch_size > image_size {
            return Err(fields.error("patch_size", patch_size, format!("at most image_size, {image_size}")));
        }
        if fields.flag("vision_use_head")? == Some(false) {
            let allowed = "true: without its pooling head the tower has no embedding";
            return Err(fields.error("vision_use_head", false, allowed));
        }
        let config = VisionConfig {
            hidden_size,
            intermediate_size: fields.size("intermediate_size", default.intermediate_size, limit::WIDTH)?,
            num_hidden_layers: fields.size("num_hidden_layers", default.num_hidden_layers, limit::LAYERS)?,
            num_attention_heads,
            num_channels: fields.size("num_channels", default.num_channels, limit::CHANNELS)?,
            image_size,
            patch_size,
            layer_norm_eps: fields.epsilon("layer_norm_eps", default.layer_norm_eps)?,
            hidden_act: activation(fields)?,
        };
        if config.num_patches() > limit::POSITIONS {
            let allowed =
                format!("a size that gives at most {} patches of {patch_size} pixels", limit::POSITIONS);
            return Err(fields.error("image_size", image_size, allowed));
        }
        Ok(config)
    }
}

impl Default for VisionConfig {
    /// `google/siglip-base-patch16-224`'s.
    fn default() -> Self {
        VisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            layer_norm_eps: 1e-6,
            hidden_act: Activation::GeluTanh,
        }
    }
}

/// The activation between the two layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// GELU in its tanh form, `gelu_pytorch_tanh`: x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³))).
    GeluTanh,
}

/// Why a `config.json` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not JSON.
    #[error("{file} is not valid JSON: {error}")]
    Json {
        /// `config.json` or `open_clip_config.json`.
        file: &'static str,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The model is of another family.
    #[error(
        "config.json has {}; `siglip`, `siglip_text_model` and `siglip_vision_model` are supported",
        found.as_ref().map_or("no `model_type`".to_owned(), |found| format!("`model_type` `{found}`"))
    )]
    ModelType {
        /// What `model_type` holds, if it is there.
        found: Option<String>,
    },
    /// The model is a SigLIP 2 NaFlex.
    #[error(
        "config.json has `model_type` `siglip2`, a SigLIP 2 NaFlex model, which is not supported yet; SigLIP 2 models \
         of a fixed resolution are"
    )]
    NaFlex,
    /// A field holds something that is not allowed.
    #[error("{file}: `{field}` is {found}, but must be {allowed}")]
    Field {
        /// `config.json` or `open_clip_config.json`.
        file: &'static str,
        /// The field's path, e.g. `text_config.hidden_size`.
        field: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        allowed: String,
    },
}

/// The largest sizes accepted. They are far above any published model, and low enough that no product of sizes that
/// a tower forms (weights, activations, attention scores of one row) overflows 64 bits.
mod limit {
    pub(super) const WIDTH: usize = 1 << 16;
    pub(super) const LAYERS: usize = 1 << 10;
    pub(super) const VOCABULARY: usize = 1 << 24;
    pub(super) const POSITIONS: usize = 1 << 16;
    pub(super) const CHANNELS: usize = 1 << 8;
    pub(super) const IMAGE: usize = 1 << 14;
}

fn heads(fields: &Fields<'_>, default: usize, hidden_size: usize) -> Result<usize, ConfigError> {
    let heads = fields.size("num_attention_heads", default, hidden_size)?;
    if !hidden_size.is_multiple_of(heads) {
        let allowed = format!("a divisor of hidden_size, {hidden_size}");
        return Err(fields.error("num_attention_heads", heads, allowed));
    }
    Ok(heads)
}

fn activation(fields: &Fields<'_>) -> Result<Activation, ConfigError> {
    match fields.string("hidden_act")? {
        None | Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(found) => Err(fields.error(
            "hidden_act",
            format_args!("`{found}`"),
            "`gelu_pytorch_tanh`, which all published SigLIP models use",
        )),
    }
}
