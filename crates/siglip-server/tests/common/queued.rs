//! Requests that are sent without waiting for their answers, and what the metrics say of their queue.

use std::time::{Duration, Instant};

use super::TestServer;
use super::client::{Client, embeddings, ids_body};
use super::gated::expected;

pub(crate) const INFER: &str = "/v2/models/siglip_text/infer";

/// Sends a request without waiting for its answer.
pub(crate) fn send(server: &TestServer, rows: &[i64]) -> Client {
    let mut client = Client::connect(server.http);
    client.send_post(INFER, "", ids_body(rows).as_bytes());
    client
}

/// Waits until so many rows are in the queue.
pub(crate) fn wait_for_queue(server: &TestServer, rows: usize) {
    let start = Instant::now();
    while metric(server, "siglip_queue_rows{model=\"gated/model\",tower=\"text\"}") != rows as f64 {
        assert!(start.elapsed() < Duration::from_secs(60), "the queue did not reach {rows} rows");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn metric(server: &TestServer, series: &str) -> f64 {
    let text = Client::connect(server.metrics).get("/metrics").text();
    let line = text.lines().find(|line| line.starts_with(series)).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

pub(crate) fn assert_answers(client: &mut Client, rows: &[i64]) {
    let wanted: Vec<f32> = rows.iter().flat_map(|&id| expected(id)).collect();
    assert_eq!(embeddings(&client.receive().unwrap()), wanted);
}
