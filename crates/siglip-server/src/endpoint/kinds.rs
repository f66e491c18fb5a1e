//! The names that the server is asked under, and what stands behind each.
//!
//! Two generations of the original deployment are in use. In the older, `siglip_text` takes token ids and
//! `siglip_vision` pixel values; in its successor both take what a person has, texts and image files, and the bodies and
//! the preparation have names of their own. All are served; [`Compat`] says which form `siglip_text` and `siglip_vision`
//! show in their metadata.

use siglip::engine::Tower;
use siglip_protocol::{DataType, ModelSpec, TensorSpec};

use super::zero_shot::ZeroShot;
use super::{Endpoint, Form, Task, Variant};
use crate::batcher::Batcher;
use crate::catalogue::{Catalogue, CatalogueModel};
use crate::error::LoadError;
use crate::options::Compat;

pub(super) const EMBEDDING: &str = "EMBEDDING";
pub(super) const INPUT_IDS: &str = "INPUT_IDS";
const INPUT_TEXT: &str = "INPUT_TEXT";
const INPUT_IMAGE: &str = "INPUT_IMAGE";
pub(super) const PIXEL_VALUES: &str = "PIXEL_VALUES";
const LABELS: &str = "LABELS";
pub(super) const SCORE: &str = "SCORE";

/// A kind of endpoint.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Whether a model has what it takes.
    has: fn(&CatalogueModel) -> bool,
    /// The way to a model; its towers are loaded if they are not. The second form is the one for
    /// [`Compat::Ensemble`].
    forms: fn(&'static str, &CatalogueModel) -> Forms,
}

/// One form or two.
type Forms = Result<(Form, Option<Form>), LoadError>;

/// All kinds. An endpoint is there if any model has what it takes.
pub(crate) const KINDS: [Kind; 9] = [
    Kind {
        name: "siglip_text",
        has: |model| model.has(Tower::Text),
        forms: |name, model| {
            let texts = if model.has_tokenizer() { Some(embed_texts(name, model)?) } else { None };
            Ok((embed_ids(name, model)?, texts))
        },
    },
    Kind {
        name: "siglip_text_model",
        has: |model| model.has(Tower::Text),
        forms: |name, model| Ok((embed_ids(name, model)?, None)),
    },
    Kind {
        name: "siglip_text_tokenize",
        has: CatalogueModel::has_tokenizer,
        forms: |name, model| {
            let tower = model.text()?;
            let (input, output) = (texts(), ids(&tower.batcher));
            Ok((form(name, vec![input], output, tower.batcher.clone().as_ref(), Task::Tokenize(tower)), None))
        },
    },
    Kind {
        name: "embed_text",
        has: CatalogueModel::has_tokenizer,
        forms: |name, model| Ok((embed_texts(name, model)?, None)),
    },
    Kind {
        name: "siglip_vision",
        has: |model| model.has(Tower::Vision),
        forms: |name, model| {
            let images = if model.has_processor() { Some(embed_images(name, model)?) } else { None };
            Ok((embed_pixels(name, model)?, images))
        },
    },
    Kind {
        name: "siglip_vision_model",
        has: |model| model.has(Tower::Vision),
        forms: |name, model| Ok((embed_pixels(name, model)?, None)),
    },
    Kind {
        name: "siglip_vision_process",
        has: CatalogueModel::has_processor,
        forms: |name, model| {
            let tower = model.vision()?;
            let output = tensor(PIXEL_VALUES, DataType::Fp32, &tower.dims);
            let batcher = tower.batcher.clone();
            Ok((form(name, vec![images()], output, &batcher, Task::Process(tower)), None))
        },
    },
    Kind {
        name: "embed_image",
        has: CatalogueModel::has_processor,
        forms: |name, model| Ok((embed_images(name, model)?, None)),
    },
    Kind {
        name: "zero_shot_image",
        has: |model| model.has_tokenizer() && model.has_processor() && model.similarity().is_some(),
        forms: |name, model| {
            let similarity = model.similarity().ok_or(LoadError::NoTower(Tower::Text))?;
            let (text, vision) = (model.text()?, model.vision()?);
            let inputs = vec![images(), any_number(LABELS, DataType::Bytes)];
            let output = any_number(SCORE, DataType::Fp32);
            let batcher = vision.batcher.clone();
            let task = Task::ZeroShot(ZeroShot { text, vision, similarity, labels: model.labels() });
            Ok((form(name, inputs, output, &batcher, task), None))
        },
    },
];

