//! An engine that goes wrong is noticed, and not asked any more.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::client::{Client, embeddings};
use common::engines::{CONTEXT, LengthTokenizer, Row, RowEngine, info};
use common::gated::Gate;
use common::queued::wait_for_queue;
use common::{TestServer, options};
use siglip::engine::Tower;
use siglip_server::{ServedModel, ServedText, ServerOptions, Tokenize};

/// A model whose answers are the first id and what `drift` holds.
fn drifting(drift: Arc<AtomicU32>) -> ServedModel {
    let mut info = info(Tower::Text, 8, CONTEXT, 2);
    info.vocab_size = 1000;
    let embed = move |row: Row<'_>, output: &mut [f32]| match row {
        Row::Ids(ids) => output.copy_from_slice(&[ids[0] as f32, drift.load(Ordering::Relaxed) as f32]),
        Row::Pixels(_) => unreachable!(),
    };
    let engine = Box::new(RowEngine { info, embed });
    let tokenizer: Option<Arc<dyn Tokenize>> = Some(Arc::new(LengthTokenizer));
    let text = ServedText { engines: vec![engine], rebuild: None, peak_flops: 0.0, tokenizer };
    ServedModel { name: "drifting".to_owned(), text: Some(text), vision: None, similarity: None }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_engine_whose_answers_change_is_not_ready_until_they_are_right_again() {
    let drift = Arc::new(AtomicU32::new(7));
    let interval = Duration::from_millis(20);
    let options = ServerOptions { canary_interval: interval, ..options() };
    let server = TestServer::start(vec![drifting(drift.clone())], options);
    let mut client = Client::connect(server.http);
    let ready = |path: &str| Client::connect(server.http).get(path).status == 200;
    // The right answer is taken down before any other.
    assert_eq!(embeddings(&client.embed_ids(&[3])), [3.0, 7.0]);
    assert!(ready("/v2/health/ready") && ready("/v2/models/embed_text/ready"));

    drift.store(8, Ordering::Relaxed);
    wait_for("not ready", || !ready("/v2/health/ready"));
    let response = client.embed_ids(&[3]);
    assert_eq!(response.status, 503);
    let words = "the model is not ready: the engine's answer to a known input has changed: value 1 was 7 at start and is 8 now";
    assert!(response.text().contains(words), "{}", response.text());
    assert!(!ready("/v2/models/embed_text/ready"));
    let index = client.post("/v2/repository/index", "", b"").json();
    assert_eq!(index[0]["state"], "UNAVAILABLE");
    assert!(index[0]["reason"].as_str().unwrap().contains("has changed"));
    assert_eq!(
        client.post("/v2/repository/index", "", br#"{"ready":true}"#).json().as_array().unwrap().len(),
        1
    );
    assert!(ready("/v2/health/live"), "alive all the same");

    drift.store(7, Ordering::Relaxed);
    wait_for("ready again", || ready("/v2/health/ready"));
    assert_eq!(embeddings(&client.embed_ids(&[3])), [3.0, 7.0]);
}

#[test]
fn requests_that_wait_for_an_engine_that_does_not_come_back() {
    let gate = Gate::closed();
    let stuck_after = Duration::from_secs(2);
    let server = TestServer::start(vec![gate.model(1)], ServerOptions { stuck_after, ..options() });
    let live = || Client::connect(server.http).get("/v2/health/live").status == 200;
    std::thread::sleep(stuck_after * 3 / 2);
    assert!(live(), "nothing waits");
    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(server.http)).collect();
    for client in &mut clients {
        client.send_post("/v2/models/siglip_text/infer", "", common::client::ids_body(&[1]).as_bytes());
    }
    wait_for_queue(&server, 1);
    assert!(live(), "something waits, but not for long");
    wait_for("not alive", || !live());
    gate.set(None);
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().status, 200);
    }
    wait_for("alive again", live);
}
