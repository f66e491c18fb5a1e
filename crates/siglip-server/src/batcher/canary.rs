//! A known input, computed at first, then now and then while nothing else is, and after a failure that no request is
//! known to be at fault for: an engine whose answer to it changes has lost its mind or its memory, and is not to be asked
//! any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use siglip::engine::{Engine, EngineInfo, Input, Tower};

/// How long an engine that has failed waits until it is asked again: what is wrong may be over soon.
const AGAIN: Duration = Duration::from_secs(5);

/// The input, and the answer that is right.
pub(super) struct Canary {
    row: Row,
    output: Vec<f32>,
    /// From the first time on.
    expected: Option<Vec<f32>>,
    /// Whether the last answer was wrong.
    failed: bool,
    interval: Duration,
}

enum Row {
    TokenIds(Vec<u32>),
    Pixels(Vec<f32>),
}

impl Canary {
    /// A canary that is asked every `interval` of idleness; none, if that is zero.
    pub(super) fn new(info: &EngineInfo, interval: Duration) -> Option<Self> {
        if interval.is_zero() {
            return None;
        }
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
        let output = vec![0.0; info.embedding_size];
        Some(Canary { row, output, expected: None, failed: false, interval })
    }

    /// How long to wait for requests before the engine is asked.
    pub(super) fn wait(&self) -> Duration {
        if self.failed { AGAIN.min(self.interval) } else { self.interval }
    }

    /// Asks the engine. The first answer is the one that is right.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong with the answer.
    pub(super) fn ask(&mut self, engine: &mut dyn Engine) -> Result<(), String> {
        let answer = self.compute(engine);
        self.failed = answer.is_err();
        answer
    }

    fn compute(&mut self, engine: &mut dyn Engine) -> Result<(), String> {
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
        let mut values = expected.iter().zip(&self.output).enumerate();
        match values.find(|(_, (was, is))| was.to_bits() != is.to_bits()) {
            None => Ok(()),
            Some((at, (was, is))) => Err(format!(
                "the engine's answer to a known input has changed: value {at} was {was} at start and is {is} now"
            )),
        }
    }
}
