//! Embeddings that are kept because they may be asked for again.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use moka::sync::Cache;

/// What an entry takes beside its key and its embedding, roughly.
const OVERHEAD: usize = 128;

/// Embeddings by what they were computed from, up to a size; those that are asked for least make room.
pub(crate) struct EmbeddingCache<K>(Cache<K, Arc<[f32]>>);

impl<K: Hash + Eq + Send + Sync + 'static> EmbeddingCache<K> {
    /// A cache that holds up to `capacity` bytes; `key_bytes` is the size of a key.
    pub(crate) fn new(capacity: u64, key_bytes: fn(&K) -> usize) -> Self {
        let weigh = move |key: &K, embedding: &Arc<[f32]>| {
            u32::try_from(key_bytes(key) + embedding.len() * 4 + OVERHEAD).unwrap_or(u32::MAX)
        };
        EmbeddingCache(Cache::builder().max_capacity(capacity).weigher(weigh).build())
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Arc<[f32]>>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    pub(crate) fn insert(&self, key: K, embedding: Arc<[f32]>) {
        self.0.insert(key, embedding);
    }
}
