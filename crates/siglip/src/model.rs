//! A model folder, or the same files embedded in the program, opened as a whole.

use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::open_clip::OpenClip;
use crate::config::{Config, ConfigError, TextConfig};
use crate::preprocessor::{PreprocessorConfig, PreprocessorError};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::weights::{TextWeights, VisionWeights, Weights, WeightsError, open_clip};

/// The names of a folder's files that no other module claims.
pub(crate) mod layout {
    use std::path::Path;

    use crate::weights::Weights;

    /// The configuration, as `transformers` writes it.
    pub(crate) const CONFIG: &str = "config.json";
    /// How images become pixels, as `transformers` writes it.
    pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";
    /// The configuration of a folder in open_clip's layout.
    pub(crate) const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";

    /// Whether a folder is in open_clip's layout and has no weights in the other, which goes first.
    pub(super) fn is_open_clip(dir: &Path) -> bool {
        let has = |name: &str| dir.join(name).is_file();
        has(OPEN_CLIP_CONFIG) && has(Weights::OPEN_CLIP_FILE) && !has(Weights::FILE) && !has(Weights::INDEX)
    }
}

/// A model: what a folder in the Hub's layout holds, checked as far as it is there.
///
/// A folder may lack a tower, the tokenizer or the preprocessor's configuration. What is left can be used, and
/// [`Model::missing`] says what is not there. What is there and wrong is an error.
#[derive(Clone, Debug)]
pub struct Model {
    /// The folder's own name, or the embedded model's.
    pub name: String,
    /// The hyper-parameters.
    pub config: Config,
    /// The text tower, if the weights hold one.
    pub text: Option<TextWeights>,
    /// The vision tower, if the weights hold one.
    pub vision: Option<VisionWeights>,
    /// From text to token ids, if there is a text tower and a tokenizer.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The logarithm of the factor that [`crate::similarity::score`] puts on a cosine.
    pub logit_scale: Option<f32>,
    /// What [`crate::similarity::score`] adds to a scaled cosine.
    pub logit_bias: Option<f32>,
    /// From images to pixels, if there is a vision tower and a `preprocessor_config.json`.
    pub preprocessor: Option<PreprocessorConfig>,
    /// One sentence for each part that is absent, saying which file or which tensors were looked for.
    pub missing: Vec<String>,
}

impl Model {
    /// Opens a model folder: `config.json`, `model.safetensors` or shards with an index, `spiece.model` or
    /// `tokenizer.json`, `preprocessor_config.json`; or in open_clip's layout, `open_clip_config.json` and
    /// `open_clip_model.safetensors` instead of the first two and the last. Weights are mapped, not read.
    ///
    /// # Errors
    ///
    /// [`ModelError`], whose message names the file and what is wrong with it.
    pub fn open(dir: &Path) -> Result<Model, ModelError> {
        Self::open_parts(dir, &[])
    }

    /// Opens a model whose files lie in several folders, as those of two towers that were fetched one by one: `dir`, and
    /// in `others` what `dir` lacks.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub fn open_parts(dir: &Path, others: &[PathBuf]) -> Result<Model, ModelError> {
        let open_clip = layout::is_open_clip(dir);
        let config_file = if open_clip { layout::OPEN_CLIP_CONFIG } else { layout::CONFIG };
        let Some(config) = read(dir, config_file)? else {
            let why = if dir.is_dir() { "it has no config.json" } else { "there is no such folder" };
            return Err(ModelError::NotAModel { dir: dir.to_owned(), why });
        };
        let read = |name| {
            let others = others.iter().map(PathBuf::as_path);
            iter::once(dir).chain(others).find_map(|dir| read(dir, name).transpose()).transpose()
        };
        let spiece = read(Tokenizer::SPIECE)?;
        // One form of the tokenizer is enough, and the other is three times as long.
        let tokenizer_json = if spiece.is_none() { read(Tokenizer::JSON)? } else { None };
        // open_clip's configuration says it itself.
        let preprocessor = if open_clip { None } else { read(layout::PREPROCESSOR)? };

