//! Engines whose answers are known, and models made of them.

use std::sync::Arc;

use siglip::engine::{Engine, EngineError, EngineInfo, Input, Precision, Tower};
use siglip_server::{ServedModel, ServedText, ServedVision, Tokenize, TokenizeError};

pub(crate) const CONTEXT: usize = 64;
pub(crate) const DIMS: usize = 1152;

pub(crate) fn info(
    tower: Tower,
    max_batch_size: usize,
    input_len: usize,
    embedding_size: usize,
) -> EngineInfo {
    EngineInfo {
        tower,
        device: "cpu".to_owned(),
        card_uuid: None,
        precision: Precision::F32,
        kernels: "fake".to_owned(),
        threads: 1,
        max_batch_size,
        input_len,
        vocab_size: 1 << 31,
        embedding_size,
        weights_bytes: 0,
        scratch_bytes: 0,
        flop_per_item: 1.0,
    }
}

/// An engine made of its description and a function from one row to its embedding.
pub(crate) struct RowEngine<F> {
    pub info: EngineInfo,
    pub embed: F,
}

/// What `embed` is given.
pub(crate) enum Row<'a> {
    Ids(&'a [u32]),
    Pixels(&'a [f32]),
}

impl<F: FnMut(Row<'_>, &mut [f32]) + Send> Engine for RowEngine<F> {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        let (row_len, columns) = (self.info.input_len, self.info.embedding_size);
        let rows = output.len() / columns;
        assert!((1..=self.info.max_batch_size).contains(&rows));
        assert_eq!((input.tower(), input.len()), (self.info.tower, rows * row_len));
        for (row, output) in output.chunks_exact_mut(columns).enumerate() {
            let range = row * row_len..(row + 1) * row_len;
            match input {
                Input::TokenIds(ids) => (self.embed)(Row::Ids(&ids[range]), output),
                Input::PixelValues(pixels) => (self.embed)(Row::Pixels(&pixels[range]), output),
            }
        }
        Ok(())
    }
}

/// What the recorded `siglip_text` answers for a row.
pub(crate) fn echo(ids: &[u32], output: &mut [f32]) {
    for (column, value) in output.iter_mut().enumerate() {
        *value = ids[column % CONTEXT] as f32 * 0.001 + column as f32;
    }
}

pub(crate) fn echo_engine() -> Box<dyn Engine> {
    Box::new(RowEngine {
        info: info(Tower::Text, 32, CONTEXT, DIMS),
        embed: |row: Row<'_>, output: &mut [f32]| match row {
            Row::Ids(ids) => echo(ids, output),
            Row::Pixels(_) => unreachable!(),
        },
    })
}

/// What the recorded `siglip_vision` answers: the mean of an image.
fn mean_engine() -> Box<dyn Engine> {
    let mean = |row: Row<'_>, output: &mut [f32]| match row {
        Row::Pixels(pixels) => {
            let sum: f64 = pixels.iter().map(|&value| f64::from(value)).sum();
            output.fill((sum / pixels.len() as f64) as f32);
        }
        Row::Ids(_) => unreachable!(),
    };
    Box::new(RowEngine { info: info(Tower::Vision, 32, 3 * 384 * 384, DIMS), embed: mean })
}

/// The recorded models: `siglip_text` and `siglip_vision`.
pub(crate) fn recorded_model() -> ServedModel {
    ServedModel {
        name: "fake/model".to_owned(),
        text: Some(ServedText {
            engines: vec![echo_engine()],
            rebuild: Some(Arc::new(|| Ok(vec![echo_engine()]))),
            peak_flops: 0.0,
            tokenizer: Some(Arc::new(LengthTokenizer)),
        }),
        vision: Some(ServedVision {
            engines: vec![mean_engine()],
            rebuild: Some(Arc::new(|| Ok(vec![mean_engine()]))),
            peak_flops: 0.0,
            dims: [3, 384, 384],
            processor: None,
        }),
        similarity: None,
    }
}

/// The recorded `embed_text`: the length of the text in bytes, and three zeros.
pub(crate) fn recorded_embed_text() -> ServedModel {
    let length = |row: Row<'_>, output: &mut [f32]| match row {
        Row::Ids(ids) => {
            output.fill(0.0);
            output[0] = ids[0] as f32;
        }
        Row::Pixels(_) => unreachable!(),
    };
    let engine = RowEngine { info: info(Tower::Text, 32, CONTEXT, 4), embed: length };
    let tokenizer: Option<Arc<dyn Tokenize>> = Some(Arc::new(LengthTokenizer));
    let text = ServedText { engines: vec![Box::new(engine)], rebuild: None, peak_flops: 0.0, tokenizer };
    ServedModel { name: "fake/embed".to_owned(), text: Some(text), vision: None, similarity: None }
}

/// A "tokenizer" whose first id is the text's length. A text has a token a byte, and one for its end.
pub(crate) struct LengthTokenizer;

impl Tokenize for LengthTokenizer {
    fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>, TokenizeError> {
        let tokens = text.len() + 1;
        if tokens > CONTEXT && !truncate {
            return Err(TokenizeError::TooLong { tokens, context: CONTEXT });
        }
        let mut ids = vec![1; CONTEXT];
        ids[0] = text.len() as u32;
        Ok(ids)
    }
}
