//! A connection's socket, whose client has to take what is written to it.
//!
//! An answer that nobody reads would otherwise hold its connection, and the memory that it is in, for ever.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::pace::Pace;

/// A socket on which writing fails if the client takes too little for too long.
pub(super) struct Socket {
    stream: TcpStream,
    patience: Duration,
    /// Of the answer that is being written.
    pace: Pace,
    /// Runs while the system takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// A socket whose client may take nothing for as long as `patience`.
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        Socket { stream, patience, pace: Pace::new(patience), timer: None }
    }

    /// Looks after what became of an attempt to write.
    fn watch(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if let Poll::Ready(Ok(bytes)) = &written {
                self.pace.passed(*bytes);
            }
            self.timer = None;
            return written;
        }
        let pace = &mut self.pace;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(pace.deadline().0)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// HTTP/1 flushes when all that it has is written: the next answer is measured by itself.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pace = Pace::new(self.patience);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