        let name = Self::name_of(dir);
        let files = Files {
            name: &name,
            origin: dir,
            config: &config,
            tokenizer_json: tokenizer_json.as_deref(),
            spiece: spiece.as_deref(),
            preprocessor: preprocessor.as_deref(),
        };
        let open = || -> Result<Weights, WeightsError> {
            let one = |dir: &Path| match open_clip {
                true => Weights::open_file(&dir.join(Weights::OPEN_CLIP_FILE)),
                false => Weights::open(dir),
            };
            others.iter().try_fold(one(dir)?, |weights, other| Ok(weights.with(one(other)?)))
        };
        if open_clip { files.assemble_open_clip(open()?) } else { files.assemble(open) }
    }

    /// The name of a model in this folder.
    pub fn name_of(dir: &Path) -> String {
        // A path such as `.` has no name of its own.
        let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        canonical.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Opens a model whose files are embedded in the program.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub fn from_static(embedded: EmbeddedFiles) -> Result<Model, ModelError> {
        let EmbeddedFiles { name, config, weights, tokenizer_json, spiece, preprocessor } = embedded;
        let origin = Path::new("(embedded)");
        let files = Files { name, origin, config, tokenizer_json, spiece, preprocessor };
        files.assemble(|| Weights::from_static(weights))
    }
}

/// The files of a model that is embedded in the program.
#[derive(Clone, Copy)]
pub struct EmbeddedFiles {
    /// The model's name.
    pub name: &'static str,
    /// `config.json`.
    pub config: &'static [u8],
    /// `model.safetensors`.
    pub weights: &'static [u8],
    /// `tokenizer.json`. One of this and the next is enough.
    pub tokenizer_json: Option<&'static [u8]>,
    /// `spiece.model`.
    pub spiece: Option<&'static [u8]>,
    /// `preprocessor_config.json`.
    pub preprocessor: Option<&'static [u8]>,
}

/// Why a model could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder is not a model folder.
    #[error("{} is not a model folder: {why}", dir.display())]
    NotAModel {
        /// The folder.
        dir: PathBuf,
        /// What is not as it must be.
        why: &'static str,
    },
    /// A file of the folder cannot be read.
    #[error("{} cannot be read: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The weights hold neither tower.
    #[error(
        "{} holds no tower that the configuration describes: no tensor `embeddings.token_embedding.weight` or \
         `embeddings.patch_embedding.weight`, with or without the prefix `text_model.` or `vision_model.`, or, in \
         open_clip's layout, under `text.` or `visual.trunk.`",
        weights.display()
    )]
    NoTower {
        /// The weights, or their index.
        weights: PathBuf,
    },
    /// The towers' embeddings are not of one width, so that no text can be compared with an image.
    #[error(
        "{}: the text tower's embeddings have {text} values (`projection_size`) and the vision tower's {vision} \
         (`hidden_size`), but must have as many",
        model.display()
    )]
    Widths {
        /// The folder.
        model: PathBuf,
        /// Values of a text's embedding.
        text: usize,
        /// Values of an image's embedding.
        vision: usize,
    },
    /// A number that scores are made with is not one that can make any.
    #[error("{}: `{name}` is {found}, but must be {allowed}", weights.display())]
    Scalar {
        /// The weights, or their index.
        weights: PathBuf,
        /// The tensor.
        name: &'static str,
        /// What it holds.
        found: f32,
        /// What it may hold.
        allowed: &'static str,
    },
    /// The configuration is not valid or not supported.
    #[error("{}: {error}", model.display())]
    Config {
        /// The folder.
        model: PathBuf,
        /// What is wrong.
        error: ConfigError,
    },
    /// The tokenizer is not valid or not supported.
    #[error("{}: {error}", model.display())]
    Tokenizer {
        /// The folder.
        model: PathBuf,
        /// What is wrong.
        error: TokenizerError,
    },
    /// The preprocessor's configuration is not valid, not supported, or not the model's.
    #[error("{}: {error}", model.display())]
    Preprocessor {
        /// The folder.
        model: PathBuf,
        /// What is wrong.
        error: PreprocessorError,
    },
    /// The weights are not there, not valid, or not those that the configuration describes.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The small files of a model as they are, wherever they came from.
