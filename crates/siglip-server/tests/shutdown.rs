//! Starting and ending.

mod common;
#[path = "grpc/raw.rs"]
#[allow(dead_code, reason = "another test compares messages")]
mod raw;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::client::{Client, embeddings, ids_body};
use common::gated::{Gate, expected};
use common::{TestServer, options};
use futures_util::stream::{self, StreamExt};
use prost::Message;
use raw::RawClient;
use siglip_protocol::grpc::health::HealthCheckResponse;
use siglip_protocol::grpc::health::health_check_response::ServingStatus;
use siglip_protocol::grpc::inference::model_infer_request::InferInputTensor;
use siglip_protocol::grpc::inference::{ModelInferRequest, ModelStreamInferResponse};
use siglip_server::{BoundServer, ServeError, ServerOptions};

/// Long enough for the most crowded machine; nothing waits for it where things work.
const PATIENCE: Duration = Duration::from_secs(30);

const INFER: &str = "/v2/models/siglip_text/infer";

#[test]
fn what_was_taken_in_is_finished() {
    let gate = Gate::closed();
    let mut server = TestServer::start(vec![gate.model(2)], options());
    let mut idle = Client::connect(server.http);
    assert_eq!(idle.get("/v2/health/ready").status, 200);
    let mut clients: Vec<_> = (1..5)
        .map(|id| {
            let mut client = Client::connect(server.http);
            client.send_post(INFER, "", ids_body(&[id]).as_bytes());
            (client, id)
        })
        .collect();
    gate.wait_for_batches(1);
    std::thread::sleep(Duration::from_millis(100));
    server.stop();
    assert!(idle.is_closed_within(PATIENCE), "idle connections are closed at once");
    // A connection is refused, or closed if it was in the listener's queue; where the listener went just then, only what is
    // sent shows that nobody is there.
    let is_taken_in = || {
        let Ok(stream) = TcpStream::connect(server.http) else { return false };
        let mut client = Client::on(stream);
        let _ = client.send(b"GET /v2/health/live HTTP/1.1\r\nhost: test\r\n\r\n");
        !client.is_closed_within(PATIENCE)
    };
    // The listener hears of the end when idle connections do, and may have taken one more in just then.
    let start = Instant::now();
    while is_taken_in() {
        assert!(start.elapsed() < PATIENCE, "nothing new is taken in");
    }
    gate.set(None);
    for (client, id) in &mut clients {
        let response = client.receive().unwrap();
        assert_eq!(embeddings(&response), expected(*id));
        assert!(
            client.is_closed_within(PATIENCE),
            "nothing more is taken in on a connection that is answered"
        );
    }
    server.join().unwrap();
}

/// Streams without an end are ended by the server, and what they were asked is answered.
#[tokio::test(flavor = "multi_thread")]
async fn open_streams_do_not_hold_up_the_end() {
    let gate = Gate::closed();
    let options = ServerOptions { shutdown_grace: PATIENCE * 2, ..options() };
    let mut server = TestServer::start(vec![gate.model(2)], options);
    let open = |first: Vec<u8>| stream::once(async move { Bytes::from(first) }).chain(stream::pending());
    let mut client = RawClient::connect(server.grpc).await;
    let watch = tokio::spawn(async move {
        let health = client.messages("/grpc.health.v1.Health/Watch", stream::once(async { Bytes::new() }));
        health.await
    });
    let mut client = RawClient::connect(server.grpc).await;
    let list = ServerReflectionRequest { list_services: Some(String::new()) };
    let reflection = tokio::spawn(async move {
        let path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
        client.messages(path, open(list.encode_to_vec())).await
    });
    let mut client = RawClient::connect(server.grpc).await;
    let infer = tokio::spawn(async move {
        client.messages("ModelStreamInfer", open(infer_request(1).encode_to_vec())).await
    });
    gate.wait_for_batches(1);
    // Nothing outside shows that the others are open.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    server.stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.set(None);
    let statuses = watch.await.unwrap().unwrap();
    let statuses = statuses.into_iter().map(|status| HealthCheckResponse::decode(status).unwrap().status());
    assert_eq!(statuses.collect::<Vec<_>>(), [ServingStatus::Serving, ServingStatus::NotServing]);
    assert_eq!(reflection.await.unwrap().unwrap().len(), 1);
    let answers = infer.await.unwrap().unwrap();
    let answer = ModelStreamInferResponse::decode(answers[0].clone()).unwrap();
    assert_eq!((answers.len(), answer.error_message.as_str()), (1, ""));
    server.join().unwrap();
    assert!(start.elapsed() < PATIENCE);
}

/// A request for a row of one id.
fn infer_request(id: i64) -> ModelInferRequest {
    let ids = InferInputTensor {
        name: "INPUT_IDS".to_owned(),
        datatype: "INT64".to_owned(),
        shape: vec![1, 64],
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: "siglip_text".to_owned(),
        inputs: vec![ids],
        raw_input_contents: vec![id.to_le_bytes().repeat(64).into()],
        ..ModelInferRequest::default()
    }
}

/// The question of `grpc.reflection.v1alpha` for the services' names.
#[derive(Clone, PartialEq, Message)]
struct ServerReflectionRequest {
    #[prost(string, optional, tag = "7")]
    list_services: Option<String>,
}

#[test]
fn the_grace_is_bounded() {
    let gate = Gate::closed();
    let grace = Duration::from_millis(300);
    let server = TestServer::start(vec![gate.model(2)], ServerOptions { shutdown_grace: grace, ..options() });
    let mut client = Client::connect(server.http);
    client.send_post(INFER, "", ids_body(&[1]).as_bytes());
    gate.wait_for_batches(1);
    let start = Instant::now();
    server.join().unwrap();
    assert!((grace..PATIENCE).contains(&start.elapsed()));
    assert!(client.receive().is_err());
    gate.set(None);
}

#[test]
fn a_port_in_use_is_named_with_its_option() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let first = BoundServer::bind(&options()).await.unwrap();
        let port = first.metrics_addr().port();
        let error = BoundServer::bind(&ServerOptions { metrics_port: port, ..options() }).await.unwrap_err();
        assert!(matches!(error, ServeError::PortInUse { flag: "--metrics-port", .. }));
        assert_eq!(
            error.to_string(),
            format!("port {port} on 127.0.0.1 is in use: stop what listens there, or choose another port with --metrics-port")
        );
        let no_model = first.serve(Vec::new(), async {}).await.unwrap_err();
        assert_eq!(no_model.to_string(), "there is no model to serve");
    });
}
