//! Several engines behind one queue: two batches at once on a card, and several cards.

mod common;

use std::time::{Duration, Instant};

use common::client::{Client, embeddings, ids_body};
use common::gated::{BREAKS, Gate, NOT_FINITE, PANICS, expected};
use common::queued::{INFER, assert_answers, metric, send, wait_for_queue};
use common::{TestServer, options};
use siglip_server::ServerOptions;

/// A card that takes two batches at once.
const ONE_CARD: [&str; 2] = ["cuda:0", "cuda:0"];
/// Two such cards.
const TWO_CARDS: [&str; 4] = ["cuda:0", "cuda:0", "cuda:1", "cuda:1"];

fn ready(server: &TestServer, device: &str) -> f64 {
    let labels = format!("model=\"gated/model\",tower=\"text\",device=\"{device}\"");
    metric(server, &format!("siglip_engine_ready{{{labels}}}"))
}

fn health(server: &TestServer, what: &str) -> bool {
    Client::connect(server.http).get(&format!("/v2/health/{what}")).status == 200
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn beside_a_batch_on_a_card_only_a_full_one_is_begun() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model_on(&ONE_CARD, 4)], options());
    let mut clients = vec![(send(&server, &[1]), vec![1])];
    gate.wait_for_batches(1);
    clients.push((send(&server, &[2, 3]), vec![2, 3]));
    wait_for_queue(&server, 2);
    assert_eq!(gate.batches().len(), 1, "half a batch may still grow");
    // A full batch goes to the card although the first one is there; a row of the last request is left.
    clients.push((send(&server, &[4, 5, 6]), vec![4, 5, 6]));
    gate.wait_for_batches(2);
    wait_for_queue(&server, 1);
    gate.set(None);
    for (client, rows) in &mut clients {
        assert_answers(client, rows);
    }
    assert_eq!(gate.batches(), [vec![1], vec![2, 3, 4, 5], vec![6]]);
}

#[test]
fn beside_a_batch_that_should_be_over_another_one_is_begun() {
    let gate = Gate::open();
    let server = TestServer::start(vec![gate.model_on(&ONE_CARD, 4)], options());
    // From now on it is known how long a row takes.
    assert_answers(&mut send(&server, &[1]), &[1]);
    gate.set(Some(0));
    let mut second = send(&server, &[2]);
    gate.wait_for_batches(2);
    let mut third = send(&server, &[3]);
    gate.wait_for_batches(3);
    gate.set(None);
    assert_answers(&mut second, &[2]);
    assert_answers(&mut third, &[3]);
    assert_eq!(gate.batches(), [vec![1], vec![2], vec![3]]);
}

#[test]
fn another_card_takes_whatever_waits() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model_on(&TWO_CARDS, 4)], options());
    let mut first = send(&server, &[1]);
    gate.wait_for_batches(1);
    let mut second = send(&server, &[2]);
    gate.wait_for_batches(2);
    let mut third = send(&server, &[3]);
    wait_for_queue(&server, 1);
    let mut devices = gate.devices();
    devices.sort();
    assert_eq!(devices, ["cuda:0", "cuda:1"]);
    gate.set(None);
    assert_answers(&mut first, &[1]);
    assert_answers(&mut second, &[2]);
    assert_answers(&mut third, &[3]);
}

#[test]
fn parts_of_a_request_are_computed_at_once_and_joined_in_order() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model_on(&TWO_CARDS, 4)], options());
    let mut clients = Vec::new();
    for id in 1..=2 {
        clients.push((send(&server, &[id]), vec![id]));
        gate.wait_for_batches(id as usize);
    }
    for (rows, batches, waiting) in [(vec![3, 4, 5], 2, 3), (vec![6, 7, 8], 3, 2), (vec![9, 10], 4, 0)] {
        clients.push((send(&server, &rows), rows));
        gate.wait_for_batches(batches);
        wait_for_queue(&server, waiting);
    }
    assert_eq!(gate.batches()[2..], [[3, 4, 5, 6], [7, 8, 9, 10]]);
    gate.set(None);
    for (client, rows) in &mut clients {
        assert_answers(client, rows);
    }
    let statistics = Client::connect(server.http).get("/v2/models/siglip_text/stats").json();
    let statistics = &statistics["model_stats"][0];
    assert_eq!((&statistics["inference_count"], &statistics["execution_count"]), (&10.into(), &4.into()));
    assert_eq!(statistics["inference_stats"]["success"]["count"], 5);
}

/// Many callers at once, some of whose rows break what computes them: nobody gets another's rows, and only those fail
/// whose rows are bad.
#[test]
fn rows_are_never_mixed_up_and_the_bad_fail_alone() {
    let gate = Gate::open();
    let options = ServerOptions { canary_interval: Duration::from_secs(600), ..options() };
    let server = TestServer::start(vec![gate.model_on(&TWO_CARDS, 8)], options);
    let http = server.http;
    let caller = |number: i64| {
        std::thread::spawn(move || {
            let mut client = Client::connect(http);
            for round in 0..40 {
                let id = 1000 + number * 1000 + round * 20;
                let mut rows: Vec<i64> = (id..=id + (number + round) % 7).collect();
                let bad = match round % 10 {
                    3 => Some(PANICS),
                    6 => Some(NOT_FINITE),
                    9 => Some(BREAKS),
                    _ => None,
                };
                rows.extend(bad);
                client.send_post(INFER, "", ids_body(&rows).as_bytes());
                let response = client.receive().unwrap();
                if bad.is_some() {
                    assert_eq!(response.status, 500, "{rows:?}");
                } else {
                    let wanted: Vec<f32> = rows.iter().flat_map(|&id| expected(id)).collect();
                    assert_eq!(embeddings(&response), wanted, "{rows:?}");
                }
            }
        })
    };
    let callers: Vec<_> = (0..8).map(caller).collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    wait_for("the queue is empty", || {
        metric(&server, "siglip_queue_rows{model=\"gated/model\",tower=\"text\"}") == 0.0
    });
    assert_eq!(metric(&server, "nv_inference_pending_request_count{model=\"siglip_text\""), 0.0);
    assert_eq!(metric(&server, "nv_inference_request_success{model=\"siglip_text\""), 8.0 * 28.0);
}

