//! How requests meet in batches, and what becomes of those that fail, are refused or are given up.

mod common;

use std::time::{Duration, Instant};

use common::client::{Client, embeddings, ids_body};
use common::gated::{BREAKS, Gate, NOT_FINITE, PANICS, expected};
use common::queued::{INFER, assert_answers, metric, send, wait_for_queue};
use common::{TestServer, options};
use siglip_server::{QueuePolicy, ServerOptions};

#[test]
fn while_a_batch_is_computed_the_next_one_forms() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model(32)], options());
    let mut first = send(&server, &[1]);
    gate.wait_for_batches(1);
    let mut second = send(&server, &[2, 3]);
    wait_for_queue(&server, 2);
    let mut third = send(&server, &[4, 5, 6]);
    wait_for_queue(&server, 5);
    gate.set(None);
    assert_answers(&mut first, &[1]);
    let response = second.receive().unwrap();
    assert_eq!(response.header("x-siglip-batch-size"), Some("5"));
    assert!(response.header("x-siglip-queue-us").unwrap().parse::<u64>().unwrap() > 0);
    assert!(response.header("x-siglip-compute-us").is_some());
    assert_answers(&mut third, &[4, 5, 6]);
    assert_eq!(gate.batches(), [vec![1], vec![2, 3, 4, 5, 6]]);
}

#[test]
fn a_request_that_does_not_fit_is_split_and_joined() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model(4)], options());
    let mut clients = vec![(send(&server, &[1]), vec![1])];
    gate.wait_for_batches(1);
    let mut queued = 0;
    for rows in [vec![2, 3, 4], vec![5, 6, 7], vec![8, 9, 10, 11]] {
        queued += rows.len();
        clients.push((send(&server, &rows), rows));
        wait_for_queue(&server, queued);
    }
    gate.set(None);
    for (client, rows) in &mut clients {
        assert_answers(client, rows);
    }
    assert_eq!(gate.batches(), [vec![1], vec![2, 3, 4, 5], vec![6, 7, 8, 9], vec![10, 11]]);
    let statistics = Client::connect(server.http).get("/v2/models/siglip_text/stats").json();
    let statistics = &statistics["model_stats"][0];
    assert_eq!(statistics["inference_count"], 11);
    assert_eq!(statistics["execution_count"], 4);
    assert_eq!(statistics["inference_stats"]["success"]["count"], 4);
    assert_eq!(statistics["inference_stats"]["compute_infer"]["count"], 4);
}

#[test]
fn a_full_queue_refuses_with_tritons_words_and_recovers() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model(32)], ServerOptions { max_queue_size: 3, ..options() });
    let mut first = send(&server, &[1]);
    gate.wait_for_batches(1);
    let mut second = send(&server, &[2, 3]);
    wait_for_queue(&server, 2);
    let refused = Client::connect(server.http).embed_ids(&[4, 5]);
    assert_eq!((refused.status, refused.reason.as_str()), (503, "Service Unavailable"));
    assert_eq!(refused.text(), r#"{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}"#);
    assert_eq!(refused.header("content-type"), Some("application/json"));
    let mut third = send(&server, &[6]);
    wait_for_queue(&server, 3);
    gate.set(None);
    assert_answers(&mut first, &[1]);
    assert_answers(&mut second, &[2, 3]);
    assert_answers(&mut third, &[6]);
    assert_eq!(metric(&server, "siglip_requests_refused_total"), 1.0);
    let rejected = "nv_inference_request_failure{model=\"siglip_text\",reason=\"REJECTED\"";
    assert_eq!(metric(&server, rejected), 1.0);
    assert_eq!(
        Client::connect(server.http).embed_ids(&[1; 32]).status,
        200,
        "an empty queue takes any request"
    );
}

#[test]
fn a_caller_that_went_away_costs_no_forward_pass() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model(32)], options());
    let mut first = send(&server, &[1]);
    gate.wait_for_batches(1);
    let gone = send(&server, &[2]);
    wait_for_queue(&server, 1);
    let mut third = send(&server, &[3]);
    wait_for_queue(&server, 2);
    drop(gone);
    // The server has to notice that the connection is closed; nothing outside shows it.
    std::thread::sleep(Duration::from_millis(200));
    gate.set(None);
    assert_answers(&mut first, &[1]);
    assert_answers(&mut third, &[3]);
    assert_eq!(gate.batches(), [vec![1], vec![3]]);
    assert_eq!(metric(&server, "siglip_requests_cancelled_total"), 1.0);
    assert_eq!(metric(&server, "siglip_queue_rows"), 0.0);
    assert_eq!(metric(&server, "nv_inference_pending_request_count{model=\"siglip_text\""), 0.0);
}

