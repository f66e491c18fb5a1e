//! Connections that take their time, or only take room. Whatever they do, others are served.

mod common;
#[path = "grpc/raw.rs"]
#[allow(dead_code, reason = "another test compares messages")]
mod raw;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::client::{Client, embeddings, ids_body};
use common::gated::{Gate, expected};
use common::{TestServer, options};
use futures_util::stream;
use prost::Message;
use raw::RawClient;
use siglip_protocol::grpc::inference::{ModelInferRequest, ModelStreamInferResponse};
use siglip_server::ServerOptions;
use tonic::Code;

const INFER: &str = "/v2/models/siglip_text/infer";
/// Longer than anything here takes that works.
const LONG: Duration = Duration::from_secs(30);
/// The limits of a server that is not patient.
const QUICK: Duration = Duration::from_millis(300);

fn server(options: ServerOptions) -> TestServer {
    TestServer::start(vec![Gate::open().model(32)], options)
}

fn impatient() -> TestServer {
    server(ServerOptions { header_timeout: QUICK, body_timeout: QUICK, ..options() })
}

#[test]
fn connections_that_stand_still() {
    let server = impatient();
    let mut slow = Client::connect(server.http);
    slow.send(b"GET /v2/health/live HTTP/1.1\r\nHos").unwrap();
    let mut silent = Client::connect(server.http);
    assert!(slow.is_closed_within(LONG));
    assert!(silent.is_closed_within(LONG));

    let mut short = Client::connect(server.http);
    short
        .send(format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{").as_bytes())
        .unwrap();
    let response = short.receive().unwrap();
    assert_eq!(response.status, 408);
    assert!(
        response.text().contains("nothing of the request body arrived for 0.3 seconds"),
        "{}",
        response.text()
    );
    assert!(short.is_closed_within(LONG));
}

/// A byte now and then is not enough: headers have a time limit as a whole, and bodies a slowest rate.
#[test]
fn connections_that_drip() {
    let server = impatient();
    let drip = |start: &str| {
        let mut client = Client::connect(server.http);
        client.send(start.as_bytes()).unwrap();
        client.set_timeout(Duration::from_millis(30));
        let until = Instant::now() + LONG;
        while Instant::now() < until {
            match client.receive() {
                Ok(response) => return Some(response),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => drop(client.send(b"1")),
                Err(_) => return None,
            }
        }
        panic!("a connection that drips was kept");
    };
    assert!(drip("GET /v2/health/live HTTP/1.1\r\nX: ").is_none_or(|response| response.status == 408));
    let response =
        drip(&format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")).unwrap();
    assert_eq!(response.status, 408);
    assert!(response.text().contains("arrives at less than 1024 bytes a second"), "{}", response.text());
}

#[test]
fn more_connections_than_allowed_wait_for_their_turn() {
    let server = server(ServerOptions { max_connections: 2, ..options() });
    let first = Client::connect(server.http);
    let mut second = Client::connect(server.http);
    assert_eq!(second.get("/v2/health/live").status, 200);
    let mut third = Client::connect(server.http);
    third.send(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    third.set_timeout(Duration::from_millis(200));
    assert!(third.receive().is_err());
    drop(first);
    third.set_timeout(LONG);
    assert_eq!(third.receive().unwrap().status, 200);
}

/// What an answer waits for is room in the system's buffers, which a client that does not read keeps full.
#[test]
fn connections_whose_answers_are_not_taken() {
    let server = server(ServerOptions { max_connections: 2, body_timeout: QUICK * 4, ..options() });
    // An id comes back in the answer.
    let body = ids_body(&[1]).replacen('{', &format!(r#"{{"id":"{}","#, "x".repeat(16 << 20)), 1);
    let deaf: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = connect_with_little_room(server.http);
            client.send_post(INFER, "", body.as_bytes());
            client
        })
        .collect();
    let mut third = Client::connect(server.http);
    third.set_timeout(LONG);
    assert_eq!(third.get("/v2/health/live").status, 200);
    drop(deaf);
    // Who takes it in time has all of it, however often.
    for _ in 0..2 {
        let response = third.post(INFER, "", body.as_bytes());
        assert_eq!(response.json()["id"].as_str().map(str::len), Some(16 << 20));
    }
}

/// A client for whom the system keeps but little that it has not read.
fn connect_with_little_room(addr: SocketAddr) -> Client {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1 << 16).unwrap();
        socket.connect(addr).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    Client::on(stream)
}

#[test]
fn idle_connections_by_the_thousand() {
    let server = server(ServerOptions { header_timeout: Duration::from_secs(3), ..options() });
    // Both ends of each are in this process.
    let room = (open_files().saturating_sub(200) / 2).min(3000);
    let silent = room / 3;
    let mut idle: Vec<Client> = (0..silent).map(|_| Client::connect(server.http)).collect();
    idle.extend((0..silent).map(|_| Client::connect(server.grpc)));
    idle.extend((0..silent).map(|_| {
        let mut half = Client::connect(server.http);
        half.send(format!("POST {INFER} HTTP/1.1\r\n").as_bytes()).unwrap();
        half
    }));
    let mut client = Client::connect(server.http);
    for id in 0..50 {
        assert_eq!(embeddings(&client.embed_ids(&[id])), expected(id));
    }
    assert_eq!(Client::connect(server.metrics).get("/metrics").status, 200);
    // All of them are gone in the end, and nobody else is.
    assert!(idle.iter_mut().all(|client| client.ends_within(LONG)));
    assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[7])), expected(7));
}

