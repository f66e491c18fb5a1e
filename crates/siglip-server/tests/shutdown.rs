//! Starting and ending.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::client::{Client, embeddings, ids_body};
use common::gated::{Gate, expected};
use common::{TestServer, options};
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