#[test]
fn one_bad_request_fails_alone() {
    for (bad, words, batches) in [
        (PANICS, "the engine panicked while it computed this request: on purpose", 5),
        (NOT_FINITE, "the embedding of row 1 is not finite", 3),
        (BREAKS, "on purpose", 5),
    ] {
        let gate = Gate::closed();
        let server = TestServer::start(vec![gate.model(32)], options());
        let mut first = send(&server, &[1]);
        gate.wait_for_batches(1);
        let mut second = send(&server, &[2]);
        wait_for_queue(&server, 1);
        let mut third = send(&server, &[3, bad]);
        wait_for_queue(&server, 3);
        let mut fourth = send(&server, &[4]);
        wait_for_queue(&server, 4);
        gate.set(None);
        assert_answers(&mut first, &[1]);
        assert_answers(&mut second, &[2]);
        let failed = third.receive().unwrap();
        assert_eq!(failed.status, 500);
        assert!(failed.text().contains(words), "{}", failed.text());
        assert_answers(&mut fourth, &[4]);
        assert_eq!(gate.batches().len(), batches);
        let backend = "nv_inference_request_failure{model=\"siglip_text\",reason=\"BACKEND\"";
        assert_eq!(metric(&server, backend), 1.0);
        assert_eq!(Client::connect(server.http).embed_ids(&[5]).status, 200, "the worker lives on");
    }
}

#[test]
fn an_idle_engine_waits_only_if_it_is_told_to() {
    let gate = Gate::open();
    let delay = Duration::from_millis(1500);
    let server =
        TestServer::start(vec![gate.model(4)], ServerOptions { max_queue_delay: delay, ..options() });
    let start = Instant::now();
    let mut first = send(&server, &[1]);
    let mut second = send(&server, &[2, 3]);
    assert_answers(&mut first, &[1]);
    assert!(start.elapsed() >= delay);
    assert_answers(&mut second, &[2, 3]);
    assert_eq!(gate.batches().len(), 1);
    let start = Instant::now();
    assert_eq!(Client::connect(server.http).embed_ids(&[1, 2, 3, 4]).status, 200);
    assert!(start.elapsed() < delay, "a full batch does not wait");
}

