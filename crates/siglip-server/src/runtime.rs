//! The runtime that the doors run on.

use tokio::runtime::{Builder, Runtime};

/// A runtime with a worker for each core that this process may use.
///
/// # Errors
///
/// What the system says when it refuses a thread.
pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}
