//! Binding, wiring, ending.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};

use crate::error::ServeError;
use crate::http::Acceptor;
use crate::listener::Listener;
use crate::options::ServerOptions;
use crate::registry::Registry;
use crate::served::ServedModel;
use crate::state::ServerState;
use crate::trace::Tracer;
use crate::{grpc, http, metrics};

/// Connections to the metrics' port.
const METRICS_CONNECTIONS: usize = 64;

/// Connections that wait to be accepted, as far as the system allows. With 128, what `TcpListener::bind` asks for, the
/// 129th of many clients that come at once is left to try again after a second.
const BACKLOG: u32 = 4096;

/// What traces have at least to be written, once all else has ended.
const LAST_TRACES: Duration = Duration::from_secs(1);

/// A server whose ports are bound and which does not answer yet: connections wait until [`BoundServer::serve`].
#[derive(Debug)]
pub struct BoundServer {
    http: TcpListener,
    grpc: TcpListener,
    metrics: TcpListener,
    addrs: [SocketAddr; 3],
    tracer: Option<Tracer>,
    options: ServerOptions,
}

impl BoundServer {
    /// Binds all ports.
    ///
    /// # Errors
    ///
    /// [`ServeError::PortInUse`] and [`ServeError::Bind`], naming the port and the option that sets it;
    /// [`ServeError::TraceFile`].
    pub async fn bind(options: &ServerOptions) -> Result<Self, ServeError> {
        let (http, http_addr) = listen(options, options.http_port, "--http-port")?;
        let (grpc, grpc_addr) = listen(options, options.grpc_port, "--grpc-port")?;
        let (metrics, metrics_addr) = listen(options, options.metrics_port, "--metrics-port")?;
        let addrs = [http_addr, grpc_addr, metrics_addr];
        // Last, so that a second instance does not take the first one's file.
        let tracer = options.trace.as_ref().map(Tracer::start).transpose()?;
        Ok(BoundServer { http, grpc, metrics, addrs, tracer, options: options.clone() })
    }

    /// Where HTTP is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Where gRPC is served.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.addrs[1]
    }

    /// Where the metrics are.
    pub fn metrics_addr(&self) -> SocketAddr {
        self.addrs[2]
    }

    /// Serves `models` until `shutdown` completes, and then, for as long as the options allow, finishes what was taken
    /// in.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if the models cannot be served as they are.
    pub async fn serve(
        self,
        models: Vec<ServedModel>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let registry = Registry::build(models, &self.options)?;
        let state = Arc::new(ServerState::new(registry, self.options.clone(), self.tracer));
        // Energy counts from here.
        metrics::card_readings(&state);
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(self.options.max_connections));
        let counted = |port| Listener { port, connections: connections.clone() };
        let acceptor = |listener| Acceptor {
            listener,
            header_timeout: self.options.header_timeout,
            answer_timeout: self.options.body_timeout,
            stop: stopped.clone(),
        };
        let http_state = state.clone();
        tokio::spawn(acceptor(counted(self.http)).run(move |request| {
            let state = http_state.clone();
            async move { http::answer(&state, request).await }
        }));
        tokio::spawn(grpc::serve(counted(self.grpc), state.clone(), stopped.clone()));
        // Metrics must be readable when the other doors have no room left.
        let metrics =
            Listener { port: self.metrics, connections: Arc::new(Semaphore::new(METRICS_CONNECTIONS)) };
        let metrics_state = state.clone();
        tokio::spawn(acceptor(metrics).run(move |request| {
            let state = metrics_state.clone();
            async move { http::answer_metrics(&state, &request) }
        }));
        drop(stopped);

        shutdown.await;
        tracing::info!("stopping: finishing what was taken in");
        let _ = stop.send(true);
        // Every acceptor and every connection holds a receiver; it is closed when the last one is gone.
        let (told, grace) = (Instant::now(), self.options.shutdown_grace);
        if tokio::time::timeout(grace, stop.closed()).await.is_err() {
            tracing::warn!("the time to finish is over; connections that are still open are cut off");
        }
        if let Some(tracer) = &state.tracer {
            let left = grace.saturating_sub(told.elapsed());
            tracer.finish(left.max(LAST_TRACES)).await;
        }
        Ok(())
    }
}

fn listen(
    options: &ServerOptions,
    port: u16,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), ServeError> {
    let addr = SocketAddr::new(options.host, port);
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // As `TcpListener::bind` has it: a server that is started again need not wait for the old one's connections.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    };
    bind().map_err(|source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServeError::PortInUse { addr, flag },
        _ => ServeError::Bind { addr, flag, source },
    })
}
