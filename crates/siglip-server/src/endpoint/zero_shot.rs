//! `zero_shot_image`: how well each of a list of labels describes an image.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
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
        let images = pixel_values(&self.vision, images, request).await?;
        let texts = self.embed_labels(texts, request).await?;
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
        texts: Vec<Arc<str>>,
        request: &InferRequest,
    ) -> Result<Vec<Arc<[f32]>>, InferError> {
        let known: Option<Vec<_>> = texts.iter().map(|text| self.labels.embeddings.get(&**text)).collect();
        if let Some(known) = known {
            return Ok(known);
        }
        let _turn = self.labels.compute().await;
        let mut found: Vec<Option<Arc<[f32]>>> =
            texts.iter().map(|text| self.labels.embeddings.get(&**text)).collect();
        let missing: Vec<usize> =
            (0..texts.len()).filter(|&at| found.get(at).is_some_and(Option::is_none)).collect();
        // A batch at a time: other callers' texts have their turn in between.
        for places in missing.chunks(self.text.batcher.info().max_batch_size) {
            let batch = places.iter().filter_map(|&at| texts.get(at).cloned()).collect();
            let embeddings = self.embed_texts(batch, request).await?;
            let columns = self.text.batcher.info().embedding_size;
            for (&at, embedding) in places.iter().zip(embeddings.chunks_exact(columns)) {
                let embedding: Arc<[f32]> = embedding.into();
                if let (Some(text), Some(place)) = (texts.get(at), found.get_mut(at)) {
                    self.labels.embeddings.insert(text.clone(), embedding.clone());
                    *place = Some(embedding);
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
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
        // Labels are not inferences of the model that was asked; nobody reads these counters.
        let counters = Arc::new(ModelCounters::new());
        let admission = admission(&counters, request, Instant::now());
        let answer = self.text.batcher.embed(Rows::token_ids(count, ids), admission).await;
        Ok(answer.map_err(|error| refused(request, error))?.embeddings)
    }
}
