//! Connections: accepting them, serving them, ending them.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::reply::Reply;
use super::socket::Socket;
use crate::listener::Listener;

/// Room for a request's head, and what is read of a body at a time.
const BUFFER: usize = 128 << 10;

/// Accepts connections on one port and serves each on a task of its own.
pub(crate) struct Acceptor {
    pub(crate) listener: Listener,
    pub(crate) header_timeout: Duration,
    /// How long a client may take nothing of its answer.
    pub(crate) answer_timeout: Duration,
    /// Changes when the server is to stop. Every connection holds a receiver, so the sender knows when all are gone.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Acceptor {
    /// Serves until the server is to stop.
    pub(crate) async fn run<F, R>(mut self, answer: F)
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        loop {
            let (stream, permit) = tokio::select! {
                biased;
                () = told(&mut self.stop) => return,
                accepted = self.listener.accept() => accepted,
            };
            let answer = answer.clone();
            let stop = self.stop.clone();
            let socket = Socket::new(stream, self.answer_timeout);
            let header_timeout = self.header_timeout;
            tokio::spawn(async move {
                serve(socket, answer, header_timeout, stop).await;
                drop(permit);
            });
        }
    }
}

async fn serve<F, R>(socket: Socket, answer: F, header_timeout: Duration, mut stop: watch::Receiver<bool>)
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    let service = service_fn(|request| {
        let reply = answer(request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(BUFFER)
        .auto_date_header(false)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told(&mut stop) => {
            // Idle connections are closed now, the others after the reply that they are working on.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Waits until the server is to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the server with it.
    let _ = stop.wait_for(|stop| *stop).await;
}
