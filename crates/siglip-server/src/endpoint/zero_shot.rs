//! `zero_shot_image`: how well each of a list of labels describes an image.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use siglip::engine::EngineInfo;
use siglip::prompt::Template;
use siglip::similarity;
use siglip_protocol::{CheckedInput, InferRequest, ParameterValue};

use super::image::pixel_values;
use super::text::{encode, prepare, strings};
use super::{Outcome, Values, admission, kinds, refused};
use crate::batcher::{Answer, Rows};
use crate::catalogue::{TextTower, VisionTower};
use crate::error::InferError;
use crate::labels::LabelCache;
use crate::served::Similarity;
use crate::statistics::ModelCounters;

/// Different labels of a request. The embeddings of so many are some 150 MB for so400m.
const MAX_LABELS: usize = 32_768;

/// Both towers of a model, and what makes scores of their embeddings.
pub(crate) struct ZeroShot {
    pub(super) text: TextTower,
    pub(super) vision: VisionTower,
    pub(super) similarity: Similarity,
    pub(super) labels: Arc<LabelCache>,
}

/// A request, understood.
pub(super) struct Question {
    images: Option<CheckedInput>,
    /// The rows' number.
    count: usize,
    /// The labels of each row, all rows one after the other, as places in `texts`.
    labels: Vec<usize>,
    /// What is embedded for each label, every text once.
    texts: Vec<Arc<str>>,
}

impl ZeroShot {
    /// Reads the labels of all rows and puts them into the prompt.
    pub(super) fn read(
        &self,
        count: usize,
        inputs: Vec<CheckedInput>,
        request: &InferRequest,
    ) -> Result<Question, InferError> {
        let mut inputs = inputs.into_iter();
        let images = inputs.next();
        let labels = strings(inputs.next());
        if labels.is_empty() {
            return Err(InferError::NoLabels);
        }
        let template = match request.parameter("prompt") {
            None => Template::default(),
            Some(ParameterValue::String(prompt)) => Template::parse(prompt).map_err(InferError::Prompt)?,
            Some(_) => return Err(InferError::ParameterType { name: "prompt", expected: "a string" }),
        };
        let per_row = labels.len() / count.max(1);
        let mut places = HashMap::new();
        let mut texts: Vec<Arc<str>> = Vec::new();
        let place = |(index, label): (usize, Bytes)| {
            if let Some(&place) = places.get(&label) {
                return Ok(place);
            }
            let (row, column) = (index / per_row.max(1), index % per_row.max(1));
            let text = std::str::from_utf8(&label).map_err(|error| InferError::LabelNotUtf8 {
                row,
                column,
                at: error.valid_up_to(),
            })?;
            if text.trim().is_empty() {
                return Err(InferError::EmptyLabel { row, column });
            }
            if texts.len() == MAX_LABELS {
                return Err(InferError::TooManyLabels(MAX_LABELS));
            }
            texts.push(template.fill(text).into());
            places.insert(label, texts.len() - 1);
            Ok(texts.len() - 1)
        };
        let labels = labels.into_iter().enumerate().map(place).collect::<Result<_, _>>()?;
        Ok(Question { images, count, labels, texts })
    }

    /// Embeds what is not known yet, and scores.
    pub(super) async fn score(
        &self,
        question: Question,
        request: &InferRequest,
        counters: &Arc<ModelCounters>,
        received: Instant,
    ) -> Result<Outcome, InferError> {
        let Question { images, count, labels, texts } = question;
        // The labels first: whoever waits for them has image files, and not yet the pixels that are made of them.
        let texts = self.embed_labels(&texts, request).await.inspect_err(|error| {
            if let InferError::Refused { error, .. } | InferError::Batch(error) = error {
                counters.record_failure(error.failure(), received.elapsed());
            }
        })?;
        let images = pixel_values(&self.vision, images, request).await?;
        let admission = admission(counters, request, received);
        let answer = self.vision.batcher.embed(Rows::pixel_rows(images), admission).await;
        let Answer { embeddings, batch_rows, timing } = answer.map_err(|error| refused(request, error))?;

        let columns = self.vision.batcher.info().embedding_size;
        let per_row = labels.len() / count.max(1);
        let mut scores = Vec::with_capacity(labels.len());
        for (image, labels) in embeddings.chunks_exact(columns).zip(labels.chunks_exact(per_row.max(1))) {
            let texts = labels.iter().filter_map(|&label| texts.get(label));
            scores.extend(texts.map(|text| self.score_pair(image, text)));
        }
        let (shape, values) = (vec![count, per_row], Values::Fp32(scores));
        Ok(Outcome { output: kinds::SCORE, shape, values, batch_rows, timing: Some(timing) })
    }

