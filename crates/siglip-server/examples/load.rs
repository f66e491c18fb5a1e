//! A load driver: so many clients at once, each of which sends another text's token ids as soon as it has its answer.
//!
//! `cargo run --release --example load -- 127.0.0.1:8000 json|binary|grpc CLIENTS SECONDS [MODEL]`
//!
//! Prints one line of JSON: the requests that were answered in that time (after a second that does not count), how many
//! that is a second, and the median and the 99th percentile of their times in milliseconds. A request that is not answered
//! with an embedding ends it with an error.

#![expect(clippy::print_stdout, reason = "the result")]

use std::error::Error;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use siglip_protocol::grpc::inference::ModelInferRequest;
use siglip_protocol::grpc::inference::model_infer_request::InferInputTensor;
use tokio::net::TcpStream;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;

/// What is not counted: until all clients are there and the first batches were formed.
const WARM_UP: Duration = Duration::from_secs(1);

fn main() -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, door, clients, seconds, rest @ ..] = arguments.as_slice() else {
        return Err("usage: load ADDRESS json|binary|grpc CLIENTS SECONDS [MODEL]".into());
    };
    let model = rest.first().map_or("siglip_text", String::as_str);
    let door = match door.as_str() {
        "json" => Door::Json,
        "binary" => Door::Binary,
        "grpc" => Door::Grpc,
        other => return Err(format!("unknown door `{other}`: there are json, binary and grpc").into()),
    };
    let (clients, seconds): (usize, f64) = (clients.parse()?, seconds.parse()?);

    let mut senders = Vec::new();
    while senders.len() < clients {
        senders.extend(Sender::connect(address, door, clients - senders.len()).await?);
    }
    let first = Instant::now() + WARM_UP;
    let last = first + Duration::try_from_secs_f64(seconds)?;
    let tasks: Vec<_> = senders
        .into_iter()
        .enumerate()
        .map(|(client, sender)| {
            tokio::spawn(sender.send_all(door, model.to_owned(), (client, clients), first..last))
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    times.sort_unstable();
    let percentile = |percent: usize| match times.get(times.len() * percent / 100) {
        Some(time) => time.as_secs_f64() * 1e3,
        None => f64::NAN,
    };
    let line = json!({
        "requests": times.len(),
        "requests_per_s": times.len() as f64 / seconds,
        "p50_ms": percentile(50),
        "p99_ms": percentile(99),
    });
    println!("{line}");
    Ok(())
}

/// A way in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Json,
    Binary,
    Grpc,
}

impl Door {
    /// A request with a text.
    fn request(self, model: &str, text: u64) -> Result<Request<Full<Bytes>>, Failure> {
        let infer = format!("/v2/models/{model}/infer");
        let request = Request::builder().method(Method::POST);
        let (request, body) = match self {
            Door::Json => {
                let ids: Vec<u64> = ids(text).collect();
                let tensor =
                    json!({ "name": "INPUT_IDS", "datatype": "INT64", "shape": [1, LENGTH], "data": ids });
                let body = json!({ "inputs": [tensor] }).to_string();
                let request =
                    request.uri(infer).header("host", HOST).header("content-type", "application/json");
                (request, body.into())
            }
            Door::Binary => {
                let parameters = json!({ "binary_data_size": LENGTH * 8 });
                let tensor = json!({
                    "name": "INPUT_IDS", "datatype": "INT64", "shape": [1, LENGTH], "parameters": parameters
                });
                let head = json!({ "inputs": [tensor], "parameters": { "binary_data_output": true } });
                let head = head.to_string();
                let request = request.uri(infer).header("host", HOST);
                let request = request.header("inference-header-content-length", head.len());
                (request, [head.as_bytes(), &raw_ids(text)].concat().into())
            }
            Door::Grpc => {
                let request = request.uri(format!("http://{HOST}/inference.GRPCInferenceService/ModelInfer"));
                let request = request.header("content-type", "application/grpc").header("te", "trailers");
                (request, grpc_message(model, text)?)
            }
        };
        Ok(request.body(Full::new(body))?)
    }
}

/// As whom the server is addressed.
const HOST: &str = "siglip";
/// Tokens of a text.
const LENGTH: usize = 64;

/// A text's token ids, which no other text has: identical rows of a batch would be computed once.
fn ids(text: u64) -> impl Iterator<Item = u64> {
    // Every vocabulary has as many.
    const VOCABULARY: u64 = 1000;
    let digits = [text % VOCABULARY, text / VOCABULARY % VOCABULARY, text / VOCABULARY.pow(2) % VOCABULARY];
    let rest = (0..LENGTH as u64 - 3).map(move |i| (text + i * i * 37) % VOCABULARY);
    digits.into_iter().chain(rest)
}

fn raw_ids(text: u64) -> Vec<u8> {
    ids(text).flat_map(u64::to_le_bytes).collect()
}

/// A message behind its flag and its length.
fn grpc_message(model: &str, text: u64) -> Result<Bytes, Failure> {
    let tensor = InferInputTensor {
        name: "INPUT_IDS".to_owned(),
        datatype: "INT64".to_owned(),
        shape: vec![1, LENGTH as i64],
        ..InferInputTensor::default()
    };
    let request = ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![tensor],
        raw_input_contents: vec![raw_ids(text).into()],
        ..ModelInferRequest::default()
    };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(request.encoded_len())?);
    request.encode(&mut message)?;
    Ok(message.freeze())
}

/// One client's connection, or its part of one.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// Clients that share a connection over gRPC, as the channels of real ones do.
    const ON_A_CHANNEL: usize = 16;

    /// A connection for at most so many clients.
    async fn connect(address: &str, door: Door, clients: usize) -> Result<Vec<Sender>, Failure> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        if door == Door::Grpc {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            let clients = clients.min(Sender::ON_A_CHANNEL);
            return Ok(std::iter::repeat_with(|| Sender::Http2(sender.clone())).take(clients).collect());
        }
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(vec![Sender::Http1(sender)])
    }

    /// Sends texts `first`, `first + every`, … until the end; the times of those that were answered within the range.
    async fn send_all(
        mut self,
        door: Door,
        model: String,
        (first, every): (usize, usize),
        measured: Range<Instant>,
    ) -> Result<Vec<Duration>, Failure> {
        let mut times = Vec::new();
        for text in (first..).step_by(every) {
            let request = door.request(&model, text as u64)?;
            let start = Instant::now();
            self.send(request).await?;
            let end = Instant::now();
            if end >= measured.end {
                break;
            }
            if end >= measured.start {
                times.push(end - start);
            }
        }
        Ok(times)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(), Failure> {
        let response = match self {
            Sender::Http1(sender) => sender.send_request(request).await?,
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        // Over gRPC the end is in the trailers, and a failure without a body in the head.
        let no_trailers = HeaderMap::new();
        let trailers = body.trailers().unwrap_or(&no_trailers);
        let grpc_status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status")).cloned();
        let grpc_failed = grpc_status.is_some_and(|status| status != "0");
        let body = body.to_bytes();
        // Every form of an answer names its tensor.
        let answered = body.windows(EMBEDDING.len()).any(|name| name == EMBEDDING);
        if head.status != StatusCode::OK || grpc_failed || !answered {
            let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            return Err(format!("answered {} {:?}: {start}", head.status, head.headers).into());
        }
        Ok(())
    }
}

const EMBEDDING: &[u8] = b"EMBEDDING";
