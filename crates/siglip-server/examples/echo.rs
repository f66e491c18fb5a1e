//! The server with an engine that costs nothing, to measure what the server itself costs.
//!
//! `cargo run --release --example echo -- 8000 8001 8002`

use std::error::Error;

use siglip::engine::{Engine, EngineError, EngineInfo, Input, Precision, Tower};
use siglip_server::{BoundServer, ServedModel, ServedText, ServerOptions};

struct Echo(EngineInfo);

impl Engine for Echo {
    fn info(&self) -> &EngineInfo {
        &self.0
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        let Input::TokenIds(ids) = input else {
            return Err(EngineError::Device("only texts".to_owned()));
        };
        for (ids, row) in ids.chunks_exact(64).zip(output.chunks_exact_mut(1152)) {
            let columns = row.iter_mut().zip(ids.iter().cycle()).enumerate();
            columns.for_each(|(column, (value, &id))| *value = id as f32 * 0.001 + column as f32);
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
    let server = BoundServer::bind(&options).await?;
    let info = EngineInfo {
        tower: Tower::Text,
        device: "cpu".to_owned(),
        precision: Precision::F32,
        kernels: "echo".to_owned(),
        threads: 1,
        max_batch_size: 32,
        input_len: 64,
        vocab_size: 32_000,
        embedding_size: 1152,
        weights_bytes: 0,
        scratch_bytes: 0,
        flop_per_item: 0.0,
    };
    let text =
        ServedText { engines: vec![Box::new(Echo(info))], rebuild: None, peak_flops: 0.0, tokenizer: None };
    let model = ServedModel { name: "echo".to_owned(), text: Some(text), vision: None, similarity: None };
    server.serve(vec![model], std::future::pending()).await?;
    Ok(())
}