    fn score_pair(&self, image: &[f32], text: &[f32]) -> f32 {
        let Similarity { logit_scale, logit_bias } = self.similarity;
        similarity::score(similarity::cosine(image, text), logit_scale, logit_bias)
    }

    /// The embeddings of texts, from the cache as far as they are there.
    async fn embed_labels(
        &self,
        texts: &[Arc<str>],
        request: &InferRequest,
    ) -> Result<Vec<Arc<[f32]>>, InferError> {
        let mut found: Vec<_> = texts.iter().map(|text| self.labels.embeddings.get(&**text)).collect();
        if found.iter().any(Option::is_none) {
            self.embed_missing(texts, &mut found, request).await?;
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Finds what was missing: computed a batch at a time, unless others have computed it meanwhile.
    async fn embed_missing(
        &self,
        texts: &[Arc<str>],
        found: &mut [Option<Arc<[f32]>>],
        request: &InferRequest,
    ) -> Result<(), InferError> {
        let EngineInfo { max_batch_size, embedding_size, .. } = *self.text.batcher.info();
        let _place = self.labels.admit().map_err(|error| refused(request, error))?;
        // As in the queue: who has begun does not expire.
        let mut limit = self.text.batcher.patience(Duration::from_micros(request.timeout_us));
        let mut missing: VecDeque<_> = texts.iter().zip(found).filter(|(_, found)| found.is_none()).collect();
        while !missing.is_empty() {
            let turn = self.labels.turn(limit.take()).await;
            let _turn = turn.map_err(|error| refused(request, error))?;
            let mut batch = Vec::with_capacity(max_batch_size);
            while batch.len() < max_batch_size
                && let Some((text, found)) = missing.pop_front()
            {
                *found = self.labels.embeddings.get(&**text);
                if found.is_none() {
                    batch.push((text, found));
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            let new = batch.iter().map(|(text, _)| Arc::clone(text)).collect();
            let embeddings = self.embed_texts(new, request).await?;
            for ((text, found), embedding) in batch.into_iter().zip(embeddings.chunks_exact(embedding_size)) {
                let embedding: Arc<[f32]> = embedding.into();
                self.labels.embeddings.insert(text.clone(), embedding.clone());
                *found = Some(embedding);
            }
        }
        Ok(())
    }

    async fn embed_texts(
        &self,
        texts: Vec<Arc<str>>,
        request: &InferRequest,
    ) -> Result<Vec<f32>, InferError> {
        let count = texts.len();
        let row_len = self.text.batcher.info().input_len;
        let length = texts.iter().map(|text| text.len()).sum();
        let encode = move |tokenizer: &dyn crate::tokenize::Tokenize| {
            let mut ids = Vec::with_capacity(texts.len() * row_len);
            for text in &texts {
                let encoded = encode(tokenizer, text, false, row_len);
                let error = |error| InferError::Label { text: text.to_string(), error };
                ids.extend(encoded.map_err(error)?);
            }
            Ok::<_, InferError>(ids)
        };
        let ids = prepare(&self.text, length, request, encode).await??;
        // Labels are not inferences of the model that was asked; nobody reads these counters. What fails is counted by
        // whoever asked for the labels.
        let counters = Arc::new(ModelCounters::new());
        let admission = admission(&counters, request, Instant::now());
        let answer = self.text.batcher.embed(Rows::token_ids(count, ids), admission).await;
        Ok(answer.map_err(|error| refused(request, error))?.embeddings)
    }
}
