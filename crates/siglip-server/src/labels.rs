//! Embeddings of labels, kept so that the same ones are not computed for every image.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

use crate::batcher::BatchError;
use crate::cache::EmbeddingCache;

/// What the cache of one model may take, in bytes: some 14,000 labels of so400m.
const CAPACITY: u64 = 64 << 20;

/// The embeddings of a model's labels, by the whole text that was embedded.
pub(crate) struct LabelCache {
    pub(crate) embeddings: EmbeddingCache<Arc<str>>,
    places: Semaphore,
    computing: Mutex<()>,
}

impl LabelCache {
    /// An empty cache. Up to `places` requests may miss labels at once.
    pub(crate) fn new(places: usize) -> Self {
        LabelCache {
            embeddings: EmbeddingCache::new(CAPACITY, |text| text.len()),
            places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)),
            computing: Mutex::default(),
        }
    }

    /// Takes a request in that misses labels.
    ///
    /// # Errors
    ///
    /// [`BatchError::QueueFull`] if as many are here as may be.
    pub(crate) fn admit(&self) -> Result<SemaphorePermit<'_>, BatchError> {
        self.places.try_acquire().map_err(|_| BatchError::QueueFull)
    }

    /// The right to compute some of what is missing, for a request that was taken in. Sixty clients that start with the
    /// same thousand labels would otherwise compute them sixty times; as it is, one does, and the others find them. Whoever
    /// has many gives the right back after every batch, and waits for it again behind the others.
    ///
    /// # Errors
    ///
    /// [`BatchError::TimedOut`] if it is not there after `limit`.
    pub(crate) async fn turn(&self, limit: Option<Duration>) -> Result<MutexGuard<'_, ()>, BatchError> {
        let turn = self.computing.lock();
        match limit {
            None => Ok(turn.await),
            Some(limit) => tokio::time::timeout(limit, turn).await.map_err(|_| BatchError::TimedOut),
        }
    }
}
