//! A connection's socket: what is written to it is gathered, and goes out when it is told to.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Sleep;

/// What a client sends first, `PRI * HTTP/2.0` and so on, has so many bytes (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// What is gathered at most; beyond it, writing waits for the system.
const GATHERED: usize = 256 << 10;

/// A socket for HTTP/2. If the client's preface is not complete after some time, reading fails; from then on, HTTP/2's
/// own pings tell who is there.
pub(super) struct Socket {
    read: OwnedReadHalf,
    output: Output,
    /// `None` once it is complete.
    preface: Option<Preface>,
}

struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// The way out of a socket.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Gathered>>);

struct Gathered {
    write: OwnedWriteHalf,
    bytes: BytesMut,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, patience: Duration) -> (Socket, Output) {
        let (read, write) = stream.into_split();
        let output = Output(Arc::new(Mutex::new(Gathered { write, bytes: BytesMut::new() })));
        let deadline = Box::pin(tokio::time::sleep(patience));
        let preface = Some(Preface { missing: PREFACE, deadline });
        (Socket { read, output: output.clone(), preface }, output)
    }
}

impl Output {
    /// Hands what was gathered to the system.
    pub(super) fn poll_write_out(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_write_out(context)
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.write).poll_write(context, &self.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for more.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= GATHERED {
            ready!(self.poll_write_out(context))?;
        }
        Poll::Ready(Ok(GATHERED - self.bytes.len()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.read).poll_read(context, buffer);
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

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.output.lock();
        let room = ready!(gathered.poll_room(context))?;
        let mut taken = 0;
        for slice in slices {
            let part = slice.get(..slice.len().min(room - taken)).unwrap_or_default();
            gathered.bytes.extend_from_slice(part);
            taken += part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Leaves it to whoever drives the connection: HTTP/2 flushes after every frame.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.output.lock();
        ready!(gathered.poll_write_out(context))?;
        Pin::new(&mut gathered.write).poll_shutdown(context)
    }
}
