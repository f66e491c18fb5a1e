//! Token ids through the result cache, where there is one.

use std::sync::Arc;
use std::time::Instant;

use siglip_protocol::InferRequest;

use super::{Endpoint, Outcome, Values, admission, kinds, refused};
use crate::batcher::{Answer, Rows};
use crate::cache::EmbeddingCache;
use crate::catalogue::TextTower;
use crate::error::InferError;

impl Endpoint {
    /// The embeddings of token ids, those rows computed that are not known.
    pub(super) async fn embed_ids(
        &self,
        tower: &TextTower,
        (count, ids): (usize, Vec<u32>),
        request: &InferRequest,
        received: Instant,
    ) -> Result<Outcome, InferError> {
        let Some(cache) = &tower.cache else {
            return self.embed(&tower.batcher, Rows::token_ids(count, ids), request, received).await;
        };
        let start = Instant::now();
        let info = tower.batcher.info();
        let found: Vec<Option<Arc<[f32]>>> =
            ids.chunks_exact(info.input_len).map(|row| cache.get(row)).collect();
        let lookup = start.elapsed();
        let mut outcome = Outcome {
            output: kinds::EMBEDDING,
            shape: vec![count, info.embedding_size],
            values: Values::Fp32(Vec::new()),
            batch_rows: 0,
            timing: None,
        };
        let rows = ids.chunks_exact(info.input_len).zip(&found);
        let missing: Vec<&[u32]> = rows.filter(|(_, found)| found.is_none()).map(|(row, _)| row).collect();
        let mut computed = Vec::new();
        if missing.is_empty() {
            self.counters.record_cache_hit(received.elapsed(), lookup);
        } else {
            self.counters.record_cache_miss(lookup);
            let rows = Rows::token_ids(missing.len(), missing.concat());
            let answer = tower.batcher.embed(rows, admission(&self.counters, request, received)).await;
            let Answer { embeddings, batch_rows, timing } =
                answer.map_err(|error| refused(request, error))?;
            keep(cache, &missing, &embeddings, info.embedding_size);
            (outcome.batch_rows, outcome.timing) = (batch_rows, Some(timing));
            computed = embeddings;
        }
        outcome.values = Values::Fp32(merge(&found, &computed, info.embedding_size));
        Ok(outcome)
    }
}

fn keep(cache: &EmbeddingCache<Box<[u32]>>, rows: &[&[u32]], embeddings: &[f32], columns: usize) {
    for (&row, embedding) in rows.iter().zip(embeddings.chunks_exact(columns)) {
        cache.insert(row.into(), embedding.into());
    }
}

/// All rows in order: those that were found, and between them those that were computed.
fn merge(found: &[Option<Arc<[f32]>>], computed: &[f32], columns: usize) -> Vec<f32> {
    let mut computed = computed.chunks_exact(columns);
    let mut merged = Vec::with_capacity(found.len() * columns);
    for row in found {
        merged.extend_from_slice(row.as_deref().unwrap_or_else(|| computed.next().unwrap_or_default()));
    }
    merged
}
