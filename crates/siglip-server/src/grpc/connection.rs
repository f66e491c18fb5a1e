//! Connections that are counted, and that end if nothing comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::listener::Listener;

/// What a client sends first, `PRI * HTTP/2.0` and so on, has so many bytes (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// The connections of a port. One on which the preface is not complete after `patience` is closed; from then on, HTTP/2's
/// own pings tell who is there.
pub(super) fn incoming(
    listener: Listener,
    patience: Duration,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    stream::unfold(listener, move |listener| async move {
        let (stream, permit) = listener.accept().await;
        let deadline = Box::pin(tokio::time::sleep(patience));
        let preface = Some(Preface { missing: PREFACE, deadline });
        Some((Ok(Connection { stream, preface, _permit: permit }), listener))
    })
}

pub(super) struct Connection {
    stream: TcpStream,
    /// `None` once it is complete.
    preface: Option<Preface>,
    _permit: Option<OwnedSemaphorePermit>,
}

struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(preface) = &mut self.preface else { return read };
        preface.missing = preface.missing.saturating_sub(buffer.filled().len() - before);
        if preface.missing == 0 {
            self.preface = None;
        } else if read.is_pending() {
            ready!(preface.deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
