//! Accepting connections, the same way on every door.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A port, and how many connections may be open.
pub(crate) struct Listener {
    pub(crate) port: TcpListener,
    /// Shared by the doors that count together.
    pub(crate) connections: Arc<Semaphore>,
}

impl Listener {
    /// The next connection, and the permit that it holds as long as it lasts. Beyond the limit, one connection waits
    /// here, and more in the system's backlog.
    pub(crate) async fn accept(&self) -> (TcpStream, Option<OwnedSemaphorePermit>) {
        let stream = loop {
            match self.port.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => wait_after(&error).await,
            }
        };
        // Replies are written whole; waiting for more to send would only delay them. A failure changes nothing else.
        let _ = stream.set_nodelay(true);
        // Only now, for a door at which nobody stands must not keep a permit from the others. Nobody closes the
        // semaphore; if somebody did, nothing would be counted any more.
        (stream, self.connections.clone().acquire_owned().await.ok())
    }
}

/// After an error about one connection the next is accepted at once; after one about the system (no file descriptors
/// are left), trying again at once would only burn a core.
async fn wait_after(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset => {}
        _ => {
            tracing::warn!(%error, "cannot accept connections");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
