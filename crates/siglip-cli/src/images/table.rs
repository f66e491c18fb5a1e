//! The embeddings of many files at once, those apart that a cache has already.

use siglip::engine::Tower;
use siglip::model::Model;

use super::{Embedder, ImageFile, Outcome, processor};
use crate::engine_options::EngineOptions;
use crate::failure::Failure;
use crate::store::{Entry, Store};
use crate::{interrupt, load, progress};

/// Embeddings of files.
pub(crate) struct Table {
    /// Values of an embedding.
    pub(crate) width: usize,
    /// `[files, width]`; zeros for a file without one.
    embeddings: Vec<f32>,
    /// Why a file has none.
    errors: Vec<Option<String>>,
}

impl Table {
    /// Embeds files, or takes what `cache` has of them. Files that fail are reported.
    ///
    /// # Errors
    ///
    /// [`Failure`], also if a signal asked to stop; what was done by then is in the cache.
    pub(crate) fn of(
        files: &[ImageFile],
        model: &Model,
        options: &EngineOptions,
        mut cache: Option<&mut Store>,
    ) -> Result<Table, Failure> {
        let Some(vision) = &model.vision else { return Err(load::no_tower(model, Tower::Vision)) };
        let processor = processor(model)?;
        let width = vision.config.hidden_size;
        let mut table =
            Table { width, embeddings: vec![0.0; files.len() * width], errors: vec![None; files.len()] };
        let mut missing = Vec::new();
        for (index, (file, embedding)) in files.iter().zip(table.embeddings.chunks_mut(width)).enumerate() {
            let known = match (&cache, file.key()) {
                // What cannot be read from the cache is computed again.
                (Some(cache), Some(key)) => cache.get(&key, embedding).ok().flatten(),
                _ => None,
            };
            if known.is_none() {
                missing.push(index);
            }
        }
        if missing.is_empty() {
            return Ok(table);
        }
        let progress = progress::bar("images", Some(missing.len() as u64));
        let engine = load::engine(model, Tower::Vision, options)?;
        let to_embed: Vec<ImageFile> = missing.iter().map(|&index| files[index].clone()).collect();
        Embedder { engine, processor, thumbnails: None }.run(&to_embed, |at, outcome| {
            let index = missing[at];
            match outcome {
                Outcome::Embedded { key, image, embedding, .. } => {
                    table.embeddings[index * width..][..width].copy_from_slice(embedding);
                    if let Some(cache) = &mut cache {
                        // The cache only saves time: a full disk is no reason to stop.
                        let _ = cache
                            .append(Entry { key: key.to_owned(), image: Some(image.clone()) }, embedding);
                    }
                }
                Outcome::Failed(problem) => {
                    progress.suspend(|| tracing::warn!("{}: {problem}", files[index].name()));
                    table.errors[index] = Some(problem.to_string());
                }
            }
            progress.inc(1);
            Ok(())
        })?;
        progress.finish_and_clear();
        if interrupt::requested() {
            return Err(Failure::Stopped {
                done: progress.position() as usize,
                total: missing.len(),
                unit: "images",
            });
        }
        Ok(table)
    }

    /// The embedding of file `index`, or why it has none.
    pub(crate) fn get(&self, index: usize) -> Result<&[f32], &str> {
        match &self.errors[index] {
            Some(error) => Err(error),
            None => Ok(&self.embeddings[index * self.width..][..self.width]),
        }
    }
}
