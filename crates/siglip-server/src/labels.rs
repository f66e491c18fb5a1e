//! Embeddings of labels, kept so that the same ones are not computed for every image.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use crate::cache::EmbeddingCache;

/// What the cache of one model may take, in bytes: some 14,000 labels of so400m.
const CAPACITY: u64 = 64 << 20;

/// The embeddings of a model's labels, by the whole text that was embedded.
pub(crate) struct LabelCache {
    pub(crate) embeddings: EmbeddingCache<Arc<str>>,
    computing: Mutex<()>,
}

impl Default for LabelCache {
    fn default() -> Self {
        LabelCache {
            embeddings: EmbeddingCache::new(CAPACITY, |text| text.len()),
            computing: Mutex::default(),
        }
    }
}

impl LabelCache {
    /// The right to compute what is missing. Sixty clients that start with the same thousand labels would otherwise
    /// compute them sixty times; as it is, the first does, and the others find them.
    pub(crate) async fn compute(&self) -> MutexGuard<'_, ()> {
        self.computing.lock().await
    }
}