/// The limit of this process.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_connections_count_as_the_others_do() {
    let server = server(ServerOptions { max_connections: 2, ..options() });
    let mut first = Client::connect(server.http);
    assert_eq!(first.get("/v2/health/live").status, 200);
    let mut second = RawClient::connect(server.grpc).await;
    second.unary("ServerLive", Vec::new()).await.unwrap();
    let third = async {
        let mut third = RawClient::connect(server.grpc).await;
        third.unary("ServerLive", Vec::new()).await
    };
    let mut third = std::pin::pin!(third);
    assert!(tokio::time::timeout(QUICK, third.as_mut()).await.is_err(), "there was room for a third");
    drop(first);
    tokio::time::timeout(LONG, third).await.unwrap().unwrap();
    // And the other way round.
    drop(second);
    let mut fourth = Client::connect(server.http);
    assert_eq!(fourth.get("/v2/health/live").status, 200);
}

#[test]
fn grpc_connections_that_stand_still() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let server = impatient();
    let starts = [
        &b""[..],
        &PREFACE[..23],
        PREFACE,
        &[PREFACE, SETTINGS].concat(),
        &[PREFACE, &SETTINGS[..5]].concat(),
    ];
    for start in starts {
        let mut client = Client::connect(server.grpc);
        client.send(start).unwrap();
        // What does not even answer a ping is not there.
        assert!(client.ends_within(LONG), "after {} bytes", start.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_requests_that_stand_still() {
    let server = impatient();
    let mut client = RawClient::connect(server.grpc).await;
    let status = client.messages("ModelInfer", stream::pending()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "nothing of the request body arrived for 0.3 seconds");

    // A stream may be silent: nobody knows when its client will have something to ask.
    let request =
        ModelInferRequest { model_name: "nope".to_owned(), id: "x".to_owned(), ..Default::default() };
    let late = stream::once(async move {
        tokio::time::sleep(QUICK * 3).await;
        Bytes::from(request.encode_to_vec())
    });
    let answers = client.messages("ModelStreamInfer", late).await.unwrap();
    let answer = ModelStreamInferResponse::decode(answers[0].clone()).unwrap();
    assert!(answer.error_message.contains("nope"), "{answer:?}");
}
