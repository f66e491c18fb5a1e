//! Embeddings of labels, kept so that the same ones are not computed for every image.

use std::sync::Arc;

use moka::sync::Cache;
use tokio::sync::{Mutex, MutexGuard};

/// What the cache of one model may take, in bytes: some 14,000 labels of so400m.
const CAPACITY: u64 = 64 << 20;

/// What an entry takes beside its text and its embedding, roughly.
const OVERHEAD: usize = 128;

/// The embeddings of a model's labels, of length 1, by the whole text that was embedded.
pub(crate) struct LabelCache {
    embeddings: Cache<Arc<str>, Arc<[f32]>>,
    computing: Mutex<()>,
}

impl Default for LabelCache {
    fn default() -> Self {
        let weigh = |text: &Arc<str>, embedding: &Arc<[f32]>| {
            u32::try_from(text.len() + embedding.len() * 4 + OVERHEAD).unwrap_or(u32::MAX)
        };
        LabelCache {
            embeddings: Cache::builder().max_capacity(CAPACITY).weigher(weigh).build(),
            computing: Mutex::default(),
        }
    }
}

impl LabelCache {
    pub(crate) fn get(&self, text: &str) -> Option<Arc<[f32]>> {
        self.embeddings.get(text)
    }

    pub(crate) fn insert(&self, text: Arc<str>, embedding: Arc<[f32]>) {
        self.embeddings.insert(text, embedding);
    }

    /// The right to compute what is missing. Sixty clients that start with the same thousand labels would otherwise
    /// compute them sixty times; as it is, the first does, and the others find them.
    pub(crate) async fn compute(&self) -> MutexGuard<'_, ()> {
        self.computing.lock().await
    }
}