impl Kind {
    /// The endpoint over all models that have what it takes; `None` if none has.
    pub(crate) fn load(&self, catalogue: &Catalogue, compat: Compat) -> Result<Option<Endpoint>, LoadError> {
        let mut variants: Vec<Variant> = Vec::new();
        for model in catalogue.models.iter().filter(|model| (self.has)(model)) {
            let mut names = model.names.to_vec();
            if variants.is_empty() {
                names.extend(catalogue.default_names().map(str::to_owned));
            }
            variants.push(match ((self.forms)(self.name, model)?, compat) {
                ((form, Some(successor)), Compat::Ensemble) => {
                    Variant { names, form: successor, other_form: Some(form) }
                }
                ((form, other_form), _) => Variant { names, form, other_form },
            });
        }
        Ok(Endpoint::new(variants))
    }
}

fn embed_ids(name: &str, model: &CatalogueModel) -> Result<Form, LoadError> {
    let tower = model.text()?;
    let batcher = tower.batcher.clone();
    Ok(form(name, vec![ids(&batcher)], embedding(&batcher), &batcher, Task::EmbedIds(tower)))
}

fn embed_texts(name: &str, model: &CatalogueModel) -> Result<Form, LoadError> {
    let tower = model.text()?;
    let batcher = tower.batcher.clone();
    Ok(form(name, vec![texts()], embedding(&batcher), &batcher, Task::EmbedTexts(tower)))
}

fn embed_pixels(name: &str, model: &CatalogueModel) -> Result<Form, LoadError> {
    let tower = model.vision()?;
    let batcher = tower.batcher.clone();
    let input = tensor(PIXEL_VALUES, DataType::Fp32, &tower.dims);
    Ok(form(name, vec![input], embedding(&batcher), &batcher, Task::EmbedPixels(tower)))
}

fn embed_images(name: &str, model: &CatalogueModel) -> Result<Form, LoadError> {
    let tower = model.vision()?;
    let batcher = tower.batcher.clone();
    Ok(form(name, vec![images()], embedding(&batcher), &batcher, Task::EmbedImages(tower)))
}

fn form(name: &str, inputs: Vec<TensorSpec>, output: TensorSpec, batcher: &Batcher, task: Task) -> Form {
    let max_batch_size = batcher.info().max_batch_size;
    Form { spec: ModelSpec { name: name.to_owned(), inputs, outputs: vec![output], max_batch_size }, task }
}

fn ids(batcher: &Batcher) -> TensorSpec {
    tensor(INPUT_IDS, DataType::Int64, &[batcher.info().input_len])
}

fn texts() -> TensorSpec {
    tensor(INPUT_TEXT, DataType::Bytes, &[1])
}

fn images() -> TensorSpec {
    tensor(INPUT_IMAGE, DataType::Bytes, &[1])
}

fn embedding(batcher: &Batcher) -> TensorSpec {
    tensor(EMBEDDING, DataType::Fp32, &[batcher.info().embedding_size])
}

fn tensor(name: &str, datatype: DataType, dims: &[usize]) -> TensorSpec {
    let dims = dims.iter().map(|&dimension| i64::try_from(dimension).unwrap_or(i64::MAX)).collect();
    TensorSpec { name: name.to_owned(), datatype, dims }
}

/// A tensor of rows of any length.
fn any_number(name: &str, datatype: DataType) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype, dims: vec![-1] }
}