fn send_with(server: &TestServer, id: i64, parameters: &str) -> Client {
    let mut client = Client::connect(server.http);
    let body = ids_body(&[id]).replacen('{', &format!(r#"{{"parameters":{{{parameters}}},"#), 1);
    client.send_post(INFER, "", body.as_bytes());
    client
}

#[test]
fn whoever_has_waited_too_long_is_told_so_at_once() {
    let gate = Gate::closed();
    let queue_policy = QueuePolicy { allow_timeout_override: true, ..QueuePolicy::default() };
    let server = TestServer::start(vec![gate.model(32)], ServerOptions { queue_policy, ..options() });
    // One that is being computed does not expire, one that waits does, though the engine is at work all the time.
    let mut first = send_with(&server, 1, r#""timeout":60000000"#);
    gate.wait_for_batches(1);
    let mut hasty = send_with(&server, 2, r#""timeout":50000"#);
    let response = hasty.receive().unwrap();
    assert_eq!((response.status, response.text().as_str()), (503, r#"{"error":"Request timeout expired"}"#));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    let mut patient = send(&server, &[3]);
    wait_for_queue(&server, 2);
    gate.set(None);
    assert_answers(&mut first, &[1]);
    assert_answers(&mut patient, &[3]);
    assert_eq!(gate.batches(), [vec![1], vec![3]]);
    assert_eq!(metric(&server, "siglip_requests_timed_out_total"), 1.0);
    assert_eq!(
        metric(&server, "nv_inference_request_failure{model=\"siglip_text\",reason=\"REJECTED\""),
        1.0
    );
    assert_eq!(metric(&server, "nv_inference_pending_request_count{model=\"siglip_text\""), 0.0);
}

#[test]
fn a_text_that_is_refused_before_it_is_tokenised_counts_as_refused() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model(1)], ServerOptions { max_queue_size: 1, ..options() });
    let mut clients = vec![send(&server, &[1])];
    gate.wait_for_batches(1);
    clients.push(send(&server, &[2]));
    wait_for_queue(&server, 1);
    let body = r#"{"inputs":[{"name":"INPUT_TEXT","shape":[1,1],"datatype":"BYTES","data":["a"]}]}"#;
    let response = Client::connect(server.http).post("/v2/models/embed_text/infer", "", body.as_bytes());
    assert_eq!(response.status, 503);
    assert!(response.text().contains("Exceeds maximum queue size"), "{}", response.text());
    assert_eq!(metric(&server, "siglip_requests_refused_total"), 1.0);
    assert_eq!(metric(&server, "nv_inference_request_failure{model=\"embed_text\",reason=\"REJECTED\""), 1.0);
    gate.set(None);
    for (client, id) in clients.iter_mut().zip(1..) {
        assert_answers(client, &[id]);
    }
}

#[test]
fn what_the_cache_has_needs_no_room_in_the_queue() {
    let gate = Gate::open();
    let limits = ServerOptions { max_queue_size: 1, cache_bytes: 1 << 20, ..options() };
    let server = TestServer::start(vec![gate.model(1)], limits);
    let text = r#"{"inputs":[{"name":"INPUT_TEXT","shape":[1,1],"datatype":"BYTES","data":["WORD"]}]}"#;
    let embed = |word: &str| {
        let body = text.replace("WORD", word);
        Client::connect(server.http).post("/v2/models/embed_text/infer", "", body.as_bytes())
    };
    let known = embed("known");
    assert_eq!(known.status, 200);
    gate.set(Some(0));
    let begun = gate.batches().len();
    let mut clients = vec![send(&server, &[1])];
    gate.wait_for_batches(begun + 1);
    clients.push(send(&server, &[2]));
    wait_for_queue(&server, 1);
    assert_eq!(embed("another").status, 503);
    let again = embed("known");
    assert_eq!((again.status, again.body), (200, known.body));
    gate.set(None);
    for (client, id) in clients.iter_mut().zip(1..) {
        assert_answers(client, &[id]);
    }
}

#[test]
fn higher_priority_first() {
    let gate = Gate::closed();
    let queue_policy = QueuePolicy { priority_levels: 2, ..QueuePolicy::default() };
    let server = TestServer::start(vec![gate.model(1)], ServerOptions { queue_policy, ..options() });
    let mut clients = vec![send(&server, &[1])];
    gate.wait_for_batches(1);
    for (waiting, (id, priority)) in [(2, 2), (3, 1), (4, 2), (5, 1)].into_iter().enumerate() {
        clients.push(send_with(&server, id, &format!(r#""priority":{priority}"#)));
        wait_for_queue(&server, waiting + 1);
    }
    gate.set(None);
    for (client, id) in clients.iter_mut().zip(1..) {
        assert_answers(client, &[id]);
    }
    assert_eq!(gate.batches(), [[1], [3], [5], [2], [4]]);
}

#[test]
fn the_same_row_twice_in_a_batch_is_computed_once() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model(32)], options());
    let mut first = send(&server, &[9]);
    gate.wait_for_batches(1);
    let mut clients: Vec<Client> =
        [&[1, 2][..], &[2, 3], &[2]].into_iter().map(|rows| send(&server, rows)).collect();
    wait_for_queue(&server, 5);
    gate.set(None);
    assert_answers(&mut first, &[9]);
    assert_answers(&mut clients[0], &[1, 2]);
    assert_answers(&mut clients[1], &[2, 3]);
    assert_answers(&mut clients[2], &[2]);
    let batches = gate.batches();
    assert_eq!((batches.len(), batches[1].len()), (2, 3));
    assert_eq!(metric(&server, "siglip_rows_repeated_total"), 2.0);
    let stats = Client::connect(server.http).get("/v2/models/siglip_text/stats").json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 6);
}

#[test]
fn a_failure_among_repeated_rows_is_of_those_that_sent_it() {
    let gate = Gate::closed();
    let server = TestServer::start(vec![gate.model(32)], options());
    let mut first = send(&server, &[9]);
    gate.wait_for_batches(1);
    let mut clients: Vec<Client> = [&[1, 1][..], &[1, NOT_FINITE, NOT_FINITE], &[NOT_FINITE], &[1, 2]]
        .into_iter()
        .map(|rows| send(&server, rows))
        .collect();
    wait_for_queue(&server, 8);
    gate.set(None);
    assert_answers(&mut first, &[9]);
    assert_answers(&mut clients[0], &[1, 1]);
    for (client, row) in [(1, "row 1"), (2, "row 0")] {
        let response = clients[client].receive().unwrap();
        assert_eq!(response.status, 500);
        assert!(response.text().contains(row), "{}", response.text());
    }
    assert_answers(&mut clients[3], &[1, 2]);
}

#[test]
fn the_result_cache_answers_what_it_has_seen() {
    let gate = Gate::open();
    let server = TestServer::start(vec![gate.model(32)], ServerOptions { cache_bytes: 1 << 20, ..options() });
    let mut client = Client::connect(server.http);
    let wanted = |rows: &[i64]| rows.iter().flat_map(|&id| expected(id)).collect::<Vec<f32>>();
    assert_eq!(embeddings(&client.embed_ids(&[1, 2])), wanted(&[1, 2]));
    assert_eq!(embeddings(&client.embed_ids(&[2, 1, 2])), wanted(&[2, 1, 2]));
    assert_eq!(embeddings(&client.embed_ids(&[3, 1, 4, 3])), wanted(&[3, 1, 4, 3]));
    assert_eq!(gate.batches(), [vec![1, 2], vec![3, 4]]);
    let stats = client.get("/v2/models/siglip_text/stats").json()["model_stats"][0].clone();
    let times = &stats["inference_stats"];
    assert_eq!((&times["cache_hit"]["count"], &times["cache_miss"]["count"]), (&1.into(), &2.into()));
    assert_eq!((&times["success"]["count"], &times["compute_infer"]["count"]), (&3.into(), &2.into()));
    assert_eq!(metric(&server, "nv_cache_num_hits_per_model{model=\"siglip_text\""), 1.0);
    // A failure is not kept.
    assert_eq!(client.embed_ids(&[NOT_FINITE]).status, 500);
    assert_eq!(client.embed_ids(&[NOT_FINITE]).status, 500);
}

/// Random sizes, cancellations and failures, many at once: every request gets one answer, and it is its own.
#[test]
fn rows_are_never_mixed_up() {
    let gate = Gate::open();
    let server = TestServer::start(vec![gate.model(8)], ServerOptions { max_queue_size: 40, ..options() });
    let http = server.http;
    let threads: Vec<_> = (0..16)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut random = Random(seed * 7919 + 1);
                let mut client = Client::connect(http);
                let mut answered = 0;
                for _ in 0..150 {
                    let mut rows: Vec<i64> =
                        (0..=random.below(8).min(7)).map(|_| 1000 + random.below(30_000) as i64).collect();
                    let fails = random.below(20) == 0;
                    if fails {
                        let index = random.below(rows.len() as u64) as usize;
                        rows[index] = [PANICS, NOT_FINITE, BREAKS][random.below(3) as usize];
                    }
                    if random.below(15) == 0 {
                        let mut given_up = Client::connect(http);
                        given_up.send_post(INFER, "", ids_body(&rows).as_bytes());
                        continue;
                    }
                    let response = client.embed_ids(&rows);
                    match response.status {
                        200 => {
                            assert!(!fails);
                            let wanted: Vec<f32> = rows.iter().flat_map(|&id| expected(id)).collect();
                            assert_eq!(embeddings(&response), wanted);
                            answered += 1;
                        }
                        500 => assert!(fails, "{}", response.text()),
                        503 => {}
                        other => panic!("{other}: {}", response.text()),
                    }
                }
                answered
            })
        })
        .collect();
    let answered: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(answered > 500, "{answered}");
    wait_for_queue(&server, 0);
    assert_eq!(metric(&server, "nv_inference_pending_request_count{model=\"siglip_text\""), 0.0);
    assert!(gate.batches().iter().any(|batch| batch.len() > 1));
}

/// A small generator of numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (value ^ (value >> 31)) % bound
    }
}
