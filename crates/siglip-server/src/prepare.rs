//! The threads that tokenise.
//!
//! A long or a large batch of texts takes a millisecond and more: too long for the threads that serve the sockets, and
//! the engine's threads have better things to do. A single caption takes some 20 microseconds, though, and handing it
//! to another thread and back costs as much again in wake-ups; so small requests are prepared where they are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

type Task = Box<dyn FnOnce() + Send>;

/// Tasks that wait, beyond which requests are refused. Each belongs to an open connection, so there are not many.
const QUEUE: usize = 4096;

/// A bounded pool of threads.
#[derive(Debug)]
pub(crate) struct PreparationPool {
    tasks: SyncSender<Task>,
}

/// Why a task was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PreparationError {
    /// Too many wait.
    Full,
    /// It panicked.
    Panicked,
}

impl PreparationPool {
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let (tasks, queue) = sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("prepare-{index}")).spawn(move || work(&queue))?;
        }
        Ok(PreparationPool { tasks })
    }

    /// Runs `task` on one of the threads.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PreparationError> {
        let (reply, result) = oneshot::channel();
        let task = Box::new(move || {
            if !reply.is_closed() {
                // Nobody waits any more if this fails.
                let _ = reply.send(task());
            }
        });
        self.tasks.try_send(task).map_err(|_| PreparationError::Full)?;
        result.await.map_err(|_| PreparationError::Panicked)
    }
}

fn work(queue: &Mutex<Receiver<Task>>) {
    loop {
        let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        if catch_unwind(AssertUnwindSafe(task)).is_err() {
            tracing::error!("preparing a request panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_lives_on() {
        let pool = PreparationPool::start(1).unwrap();
        assert_eq!(pool.run(|| -> u32 { panic!("on purpose") }).await, Err(PreparationError::Panicked));
        assert_eq!(pool.run(|| 42).await, Ok(42));
    }
}
