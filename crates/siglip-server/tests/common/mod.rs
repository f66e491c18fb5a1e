//! A real server in this process, with engines that are quick and whose answers are known.
#![allow(dead_code, reason = "every test file uses another part of this")]
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

pub(crate) mod client;
pub(crate) mod engines;
pub(crate) mod gated;
pub(crate) mod queued;

use std::net::SocketAddr;
use std::time::Duration;

use siglip_server::{BoundServer, ServeError, ServedModel, ServerOptions};
use tokio::sync::oneshot;

/// A server on ports of its own; it is told to stop when this is dropped.
pub(crate) struct TestServer {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), ServeError>>>,
}

/// Options for any free ports, quick to give up. Engines are asked nothing that no test has sent.
pub(crate) fn options() -> ServerOptions {
    ServerOptions {
        http_port: 0,
        grpc_port: 0,
        metrics_port: 0,
        shutdown_grace: Duration::from_secs(5),
        canary_interval: Duration::ZERO,
        ..ServerOptions::default()
    }
}

impl TestServer {
    pub(crate) fn start(models: Vec<ServedModel>, options: ServerOptions) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (addrs, bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = BoundServer::bind(&options).await.unwrap();
                addrs.send((server.http_addr(), server.grpc_addr(), server.metrics_addr())).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                server.serve(models, stopped).await
            })
        });
        let (http, grpc, metrics) = bound.recv().unwrap();
        TestServer { http, grpc, metrics, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells the server to stop, without waiting for it.
    pub(crate) fn stop(&mut self) {
        self.stop.take();
    }

    /// Tells the server to stop and waits until it has.
    pub(crate) fn join(mut self) -> Result<(), ServeError> {
        self.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
