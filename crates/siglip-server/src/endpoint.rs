//! What the server does for each name that it is asked under.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use siglip_protocol::{
    CheckedInput, DataType, InferRequest, ModelSpec, ParameterValue, TensorData, TensorSpec,
};

use crate::batcher::{Answer, BatchError, Batcher, Rows};
use crate::error::InferError;
use crate::prepare::{PreparationError, PreparationPool};
use crate::statistics::ModelCounters;
use crate::tokenize::{Tokenize, TokenizeError};

/// The name of the output of every endpoint.
pub(crate) const EMBEDDING: &str = "EMBEDDING";
const INPUT_IDS: &str = "INPUT_IDS";
const INPUT_TEXT: &str = "INPUT_TEXT";
const PIXEL_VALUES: &str = "PIXEL_VALUES";

/// Texts that are shorter than this, all rows together, are tokenised on the thread that read the request.
const SMALL_TEXTS: usize = 1024;

/// A name that the server is asked under: a way to prepare rows for a tower.
pub(crate) struct Endpoint {
    spec: ModelSpec,
    task: Task,
    batcher: Arc<Batcher>,
    counters: Arc<ModelCounters>,
}

/// How the rows of a request are prepared.
enum Task {
    /// They are token ids.
    TokenIds {
        /// What the endpoint takes if it is given texts instead.
        texts: Option<(ModelSpec, Texts)>,
    },
    /// They are texts.
    Texts(Texts),
    /// They are pixels, normalised.
    Pixels,
}

/// All that it takes to make token ids of texts.
#[derive(Clone)]
pub(crate) struct Texts {
    pub(crate) tokenizer: Arc<dyn Tokenize>,
    pub(crate) pool: Arc<PreparationPool>,
    /// The names that `embed_model` may have.
    pub(crate) models: Arc<[String]>,
}

impl Endpoint {
    /// `siglip_text`: token ids, or texts if there is a tokenizer.
    pub(crate) fn token_ids(name: &str, batcher: Arc<Batcher>, texts: Option<Texts>) -> Self {
        let input = tensor(INPUT_IDS, DataType::Int64, &[batcher.info().input_len]);
        let text_spec = spec(name, tensor(INPUT_TEXT, DataType::Bytes, &[1]), &batcher);
        let task = Task::TokenIds { texts: texts.map(|texts| (text_spec, texts)) };
        Endpoint::new(spec(name, input, &batcher), task, batcher)
    }

    /// `embed_text`: texts.
    pub(crate) fn texts(name: &str, batcher: Arc<Batcher>, texts: Texts) -> Self {
        let input = tensor(INPUT_TEXT, DataType::Bytes, &[1]);
        Endpoint::new(spec(name, input, &batcher), Task::Texts(texts), batcher)
    }

    /// `siglip_vision`: normalised pixels.
    pub(crate) fn pixels(name: &str, batcher: Arc<Batcher>, dims: [usize; 3]) -> Self {
        let input = tensor(PIXEL_VALUES, DataType::Fp32, &dims);
        Endpoint::new(spec(name, input, &batcher), Task::Pixels, batcher)
    }

    fn new(spec: ModelSpec, task: Task, batcher: Arc<Batcher>) -> Self {
        Endpoint { spec, task, batcher, counters: Arc::new(ModelCounters::new()) }
    }

    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    pub(crate) fn counters(&self) -> &ModelCounters {
        &self.counters
    }

    pub(crate) fn batcher(&self) -> &Batcher {
        &self.batcher
    }

    /// Checks, prepares and computes a request that was received at `received`.
    pub(crate) async fn infer(
        &self,
        request: &mut InferRequest,
        received: Instant,
    ) -> Result<Answer, InferError> {
        let rows = match &self.task {
            Task::TokenIds { texts: Some((spec, texts)) } if names_texts(request) => {
                self.prepare_texts(spec, texts, request).await?
            }
            Task::TokenIds { .. } => {
                let (count, inputs) = self.spec.check(request)?;
                self.prepare_ids(count, inputs)?
            }
            Task::Texts(texts) => self.prepare_texts(&self.spec, texts, request).await?,
            Task::Pixels => {
                let (count, inputs) = self.spec.check(request)?;
                prepare_pixels(count, inputs)
            }
        };
        let answer = self.batcher.embed(rows, self.counters.clone(), received).await;
        answer.map_err(|error| match error {
            BatchError::QueueFull => InferError::Refused { id: request.id.clone(), error },
            error => InferError::Batch(error),
        })
    }

