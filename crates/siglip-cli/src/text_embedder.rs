//! Labels → embeddings, through the sentences that prompts make of them.

use std::sync::Arc;

use siglip::engine::{Engine, Input, Tower};
use siglip::model::Model;
use siglip::similarity;
use siglip::tokenizer::Tokenizer;

use crate::engine_options::EngineOptions;
use crate::failure::Failure;
use crate::prompts::Prompts;
use crate::store::{Entry, Store};
use crate::{interrupt, load};

/// Embeds texts, those apart that a store has already.
pub(crate) struct TextEmbedder<'a> {
    pub(crate) model: &'a Model,
    pub(crate) options: &'a EngineOptions,
    /// Whether to cut what is longer than the model's context.
    pub(crate) truncate: bool,
    pub(crate) store: Option<&'a mut Store>,
}

impl TextEmbedder<'_> {
    /// The embedding of each label, `[labels, D]`, normalised: the mean of the normalised embeddings of its sentences.
    pub(crate) fn labels(&mut self, labels: &[String], prompts: &Prompts) -> Result<Vec<f32>, Failure> {
        let sentences: Vec<String> = labels.iter().flat_map(|label| prompts.about(label)).collect();
        let (mut embeddings, width) = self.texts(&sentences)?;
        embeddings.chunks_mut(width).for_each(similarity::normalize);
        let each = prompts.templates().len();
        if each == 1 {
            return Ok(embeddings);
        }
        let mut means = vec![0.0; labels.len() * width];
        for (mean, embeddings) in means.chunks_mut(width).zip(embeddings.chunks(each * width)) {
            for (i, mean) in mean.iter_mut().enumerate() {
                *mean = embeddings.iter().skip(i).step_by(width).sum::<f32>() / each as f32;
            }
            similarity::normalize(mean);
        }
        Ok(means)
    }

    /// The embedding of each text, `[texts, D]`, and D.
    pub(crate) fn texts(&mut self, texts: &[String]) -> Result<(Vec<f32>, usize), Failure> {
        let model = self.model;
        let Some(weights) = &model.text else { return Err(load::no_tower(model, Tower::Text)) };
        let Some(tokenizer) = model.tokenizer.clone() else {
            return Err(Failure::NoTokenizer { model: model.name.clone(), missing: model.missing.join(" ") });
        };
        let width = weights.config.projection_size;
        let mut embeddings = vec![0.0; texts.len() * width];
        let mut missing = Vec::new();
        for (text, embedding) in texts.iter().zip(embeddings.chunks_mut(width)) {
            // What cannot be read from the cache is computed again.
            let known = self.store.as_ref().and_then(|store| store.get(text, embedding).ok().flatten());
            if known.is_none() {
                missing.push((text, self.tokens(&tokenizer, text)?, embedding));
            }
        }
        if missing.is_empty() {
            return Ok((embeddings, width));
        }
        let mut engine = load::engine(model, Tower::Text, self.options)?;
        let total = missing.len();
        for (at, batch) in missing.chunks_mut(self.options.max_batch_size()).enumerate() {
            if interrupt::requested() {
                return Err(Failure::Stopped {
                    done: at * self.options.max_batch_size(),
                    total,
                    unit: "texts",
                });
            }
            embed(engine.as_mut(), batch, width)?;
            for (text, _, embedding) in batch {
                if let Some(store) = &mut self.store {
                    // The cache only saves time: a full disk is no reason to stop.
                    let entry = Entry { key: (*text).clone(), image: None };
                    let _ = store.append(entry, embedding);
                }
            }
        }
        Ok((embeddings, width))
    }

    fn tokens(&self, tokenizer: &Arc<Tokenizer>, text: &str) -> Result<Vec<u32>, Failure> {
        if self.truncate {
            return Ok(tokenizer.encode_truncated(text));
        }
        tokenizer.encode(text).map_err(|error| Failure::LabelTooLong { text: text.to_owned(), error })
    }
}

fn embed(
    engine: &mut dyn Engine,
    batch: &mut [(&String, Vec<u32>, &mut [f32])],
    width: usize,
) -> Result<(), Failure> {
    let ids: Vec<u32> = batch.iter().flat_map(|(_, ids, _)| ids.iter().copied()).collect();
    let mut output = vec![0.0; batch.len() * width];
    engine.embed(Input::TokenIds(&ids), &mut output)?;
    for ((_, _, embedding), values) in batch.iter_mut().zip(output.chunks(width)) {
        embedding.copy_from_slice(values);
    }
    Ok(())
}
