//! The runtime that the doors run on.
//!
//! What it is set to keeps requests in the order in which they came. With the usual settings a worker reads all sockets that
//! have something, then writes all answers: a request that arrives a moment after its turn waits for a round of all the
//! others. With 60 clients that send the next request as soon as they have an answer, the 99th percentile was twice the
//! median by that; with 512, where a round outgrows a worker's queue, seven times (`docs/performance.md`).

use tokio::runtime::{Builder, Runtime};

/// Sockets that are asked about at once. The system hands out those first that have waited longest.
const EVENTS: usize = 4;

/// Every so many tasks the sockets are looked at again, though there is something to do.
const EVENT_INTERVAL: u32 = 16;

/// Every so many tasks one of those is taken that an engine's thread has woken: a request that was just read and one
/// that has its answer take turns.
const ANSWER_INTERVAL: u32 = 2;

/// A runtime with a worker for each core that this process may use.
///
/// # Errors
///
/// What the system says when it refuses a thread.
pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS)
        .event_interval(EVENT_INTERVAL)
        .global_queue_interval(ANSWER_INTERVAL)
        .build()
}
