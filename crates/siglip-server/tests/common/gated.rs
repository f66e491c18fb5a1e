//! An engine that computes when the test says so, and remembers what it was given.

use std::sync::{Arc, Condvar, Mutex};

use siglip::engine::{Engine, EngineError, EngineInfo, Input, Tower};
use siglip_server::{ServedModel, ServedText, Tokenize};

use super::engines::{CONTEXT, LengthTokenizer, echo, info};

/// An id that makes the engine panic.
pub(crate) const PANICS: i64 = 666;
/// An id whose embedding is not finite.
pub(crate) const NOT_FINITE: i64 = 777;
/// An id that breaks the device.
pub(crate) const BREAKS: i64 = 888;

/// The columns of the gated engine's embeddings.
pub(crate) const COLUMNS: usize = 8;

#[derive(Default)]
struct State {
    /// Batches that may still be computed; `None` for any number.
    allowed: Option<usize>,
    /// The first ids of the rows of every batch that was begun.
    batches: Vec<Vec<u32>>,
    /// Where each was begun.
    devices: Vec<String>,
    /// Devices that are gone.
    lost: Vec<String>,
    /// Devices whose answers are wrong.
    wrong: Vec<String>,
    /// Devices that fail at everything, and may not any more.
    failing: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    pub(crate) fn open() -> Self {
        Gate(Arc::new((Mutex::new(State::default()), Condvar::new())))
    }

    pub(crate) fn closed() -> Self {
        let gate = Gate::open();
        gate.set(Some(0));
        gate
    }

    pub(crate) fn set(&self, allowed: Option<usize>) {
        self.0.0.lock().unwrap().allowed = allowed;
        self.0.1.notify_all();
    }

    pub(crate) fn batches(&self) -> Vec<Vec<u32>> {
        self.0.0.lock().unwrap().batches.clone()
    }

    /// Where each batch was begun.
    pub(crate) fn devices(&self) -> Vec<String> {
        self.0.0.lock().unwrap().devices.clone()
    }

    /// From now on a device cannot be used any more.
    pub(crate) fn lose(&self, device: &str) {
        self.0.0.lock().unwrap().lost.push(device.to_owned());
    }

    /// From now on these devices, and no others, answer wrongly.
    pub(crate) fn set_wrong(&self, devices: &[&str]) {
        self.0.0.lock().unwrap().wrong = devices.iter().map(|&device| device.to_owned()).collect();
    }

    /// From now on these devices, and no others, fail at everything.
    pub(crate) fn set_failing(&self, devices: &[&str]) {
        self.0.0.lock().unwrap().failing = devices.iter().map(|&device| device.to_owned()).collect();
    }

    /// Waits until the engine has begun so many batches.
    pub(crate) fn wait_for_batches(&self, count: usize) {
        let state = self.0.0.lock().unwrap();
        let begun = |state: &mut State| state.batches.len() < count;
        let timeout = std::time::Duration::from_secs(60);
        let (_state, result) = self.0.1.wait_timeout_while(state, timeout, begun).unwrap();
        assert!(!result.timed_out(), "the engine did not begin {count} batches");
    }

    fn pass(&self, device: &str, batch: Vec<u32>) {
        let mut state = self.0.0.lock().unwrap();
        state.batches.push(batch);
        state.devices.push(device.to_owned());
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.allowed == Some(0)).unwrap();
        state.allowed = state.allowed.map(|allowed| allowed - 1);
    }

    /// A model whose text tower is behind the gate.
    pub(crate) fn model(&self, max_batch_size: usize) -> ServedModel {
        self.model_on(&["cpu"], max_batch_size)
    }

    /// The same with an engine on each of some devices.
    pub(crate) fn model_on(&self, devices: &[&str], max_batch_size: usize) -> ServedModel {
        let mut info = info(Tower::Text, max_batch_size, CONTEXT, COLUMNS);
        info.vocab_size = 32_000;
        let engine = |device: &&str| {
            let info = EngineInfo { device: (*device).to_owned(), ..info.clone() };
            Box::new(GatedEngine { info, gate: self.clone() }) as Box<dyn Engine>
        };
        let engines = devices.iter().map(engine).collect();
        let tokenizer: Option<Arc<dyn Tokenize>> = Some(Arc::new(LengthTokenizer));
        let text = ServedText { engines, rebuild: None, peak_flops: 0.0, tokenizer };
        ServedModel { name: "gated/model".to_owned(), text: Some(text), vision: None, similarity: None }
    }
}

struct GatedEngine {
    info: EngineInfo,
    gate: Gate,
}

impl Engine for GatedEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        let Input::TokenIds(ids) = input else { unreachable!() };
        let rows: Vec<&[u32]> = ids.chunks_exact(CONTEXT).collect();
        assert!(rows.len() <= self.info.max_batch_size && output.len() == rows.len() * COLUMNS);
        self.gate.pass(&self.info.device, rows.iter().map(|row| row[0]).collect());
        let is_in = |devices: &[String]| devices.contains(&self.info.device);
        if is_in(&self.gate.0.0.lock().unwrap().lost) {
            return Err(EngineError::Lost("it fell off the bus".to_owned()));
        }
        if is_in(&self.gate.0.0.lock().unwrap().failing) {
            return Err(EngineError::Device("it has a bad day".to_owned()));
        }
        let find = |id: i64| rows.iter().position(|row| i64::from(row[0]) == id);
        if find(PANICS).is_some() {
            // Without the hook that would print it.
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        if find(BREAKS).is_some() {
            return Err(EngineError::Device("on purpose".to_owned()));
        }
        if let Some(row) = find(NOT_FINITE) {
            return Err(EngineError::NotFinite { row });
        }
        for (row, output) in rows.iter().zip(output.chunks_exact_mut(COLUMNS)) {
            echo(row, output);
            if is_in(&self.gate.0.0.lock().unwrap().wrong) {
                output[0] += 1.0;
            }
        }
        Ok(())
    }
}

/// What a row of one id is answered with.
pub(crate) fn expected(id: i64) -> Vec<f32> {
    let mut output = vec![0.0; COLUMNS];
    echo(&[id as u32; CONTEXT], &mut output);
    output
}
