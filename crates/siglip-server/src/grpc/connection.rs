//! Connections, each driven by one task with all its requests.
//!
//! HTTP/2 carries many requests on one connection, and a batch answers many of them at once. With a task a request, as
//! is usual, every answer wakes the connection's task and goes out by a system call of its own, which is most of what a
//! small answer costs. Here every request that has an answer writes it first, and then all goes out in one piece.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::stream::{FuturesUnordered, Stream};
use tokio::sync::watch;

use super::socket::Output;

/// A request in work.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// HTTP/2 on one connection: reads requests, and writes what the answers put into its buffers.
type Protocol = Pin<Box<dyn ShutDown<Output = Result<(), hyper::Error>> + Send>>;

/// A connection that can be told to end.
pub(super) trait ShutDown: Future {
    /// Takes no more requests, and ends when those that are in work are answered.
    fn shut_down(self: Pin<&mut Self>);
}

/// Where HTTP/2 puts the requests that it has read.
#[derive(Clone, Default)]
pub(super) struct Requests(Arc<Mutex<Vec<Work>>>);

impl Requests {
    fn take(&self) -> Vec<Work> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Requests {
    fn execute(&self, work: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(work));
    }
}

/// A connection and its requests.
pub(super) struct Connection {
    protocol: Protocol,
    requests: Requests,
    in_work: FuturesUnordered<Work>,
    output: Output,
    ended: Option<io::Result<()>>,
}

impl Connection {
    /// A connection on which `protocol` puts requests into `requests` and writes to `output`.
    pub(super) fn new(protocol: Protocol, requests: Requests, output: Output) -> Self {
        Connection { protocol, requests, in_work: FuturesUnordered::new(), output, ended: None }
    }

    /// Serves until the client closes the connection or, after the server was told to stop, the last request is
    /// answered.
    pub(super) async fn serve(mut self, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        tokio::select! {
            ended = &mut self => return ended,
            // An error means that the sender is gone, and the server with it.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.protocol.as_mut().shut_down();
        self.await
    }
}

impl Future for Connection {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ended.is_none() {
            // The answers first, so that the protocol finds all of them.
            while let Poll::Ready(Some(())) = Pin::new(&mut this.in_work).poll_next(context) {}
            if let Poll::Ready(ended) = this.protocol.as_mut().poll(context) {
                this.ended = Some(ended.map_err(io::Error::other));
            }
            let arrived = this.requests.take();
            if arrived.is_empty() {
                break;
            }
            this.in_work.extend(arrived);
        }
        let written = this.output.poll_write_out(context);
        match this.ended.take() {
            None => match written {
                // Nobody is there to be told anything more.
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
            Some(ended) if written.is_pending() => {
                this.ended = Some(ended);
                Poll::Pending
            }
            Some(ended) => Poll::Ready(ready!(written).and(ended)),
        }
    }
}
