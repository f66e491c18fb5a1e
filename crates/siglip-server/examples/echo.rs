//! The server with an engine that costs nothing, to measure what the server itself costs; or, given texts a second, with
//! one that takes the time of a card with two slots that is so fast, but no processor, to see whether the server keeps it
//! busy.
//!
//! `cargo run --release --example echo -- 8000 8001 8002 [10000]`

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use siglip::engine::{Engine, EngineError, EngineInfo, Input, Precision, Tower};
use siglip_server::{BoundServer, ServedModel, ServedText, ServerOptions};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Echo {
    info: EngineInfo,
    card: Option<Arc<Mutex<Card>>>,
}

/// What computes one batch after the other.
struct Card {
    texts_per_second: f64,
}

impl Card {
    fn compute(&self, texts: usize) {
        thread::sleep(Duration::from_secs_f64(texts as f64 / self.texts_per_second));
    }
}

impl Engine for Echo {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        let Input::TokenIds(ids) = input else {
            return Err(EngineError::Device("only texts".to_owned()));
        };
        for (ids, row) in ids.chunks_exact(64).zip(output.chunks_exact_mut(1152)) {
            let columns = row.iter_mut().zip(ids.iter().cycle()).enumerate();
            columns.for_each(|(column, (value, &id))| *value = id as f32 * 0.001 + column as f32);
        }
        if let Some(card) = &self.card {
            card.lock().unwrap_or_else(PoisonError::into_inner).compute(ids.len() / 64);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    siglip_server::runtime()?.block_on(serve())
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let mut ports = std::env::args().skip(1).map(|port| port.parse::<u16>());
    let mut port = || ports.next().unwrap_or(Ok(0));
    let options = ServerOptions {
        http_port: port()?,
        grpc_port: port()?,
        metrics_port: port()?,
        ..ServerOptions::default()
    };
    let texts_per_second = std::env::args().nth(4).map(|rate| rate.parse::<f64>()).transpose()?;
    let card = texts_per_second.map(|texts_per_second| Arc::new(Mutex::new(Card { texts_per_second })));
    let server = BoundServer::bind(&options).await?;
    let info = EngineInfo {
        tower: Tower::Text,
        device: "cpu".to_owned(),
        card_uuid: None,
        precision: Precision::F32,
        kernels: "echo".to_owned(),
        threads: 1,
        max_batch_size: if card.is_some() { 512 } else { 32 },
        input_len: 64,
        vocab_size: 32_000,
        embedding_size: 1152,
        weights_bytes: 0,
        scratch_bytes: 0,
        flop_per_item: 0.0,
    };
    let slots = if card.is_some() { 2 } else { 1 };
    let engine = || Box::new(Echo { info: info.clone(), card: card.clone() }) as Box<dyn Engine>;
    let engines = std::iter::repeat_with(engine).take(slots).collect();
    let text = ServedText { engines, rebuild: None, peak_flops: 0.0, tokenizer: None };
    let model = ServedModel { name: "echo".to_owned(), text: Some(text), vision: None, similarity: None };
    server.serve(vec![model], std::future::pending()).await?;
    Ok(())
}