    fn prepare_ids(&self, count: usize, inputs: Vec<CheckedInput>) -> Result<Rows, InferError> {
        let (row_len, vocab_size) = (self.batcher.info().input_len, self.batcher.info().vocab_size);
        let check = |(index, id): (usize, i64)| {
            let within = u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size);
            let (row, position) = (index / row_len.max(1), index % row_len.max(1));
            within.ok_or(InferError::TokenId { id, row, position, vocab_size })
        };
        let ids: Result<Vec<u32>, InferError> = match inputs.into_iter().next().map(|input| input.data) {
            Some(TensorData::Int64(ids)) => ids.into_iter().enumerate().map(check).collect(),
            Some(TensorData::Raw(bytes)) => {
                let (ids, _) = bytes.as_chunks::<8>();
                ids.iter().map(|id| i64::from_le_bytes(*id)).enumerate().map(check).collect()
            }
            // Not after the check; the engine would say so.
            _ => Ok(Vec::new()),
        };
        Ok(Rows::token_ids(count, ids?))
    }

    async fn prepare_texts(
        &self,
        spec: &ModelSpec,
        texts: &Texts,
        request: &mut InferRequest,
    ) -> Result<Rows, InferError> {
        let (count, inputs) = spec.check(request)?;
        let truncate = texts.read_parameters(request)?;
        let strings = match inputs.into_iter().next().map(|input| input.data) {
            Some(TensorData::Strings(strings)) => strings,
            // Not after the check; the engine would say so.
            _ => Vec::new(),
        };
        let small = strings.iter().map(Bytes::len).sum::<usize>() < SMALL_TEXTS;
        let tokenizer = texts.tokenizer.clone();
        let row_len = self.batcher.info().input_len;
        let encode = move || encode(&*tokenizer, &strings, truncate, row_len);
        let ids = if small {
            encode()
        } else {
            match texts.pool.run(encode).await {
                Ok(ids) => ids,
                Err(PreparationError::Panicked) => Err(InferError::Preparation),
                Err(PreparationError::Full) => {
                    Err(InferError::Refused { id: request.id.clone(), error: BatchError::QueueFull })
                }
            }
        };
        Ok(Rows::token_ids(count, ids?))
    }
}

impl Texts {
    /// Checks `embed_model` and gives `truncation`.
    fn read_parameters(&self, request: &InferRequest) -> Result<bool, InferError> {
        match request.parameter("embed_model") {
            None => {}
            Some(ParameterValue::String(name)) if self.models.contains(name) => {}
            Some(ParameterValue::String(name)) => {
                return Err(InferError::EmbedModel { got: name.clone(), served: self.models.to_vec() });
            }
            Some(_) => return Err(InferError::ParameterType { name: "embed_model", expected: "a string" }),
        }
        match request.parameter("truncation") {
            None => Ok(false),
            Some(ParameterValue::Bool(truncate)) => Ok(*truncate),
            Some(_) => Err(InferError::ParameterType { name: "truncation", expected: "true or false" }),
        }
    }
}

/// The token ids of all texts, one after the other.
fn encode(
    tokenizer: &dyn Tokenize,
    texts: &[Bytes],
    truncate: bool,
    row_len: usize,
) -> Result<Vec<u32>, InferError> {
    let mut ids = Vec::with_capacity(texts.len() * row_len);
    for (row, text) in texts.iter().enumerate() {
        let text = std::str::from_utf8(text)
            .map_err(|error| InferError::NotUtf8 { row, at: error.valid_up_to() })?;
        let encoded =
            tokenizer.encode(text, truncate).map_err(|error| InferError::Tokenize { row, error })?;
        if encoded.len() != row_len {
            let error = format!("the tokenizer gave {} ids and the model takes {row_len}", encoded.len());
            return Err(InferError::Tokenize { row, error: TokenizeError::Other(error) });
        }
        ids.extend_from_slice(&encoded);
    }
    Ok(ids)
}

fn prepare_pixels(count: usize, inputs: Vec<CheckedInput>) -> Rows {
    match inputs.into_iter().next().map(|input| input.data) {
        Some(TensorData::Fp32(pixels)) => Rows::pixels(count, pixels),
        Some(TensorData::Raw(bytes)) => Rows::pixel_bytes(count, bytes),
        // Not after the check; the engine would say so.
        _ => Rows::pixels(count, Vec::new()),
    }
}

/// Whether a request's first tensor is the one of texts.
fn names_texts(request: &InferRequest) -> bool {
    request.inputs.first().is_some_and(|input| input.name == INPUT_TEXT)
}

fn spec(name: &str, input: TensorSpec, batcher: &Batcher) -> ModelSpec {
    let info = batcher.info();
    ModelSpec {
        name: name.to_owned(),
        inputs: vec![input],
        outputs: vec![tensor(EMBEDDING, DataType::Fp32, &[info.embedding_size])],
        max_batch_size: info.max_batch_size,
    }
}

fn tensor(name: &str, datatype: DataType, dims: &[usize]) -> TensorSpec {
    let dims = dims.iter().map(|&dimension| i64::try_from(dimension).unwrap_or(i64::MAX)).collect();
    TensorSpec { name: name.to_owned(), datatype, dims }
}