struct Files<'a> {
    name: &'a str,
    /// The folder, for messages.
    origin: &'a Path,
    config: &'a [u8],
    tokenizer_json: Option<&'a [u8]>,
    spiece: Option<&'a [u8]>,
    preprocessor: Option<&'a [u8]>,
}

impl Files<'_> {
    /// Reads and checks everything, the weights last: they are what takes long to replace if something else is wrong.
    fn assemble(self, open: impl FnOnce() -> Result<Weights, WeightsError>) -> Result<Model, ModelError> {
        let config = Config::from_json(self.config).map_err(|error| self.wrong_config(error))?;
        let tokenizer = self.tokenizer(config.text.as_ref())?;
        let preprocessor = self.preprocessor.map(PreprocessorConfig::from_json).transpose();
        let preprocessor = preprocessor.map_err(|error| self.wrong_preprocessor(error))?;
        let weights = open()?;

        let there = config.text.as_ref().filter(|_| TextWeights::are_in(&weights));
        let text = there.map(|text| TextWeights::load(&weights, text)).transpose()?;
        let there = config.vision.as_ref().filter(|_| VisionWeights::are_in(&weights));
        let vision = there.map(|vision| VisionWeights::load(&weights, vision)).transpose()?;

        let mut missing = Vec::new();
        let origin = weights.origin().display();
        if text.is_none() {
            missing.push(match config.text {
                Some(_) => format!("There is no text tower: {origin} has no tensor under `text_model.`."),
                None => "There is no text tower: config.json is that of a vision tower.".to_owned(),
            });
        }
        if vision.is_none() {
            missing.push(match config.vision {
                Some(_) => format!("There is no vision tower: {origin} has no tensor under `vision_model.`."),
                None => "There is no vision tower: config.json is that of a text tower.".to_owned(),
            });
        }
        if text.is_some() && tokenizer.is_none() {
            missing.push(NO_TOKENIZER.to_owned());
        }
        if vision.is_some() && preprocessor.is_none() {
            missing.push(
                "There is no preprocessor_config.json, so images must come as pixel values.".to_owned(),
            );
        }
        Parts { config, text, vision, tokenizer, preprocessor, missing }.join(&self, &weights)
    }

    /// As [`Files::assemble`], of a folder in open_clip's layout. The weights come first: they show what the
    /// configuration leaves out.
    fn assemble_open_clip(self, weights: Weights) -> Result<Model, ModelError> {
        let OpenClip { config, projected, preprocessor, tokenizer: tokenizer_name } =
            OpenClip::from_json(self.config, &weights).map_err(|error| self.wrong_config(error))?;
        let tokenizer = self.tokenizer(config.text.as_ref())?;
        let there = config.text.as_ref().filter(|_| open_clip::has(&weights, open_clip::TEXT));
        let text = there.map(|text| open_clip::text(&weights, text, projected)).transpose()?;
        let vision = config.vision.as_ref().map(|vision| open_clip::vision(&weights, vision)).transpose()?;

        let mut missing = Vec::new();
        let origin = weights.origin().display();
        if text.is_none() {
            missing
                .push(format!("There is no text tower: {origin} has no tensor under `{}`.", open_clip::TEXT));
        }
        if vision.is_none() {
            let prefix = open_clip::VISION;
            missing
                .push(format!("There is no vision tower: {origin} has no patch embedding under `{prefix}`."));
        }
        if text.is_some() && tokenizer.is_none() {
            let from = tokenizer_name.map(|name| format!(" open_clip takes it from {name}."));
            missing.push(format!("{NO_TOKENIZER}{}", from.unwrap_or_default()));
        }
        if vision.is_some() && preprocessor.is_none() {
            let file = layout::OPEN_CLIP_CONFIG;
            missing.push(format!("{file} has no `preprocess_cfg`, so images must come as pixel values."));
        }
        Parts { config, text, vision, tokenizer, preprocessor, missing }.join(&self, &weights)
    }

    /// The tokenizer, if there is a text tower for it and a file.
    fn tokenizer(&self, text: Option<&TextConfig>) -> Result<Option<Tokenizer>, ModelError> {
        match text {
            Some(text) if self.spiece.is_some() || self.tokenizer_json.is_some() => {
                let tokenizer = Tokenizer::from_bytes(self.tokenizer_json, self.spiece, text);
                let wrong = |error| ModelError::Tokenizer { model: self.origin.to_owned(), error };
                tokenizer.map(Some).map_err(wrong)
            }
            _ => Ok(None),
        }
    }

    fn wrong_config(&self, error: ConfigError) -> ModelError {
        ModelError::Config { model: self.origin.to_owned(), error }
    }

    fn wrong_preprocessor(&self, error: PreprocessorError) -> ModelError {
        ModelError::Preprocessor { model: self.origin.to_owned(), error }
    }
}