#[test]
fn a_lost_card_does_not_take_the_others_down() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model_on(&TWO_CARDS, 4)], options());
    assert_eq!([ready(&server, "cuda:0"), ready(&server, "cuda:1")], [1.0, 1.0]);
    // Both cards have a batch, and one of them is lost with it.
    let mut clients: Vec<_> = (1..=2)
        .map(|id| {
            let client = send(&server, &[id]);
            gate.wait_for_batches(id as usize);
            (client, id)
        })
        .collect();
    gate.lose("cuda:0");
    gate.set(None);
    for (client, id) in &mut clients {
        assert_answers(client, &[*id]);
    }
    assert_eq!([ready(&server, "cuda:0"), ready(&server, "cuda:1")], [0.0, 1.0]);
    assert!(health(&server, "ready") && health(&server, "live"));
    let begun = gate.batches().len();
    for id in 10..30 {
        assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[id])), expected(id));
    }
    assert!(gate.devices()[begun..].iter().all(|device| device == "cuda:1"));

    gate.lose("cuda:1");
    let failed = Client::connect(server.http).embed_ids(&[40]);
    assert_eq!(failed.status, 500);
    assert!(
        failed.text().contains("it fell off the bus; the device cannot be used again"),
        "{}",
        failed.text()
    );
    let refused = Client::connect(server.http).embed_ids(&[41]);
    assert_eq!(refused.status, 503);
    assert!(
        refused.text().contains("the model is not ready: cuda:0: it fell off the bus"),
        "{}",
        refused.text()
    );
    assert!(!health(&server, "ready"));
    assert!(!health(&server, "live"), "only a new process gets the cards back");
}

#[test]
fn a_card_whose_answers_change_gets_no_batches_until_they_are_right_again() {
    let gate = Gate::open();
    let interval = Duration::from_millis(20);
    let options = ServerOptions { canary_interval: interval, ..options() };
    let server = TestServer::start(vec![gate.model_on(&["cuda:0", "cuda:1"], 4)], options);
    // What is asked for the second time has given its first answer, which is the right one.
    wait_for("both were asked", || ["cuda:0", "cuda:1"].iter().all(|device| begun_on(&gate, device) >= 2));
    gate.set_wrong(&["cuda:0"]);
    wait_for("the card is not ready", || ready(&server, "cuda:0") == 0.0);
    assert!(health(&server, "ready"));
    for id in 1..20 {
        assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[id])), expected(id));
    }
    gate.set_wrong(&[]);
    wait_for("the card is ready again", || ready(&server, "cuda:0") == 1.0);
}

/// What fails at once is free again at once, and would have all that comes.
#[test]
fn a_card_that_fails_at_everything_leaves_its_requests_to_the_others() {
    let gate = Gate::open();
    let options = ServerOptions { canary_interval: Duration::from_secs(600), ..options() };
    let server = TestServer::start(vec![gate.model_on(&["cuda:0", "cuda:1"], 4)], options);
    wait_for("both were asked", || ["cuda:0", "cuda:1"].iter().all(|device| begun_on(&gate, device) >= 1));
    gate.set_failing(&["cuda:0"]);
    // Whichever card fetches a request, it is answered.
    let mut id = 0;
    wait_for("the card is not ready", || {
        id += 1;
        assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[id])), expected(id));
        ready(&server, "cuda:0") == 0.0
    });
    assert!(health(&server, "ready"));
    for id in 20_000..20_020 {
        assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[id])), expected(id));
    }
    let batches: Vec<_> = gate.batches().into_iter().zip(gate.devices()).collect();
    let mut devices = batches.iter().filter(|(batch, _)| batch[0] >= 20_000).map(|(_, device)| device);
    assert!(devices.all(|device| device == "cuda:1"));
    // A request that fails on a sound card is not put back.
    assert_eq!(Client::connect(server.http).embed_ids(&[BREAKS]).status, 500);
    gate.set_failing(&[]);
    wait_for("the card is ready again", || ready(&server, "cuda:0") == 1.0);
}

fn begun_on(gate: &Gate, device: &str) -> usize {
    gate.devices().iter().filter(|begun| *begun == device).count()
}

#[test]
fn the_configuration_lists_the_cards() {
    let gate = Gate::open();
    let server = TestServer::start(vec![gate.model_on(&TWO_CARDS, 4)], options());
    let config = Client::connect(server.http).get("/v2/models/siglip_text/config").json();
    let group = &config["instance_group"][0];
    assert_eq!((&group["kind"], &group["count"]), (&"KIND_GPU".into(), &2.into()));
    assert_eq!(group["gpus"], serde_json::json!([0, 1]));
}

#[test]
fn what_was_taken_in_is_finished_by_all() {
    let gate = Gate::closed();
    let mut server = TestServer::start(vec![gate.model_on(&TWO_CARDS, 2)], options());
    let mut clients: Vec<_> = (1..=9).map(|id| (send(&server, &[id]), id)).collect();
    wait_for("all are taken in", || {
        let begun: usize = gate.batches().iter().map(Vec::len).sum();
        begun + metric(&server, "siglip_queue_rows{") as usize == 9
    });
    server.stop();
    gate.set(None);
    for (client, id) in &mut clients {
        assert_answers(client, &[*id]);
    }
    server.join().unwrap();
}
