//! The runtime that the doors run on.

use tokio::runtime::{Builder, Runtime};

/// Tasks that are run before sockets are looked at again.
///
/// A batch answers dozens of requests at once, and their tasks wake together. With tokio's 61, requests that have
/// arrived meanwhile wait for all of them: at concurrency 60 the slowest per cent took 1.9 to 2.3 times the median; with 8,
/// 1.5 to 1.9 times, at a few per cent more time for looking.
const EVENT_INTERVAL: u32 = 8;

/// A runtime with a worker for each core that this process may use.
///
/// # Errors
///
/// What the system says when it refuses a thread.
pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().event_interval(EVENT_INTERVAL).build()
}
