//! Embeddings with their classes, and the ways to rank classes by them.

use siglip::knn::{Classifier, KnnError};
use siglip_cpu::available_threads;

use super::results::Ranking;

/// Neighbours that vote, where there are as many.
const NEIGHBOURS: usize = 10;
/// Classes that are kept of a ranking.
const KEPT: usize = 5;

/// Embeddings, each of a class.
#[derive(Clone, Debug, Default)]
pub(super) struct Labelled {
    /// `[classes.len(), width]`.
    pub(super) embeddings: Vec<f32>,
    pub(super) width: usize,
    pub(super) classes: Vec<usize>,
}

/// The votes of the nearest of `training` on each of `queries`.
pub(super) fn by_votes(training: &Labelled, queries: &Labelled) -> Result<Vec<Ranking>, KnnError> {
    let votes = classifier(training, NEIGHBOURS)?.classify(&queries.embeddings, available_threads());
    let ranking = |votes: Vec<siglip::knn::Vote>| {
        votes.into_iter().take(KEPT).map(|vote| (vote.class, vote.probability)).collect()
    };
    Ok(votes.into_iter().map(ranking).collect())
}

/// The classes of the nearest of `texts`, one of each class, to each of `queries`, by cosine.
pub(super) fn by_cosine(texts: &Labelled, queries: &Labelled) -> Result<Vec<Ranking>, KnnError> {
    let nearest = classifier(texts, KEPT)?.nearest(&queries.embeddings, available_threads());
    let ranking = |nearest: Vec<siglip::knn::Neighbour>| {
        nearest.into_iter().map(|near| (near.class, 1.0 - f64::from(near.distance))).collect()
    };
    Ok(nearest.into_iter().map(ranking).collect())
}

fn classifier(training: &Labelled, neighbours: usize) -> Result<Classifier, KnnError> {
    let Labelled { embeddings, width, classes } = training.clone();
    let neighbours = neighbours.min(classes.len());
    Classifier::new(embeddings, width, classes, neighbours)
}