const NO_TOKENIZER: &str = "There is no tokenizer: neither spiece.model nor tokenizer.json is there, so text must come as token ids.";

/// A model's parts, read one by one, in whichever layout.
struct Parts {
    config: Config,
    text: Option<TextWeights>,
    vision: Option<VisionWeights>,
    tokenizer: Option<Tokenizer>,
    preprocessor: Option<PreprocessorConfig>,
    missing: Vec<String>,
}

impl Parts {
    /// The model that they make, if they fit together.
    fn join(self, files: &Files<'_>, weights: &Weights) -> Result<Model, ModelError> {
        let Parts { config, text, vision, tokenizer, preprocessor, mut missing } = self;
        if text.is_none() && vision.is_none() {
            return Err(ModelError::NoTower { weights: weights.origin().to_owned() });
        }
        let tokenizer = tokenizer.filter(|_| text.is_some()).map(Arc::new);
        let preprocessor = preprocessor.filter(|_| vision.is_some());
        if let (Some(vision), Some(preprocessor)) = (&vision, &preprocessor) {
            preprocessor.check(&vision.config).map_err(|error| files.wrong_preprocessor(error))?;
        }
        if let (Some(text), Some(vision)) = (&text, &vision) {
            let (text, vision) = (text.config.projection_size, vision.config.hidden_size);
            if text != vision {
                return Err(ModelError::Widths { model: files.origin.to_owned(), text, vision });
            }
        }
        let logit_scale = scalar(
            weights,
            "logit_scale",
            |scale| scale.is_finite() && scale.exp().is_finite(),
            ALLOWED_SCALE,
        )?;
        let logit_bias = scalar(weights, "logit_bias", f32::is_finite, "a finite number")?;
        if text.is_some() && vision.is_some() && (logit_scale.is_none() || logit_bias.is_none()) {
            missing.push(format!(
                "There is no `logit_scale` or no `logit_bias` in {}, so similarities cannot become scores.",
                weights.origin().display()
            ));
        }
        let name = files.name.to_owned();
        Ok(Model { name, config, text, vision, tokenizer, logit_scale, logit_bias, preprocessor, missing })
    }
}

const ALLOWED_SCALE: &str = "a finite number whose exponential is finite, too";

/// A tensor of one number, if it is there. `transformers` saves it as `[1]`, others as `[]`.
fn scalar(
    weights: &Weights,
    name: &'static str,
    is_allowed: impl Fn(f32) -> bool,
    allowed: &'static str,
) -> Result<Option<f32>, ModelError> {
    let shape: &[usize] = match weights.shape(name) {
        None => return Ok(None),
        Some([]) => &[],
        Some(_) => &[1],
    };
    match weights.tensor(name, shape)?.to_f32().first().copied() {
        Some(found) if !is_allowed(found) => {
            Err(ModelError::Scalar { weights: weights.origin().to_owned(), name, found, allowed })
        }
        number => Ok(number),
    }
}

/// The bytes of a file of the folder, or `None` if it is not there.
fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    let file = dir.join(name);
    match fs::read(&file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ModelError::Io { file, error }),
    }
}
