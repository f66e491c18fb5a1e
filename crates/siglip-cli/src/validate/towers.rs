//! The model's two towers, with the cache of what they computed.

use siglip::engine::Tower;
use siglip::model::Model;

use super::ValidateArgs;
use super::methods::Labelled;
use crate::engine_options::EngineOptions;
use crate::failure::Failure;
use crate::images::{ImageFile, Table};
use crate::prompts::Prompts;
use crate::store::Store;
use crate::text_embedder::TextEmbedder;
use crate::{cache, identity, load};

pub(super) struct Towers<'a> {
    model: &'a Model,
    options: &'a EngineOptions,
    truncate: bool,
    texts: Option<Store>,
    images: Option<Store>,
}

impl<'a> Towers<'a> {
    pub(super) fn new(
        args: &ValidateArgs,
        model: &'a Model,
        options: &'a EngineOptions,
    ) -> Result<Self, Failure> {
        if model.text.is_none() {
            return Err(load::no_tower(model, Tower::Text));
        }
        if model.vision.is_none() {
            return Err(load::no_tower(model, Tower::Vision));
        }
        let folder = if args.no_cache { None } else { args.cache.clone().or_else(cache::default_folder) };
        // Before an engine is built: that gives the weights' memory back.
        let store = |tower| {
            folder.as_ref().and_then(|folder| cache::open(folder, &identity::of(model, tower, options)))
        };
        let (texts, images) = (store(Tower::Text), store(Tower::Vision));
        Ok(Towers { model, options, truncate: args.truncate, texts, images })
    }

    /// The embeddings of images with their classes, and the paths of those that have one. The others are added to
    /// `problems`.
    pub(super) fn images(
        &mut self,
        images: &[(ImageFile, usize)],
        problems: &mut Vec<String>,
    ) -> Result<(Labelled, Vec<String>), Failure> {
        let files: Vec<ImageFile> = images.iter().map(|(file, _)| file.clone()).collect();
        let table = Table::of(&files, self.model, self.options, self.images.as_mut())?;
        let mut labelled = Labelled { width: table.width, ..Labelled::default() };
        let mut paths = Vec::new();
        for (index, (file, class)) in images.iter().enumerate() {
            match table.get(index) {
                Ok(embedding) => {
                    labelled.embeddings.extend_from_slice(embedding);
                    labelled.classes.push(*class);
                    paths.push(file.name());
                }
                Err(error) => problems.push(format!("{}: {error}", file.name())),
            }
        }
        if paths.is_empty() && !images.is_empty() {
            return Err(Failure::NoneEmbedded(images.len()));
        }
        Ok((labelled, paths))
    }

    /// The embedding of each label, one of each class.
    pub(super) fn labels(&mut self, labels: &[String], prompts: &Prompts) -> Result<Labelled, Failure> {
        let Towers { model, options, truncate, .. } = *self;
        let embeddings =
            TextEmbedder { model, options, truncate, store: self.texts.as_mut() }.labels(labels, prompts)?;
        let width = model.text.as_ref().map_or(0, |text| text.config.projection_size);
        Ok(Labelled { embeddings, width, classes: (0..labels.len()).collect() })
    }
}
