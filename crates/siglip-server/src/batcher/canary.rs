//! A known input, computed now and then while nothing else is: an engine whose answer to it changes has lost its mind
//! or its memory, and is not to be asked any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use siglip::engine::{Engine, EngineInfo, Input, Tower};

/// How long the engine must have had nothing to do before the first answer is taken down.
const FIRST: Duration = Duration::from_secs(5);

/// The input, and the answer that is right.
pub(super) struct Canary {
    row: Row,
    output: Vec<f32>,
    /// From the first time on.
    expected: Option<Vec<f32>>,
    interval: Duration,
}

enum Row {
    TokenIds(Vec<u32>),
    Pixels(Vec<f32>),
}

impl Canary {
    /// A canary that is asked every `interval` of idleness; never, if that is zero.
    pub(super) fn new(info: &EngineInfo, interval: Duration) -> Self {
        let row = match info.tower {
            // Ids and values of every size.
            Tower::Text => {
                let vocabulary = u32::try_from(info.vocab_size).unwrap_or(u32::MAX).max(1);
                Row::TokenIds(
                    (0..info.input_len as u32)
                        .map(|at| at.wrapping_mul(2_654_435_761) % vocabulary)
                        .collect(),
                )
            }
            Tower::Vision => {
                Row::Pixels((0..info.input_len).map(|at| ((at * 37) % 255) as f32 / 127.0 - 1.0).collect())
            }
        };
        Canary { row, output: vec![0.0; info.embedding_size], expected: None, interval }
    }

    /// How long to wait for requests before the engine is asked; `None` for ever.
    pub(super) fn wait(&self) -> Option<Duration> {
        let first = if self.expected.is_none() { FIRST } else { self.interval };
        (!self.interval.is_zero()).then(|| first.min(self.interval))
    }

    /// Asks the engine.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong with the answer.
    pub(super) fn ask(&mut self, engine: &mut dyn Engine) -> Result<(), String> {
        let input = match &self.row {
            Row::TokenIds(ids) => Input::TokenIds(ids),
            Row::Pixels(pixels) => Input::PixelValues(pixels),
        };
        let output = &mut self.output;
        match catch_unwind(AssertUnwindSafe(|| engine.embed(input, output))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("the engine fails at a known input: {error}")),
            Err(_) => return Err("the engine panics at a known input".to_owned()),
        }
        let expected = self.expected.get_or_insert_with(|| output.clone());
        let differs = expected.iter().zip(&self.output).position(|(a, b)| a.to_bits() != b.to_bits());
        match differs {
            None => Ok(()),
            Some(at) => Err(format!(
                "the engine's answer to a known input has changed: value {at} was {:?} at start and is {:?} now",
                expected.get(at),
                self.output.get(at)
            )),
        }
    }
}
