//! Token ids: as they come, or made of texts.

use std::sync::Arc;

use bytes::Bytes;
use siglip::engine::EngineInfo;
use siglip_protocol::{CheckedInput, InferRequest, TensorData};

use super::{flag, unprepared};
use crate::catalogue::TextTower;
use crate::error::InferError;
use crate::tokenize::{Tokenize, TokenizeError};

/// Texts that are shorter than this, all rows together, are tokenised on the thread that read the request.
const SMALL_TEXTS: usize = 1024;

/// The ids of INPUT_IDS, each within the vocabulary.
pub(super) fn read_ids(info: &EngineInfo, inputs: Vec<CheckedInput>) -> Result<Vec<u32>, InferError> {
    let (row_len, vocab_size) = (info.input_len, info.vocab_size);
    let check = |(index, id): (usize, i64)| {
        let within = u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size);
        let (row, position) = (index / row_len.max(1), index % row_len.max(1));
        within.ok_or(InferError::TokenId { id, row, position, vocab_size })
    };
    match inputs.into_iter().next().map(|input| input.data) {
        Some(TensorData::Int64(ids)) => ids.into_iter().enumerate().map(check).collect(),
        Some(TensorData::Raw(bytes)) => {
            let (ids, _) = bytes.as_chunks::<8>();
            ids.iter().map(|id| i64::from_le_bytes(*id)).enumerate().map(check).collect()
        }
        // Not after the check; the engine would say so.
        _ => Ok(Vec::new()),
    }
}

/// The ids of the texts of INPUT_TEXT, one row after the other.
pub(super) async fn token_ids(
    tower: &TextTower,
    inputs: Vec<CheckedInput>,
    request: &InferRequest,
) -> Result<Vec<u32>, InferError> {
    let truncate = flag(request, "truncation")?;
    let texts = strings(inputs.into_iter().next());
    let length = texts.iter().map(Bytes::len).sum();
    let row_len = tower.batcher.info().input_len;
    let encode = move |tokenizer: &dyn Tokenize| {
        let mut ids = Vec::with_capacity(texts.len() * row_len);
        for (row, text) in texts.iter().enumerate() {
            let text = std::str::from_utf8(text)
                .map_err(|error| InferError::NotUtf8 { row, at: error.valid_up_to() })?;
            let encoded = encode(tokenizer, text, truncate, row_len);
            ids.extend(encoded.map_err(|error| InferError::Tokenize { row, error })?);
        }
        Ok(ids)
    };
    prepare(tower, length, request, encode).await?
}

/// The strings of a tensor of type BYTES.
pub(super) fn strings(input: Option<CheckedInput>) -> Vec<Bytes> {
    match input.map(|input| input.data) {
        Some(TensorData::Strings(strings)) => strings,
        // Not after the check.
        _ => Vec::new(),
    }
}

/// Runs a task that tokenises texts of `length` bytes: here if they are short, on the pool otherwise.
pub(super) async fn prepare<T: Send + 'static>(
    tower: &TextTower,
    length: usize,
    request: &InferRequest,
    task: impl FnOnce(&dyn Tokenize) -> T + Send + 'static,
) -> Result<T, InferError> {
    // Endpoints for texts are there only where there is a tokenizer.
    let tokenizer: Arc<dyn Tokenize> = tower.tokenizer.clone().ok_or(InferError::Preparation)?;
    if length < SMALL_TEXTS {
        return Ok(task(&*tokenizer));
    }
    tower.pool.run(move || task(&*tokenizer)).await.map_err(|error| unprepared(request, error))
}

/// The ids of a text: as many as the model takes, whatever the tokenizer is.
pub(super) fn encode(
    tokenizer: &dyn Tokenize,
    text: &str,
    truncate: bool,
    row_len: usize,
) -> Result<Vec<u32>, TokenizeError> {
    let ids = tokenizer.encode(text, truncate)?;
    if ids.len() != row_len {
        let error = format!("the tokenizer gave {} ids and the model takes {row_len}", ids.len());
        return Err(TokenizeError::Other(error));
    }
    Ok(ids)
}
