//! Nearest-neighbour classification by cosine, as the original deployment was validated with.
//!
//! The rules are those of scikit-learn's `KNeighborsClassifier(n_neighbors=k, weights="distance", metric="cosine")`:
//! each of the `k` nearest training embeddings votes for its class with weight 1/distance; if any of them is at distance
//! zero, only those vote, with weight one. Where classes tie, the lower number wins; where distances tie, the lower row.
//!
//! One thing differs. Single precision leaves to chance whether two equal embeddings come out at distance zero or at
//! 1e-7, and scikit-learn goes by what comes out. Here distances are computed in double precision, and what is closer
//! than any difference that single precision can hold is at distance zero.

use crate::similarity;

/// Training embeddings with their classes.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// Normalised, `[count, width]`.
    embeddings: Vec<f32>,
    /// The length of each embedding as rounding has left it: close to 1.
    lengths: Vec<f64>,
    width: usize,
    classes: Vec<usize>,
    neighbours: usize,
}

/// A training embedding near to a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its row among the training embeddings.
    pub row: usize,
    /// Its class.
    pub class: usize,
    /// 1 − cosine, from 0 to 2.
    pub distance: f32,
}

/// A class and its part of a query's votes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vote {
    /// The class.
    pub class: usize,
    /// Its votes over all votes: scikit-learn's `predict_proba`.
    pub probability: f64,
}

/// Why a classifier was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KnnError {
    /// The embeddings are not as many rows as there are classes.
    #[error("{embeddings} values are not one embedding of {width} values for each of {classes} classes")]
    Shape {
        /// Values given.
        embeddings: usize,
        /// Values of one embedding.
        width: usize,
        /// Classes given.
        classes: usize,
    },
    /// Fewer training embeddings than neighbours.
    #[error("{neighbours} nearest neighbours are wanted of {count} training embeddings")]
    TooFew {
        /// Neighbours wanted.
        neighbours: usize,
        /// Training embeddings given.
        count: usize,
    },
}

impl Classifier {
    /// A classifier over `embeddings`, `[classes.len(), width]`, not necessarily normalised; row `i` is of class
    /// `classes[i]`.
    ///
    /// # Errors
    ///
    /// [`KnnError`] if the numbers do not fit each other.
    pub fn new(
        mut embeddings: Vec<f32>,
        width: usize,
        classes: Vec<usize>,
        neighbours: usize,
    ) -> Result<Self, KnnError> {
        if width == 0 || embeddings.len() != width * classes.len() {
            return Err(KnnError::Shape { embeddings: embeddings.len(), width, classes: classes.len() });
        }
        if neighbours == 0 || neighbours > classes.len() {
            return Err(KnnError::TooFew { neighbours, count: classes.len() });
        }
        embeddings.chunks_mut(width).for_each(similarity::normalize);
        let lengths = embeddings.chunks(width).map(length).collect();
        Ok(Classifier { embeddings, lengths, width, classes, neighbours })
    }

    /// The votes on each of `queries`, `[n, width]`: the classes that got any, the most likely first.
    ///
    /// # Panics
    ///
    /// If `queries` are not whole embeddings of the width of the training embeddings.
    pub fn classify(&self, queries: &[f32], threads: usize) -> Vec<Vec<Vote>> {
        self.nearest(queries, threads).iter().map(|nearest| votes(nearest)).collect()
    }

    /// The nearest training embeddings of each of `queries`, `[n, width]`, the nearest first; computed on `threads`
    /// threads.
    ///
    /// # Panics
    ///
    /// As [`Classifier::classify`].
    pub fn nearest(&self, queries: &[f32], threads: usize) -> Vec<Vec<Neighbour>> {
        assert!(
            queries.len().is_multiple_of(self.width),
            "queries are whole embeddings of {} values",
            self.width
        );
        let count = queries.len() / self.width;
        let mut nearest = vec![Vec::new(); count];
        let share = count.div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            for (nearest, queries) in nearest.chunks_mut(share).zip(queries.chunks(share * self.width)) {
                scope.spawn(move || {
                    for (nearest, queries) in
                        nearest.chunks_mut(BLOCK).zip(queries.chunks(BLOCK * self.width))
                    {
                        self.nearest_of_block(queries, nearest);
                    }
                });
            }
        });
        nearest
    }

    /// The nearest of up to [`BLOCK`] queries. All cosines are computed in single precision first; those that could
    /// belong to the nearest, whatever their rounding, in double precision then.
    fn nearest_of_block(&self, queries: &[f32], nearest: &mut [Vec<Neighbour>]) {
        let mut queries = queries.to_vec();
        queries.chunks_mut(self.width).for_each(similarity::normalize);
        let count = self.classes.len();
        let mut cosines = vec![0.0; nearest.len() * count];
        let (queries, width, rows) = (&queries, self.width, &self.embeddings);
        pulp::Arch::new().dispatch(Cosines { queries, rows, width, out: &mut cosines });

        // A sum of n products of unit vectors in lanes is off by less than n / lanes + a few roundings.
        let error = (width.div_ceil(LANES) + LANES) as f32 * f32::EPSILON;
        let mut sorted = Vec::with_capacity(count);
        let queries = queries.chunks(width);
        for ((query, cosines), nearest) in queries.zip(cosines.chunks(count)).zip(nearest) {
            sorted.clear();
            sorted.extend_from_slice(cosines);
            let (_, last, _) = sorted.select_nth_unstable_by(self.neighbours - 1, |a, b| b.total_cmp(a));
            let lowest = *last - 2.0 * error;
            let query_length = length(query);
            let candidates = cosines.iter().enumerate().filter(|(_, cosine)| **cosine >= lowest);
            let mut candidates: Vec<(f64, usize)> =
                candidates.map(|(row, _)| (self.distance(query, query_length, row), row)).collect();
            candidates.sort_by(|(a, row_a), (b, row_b)| a.total_cmp(b).then(row_a.cmp(row_b)));
            candidates.truncate(self.neighbours);
            let neighbour =
                |(distance, row)| Neighbour { row, class: self.classes[row], distance: distance as f32 };
            *nearest = candidates.into_iter().map(neighbour).collect();
        }
    }

    /// 1 − cosine of a query and a training embedding. A vector of zeros is at distance 1 from all.
    fn distance(&self, query: &[f32], query_length: f64, row: usize) -> f64 {
        let lengths = query_length * self.lengths[row];
        if lengths == 0.0 {
            return 1.0;
        }
        let embedding = &self.embeddings[row * self.width..][..self.width];
        let distance = (1.0 - similarity::dot(query, embedding) / lengths).clamp(0.0, 2.0);
        if distance < SAME { 0.0 } else { distance }
    }
}

/// Two embeddings this close are the same but for the rounding of their values in single precision, which moves a unit
/// vector by up to 6e-8: half its square is 2e-15.
const SAME: f64 = 1e-13;

/// What the neighbours of one query vote.
fn votes(nearest: &[Neighbour]) -> Vec<Vote> {
    let exact = nearest.iter().any(|neighbour| neighbour.distance == 0.0);
    let mut votes: Vec<Vote> = Vec::with_capacity(nearest.len());
    for &Neighbour { class, distance, .. } in nearest {
        let weight = match (exact, distance == 0.0) {
            (true, true) => 1.0,
            (true, false) => continue,
            // In single precision first, as scikit-learn divides.
            (false, _) => f64::from(1.0 / distance),
        };
        match votes.iter_mut().find(|vote| vote.class == class) {
            Some(vote) => vote.probability += weight,
            None => votes.push(Vote { class, probability: weight }),
        }
    }
    let all: f64 = votes.iter().map(|vote| vote.probability).sum();
    votes.iter_mut().for_each(|vote| vote.probability /= all);
    votes.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.class.cmp(&b.class)));
    votes
}

/// Queries that share one pass over the training embeddings, which may be larger than any cache.
const BLOCK: usize = 64;
/// Queries multiplied with a row at a time: with their sums they fill the vector registers of AVX2.
const GROUP: usize = 4;
/// Running sums of one product; the compiler makes vectors of them.
const LANES: usize = 16;
/// Rows that stay in a core's cache while all queries of a block pass over them.
const PANEL: usize = 64;

/// Computes the scalar products of up to [`BLOCK`] queries with all rows into `out`, `[queries, rows]`.
struct Cosines<'a> {
    queries: &'a [f32],
    rows: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Cosines<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Cosines { queries, rows, width, out } = self;
        let count = rows.len() / width;
        for (number, panel) in rows.chunks(PANEL * width).enumerate() {
            for (queries, out) in queries.chunks(GROUP * width).zip(out.chunks_mut(GROUP * count)) {
                // A group that is not full repeats its first query, and leaves what that gives.
                let query = |i: usize| queries.get(i * width..(i + 1) * width).unwrap_or(&queries[..width]);
                let group: [&[f32]; GROUP] = std::array::from_fn(query);
                let [a, b, c, d] = group.map(|query| query.as_chunks::<LANES>());
                for (at, row) in panel.chunks_exact(width).enumerate() {
                    let (row, row_rest) = row.as_chunks::<LANES>();
                    let mut sums = [[0.0; LANES]; GROUP];
                    for ((((row, a), b), c), d) in row.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
                        add(&mut sums[0], row, a);
                        add(&mut sums[1], row, b);
                        add(&mut sums[2], row, c);
                        add(&mut sums[3], row, d);
                    }
                    for ((sums, query), out) in sums.iter().zip([a, b, c, d]).zip(out.chunks_mut(count)) {
                        let rest = row_rest.iter().zip(query.1).map(|(a, b)| a * b).sum::<f32>();
                        out[number * PANEL + at] = sums.iter().sum::<f32>() + rest;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn add(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for lane in 0..LANES {
        sums[lane] += a[lane] * b[lane];
    }
}

fn length(embedding: &[f32]) -> f64 {
    similarity::dot(embedding, embedding).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(points: &[([f32; 2], usize)], neighbours: usize) -> Classifier {
        let embeddings = points.iter().flat_map(|(point, _)| *point).collect();
        Classifier::new(embeddings, 2, points.iter().map(|(_, class)| *class).collect(), neighbours).unwrap()
    }

    fn classes(classifier: &Classifier, query: &[f32]) -> Vec<usize> {
        classifier.classify(query, 1)[0].iter().map(|vote| vote.class).collect()
    }

    #[test]
    fn near_votes_weigh_more_than_many_far_ones() {
        let points = [([1.0, 0.01], 7), ([1.0, 0.9], 3), ([0.9, 1.0], 3), ([0.0, 1.0], 3)];
        assert_eq!(classes(&classifier(&points, 4), &[2.0, 0.0]), [7, 3]);
    }

    #[test]
    fn at_distance_zero_only_exact_matches_vote() {
        let points = [([1.0, 0.0], 5), ([3.0, 0.0], 2), ([1.0, 1e-3], 9), ([1.0, 2e-3], 9)];
        assert_eq!(classes(&classifier(&points, 4), &[1.0, 0.0]), [2, 5]);
    }

    #[test]
    fn equal_votes_go_to_the_lower_class() {
        let points = [([1.0, 1.0], 4), ([1.0, -1.0], 1)];
        assert_eq!(classes(&classifier(&points, 2), &[1.0, 0.0]), [1, 4]);
    }

    #[test]
    fn many_queries_on_threads_are_each_as_alone() {
        let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8;
        let (width, rows, count) = (37, 53, 23);
        let training = (0..rows * width).map(value).collect();
        let queries: Vec<f32> = (0..count * width).map(|i| value(i + 99_991)).collect();
        let classifier =
            Classifier::new(training, width, (0..rows).map(|row| row % 7).collect(), 10).unwrap();
        let alone: Vec<_> = queries.chunks(width).flat_map(|query| classifier.nearest(query, 1)).collect();
        for threads in [1, 2, 5, 64] {
            assert_eq!(classifier.nearest(&queries, threads), alone);
        }
        for (query, nearest) in queries.chunks(width).zip(&alone) {
            let mut all: Vec<(f64, usize)> =
                (0..rows).map(|row| (classifier.distance(query, length(query), row), row)).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(nearest.iter().map(|near| near.row).eq(all[..10].iter().map(|(_, row)| *row)));
        }
        assert!(classifier.nearest(&[], 3).is_empty());
    }

    #[test]
    fn zeros_are_at_distance_one() {
        let points = [([0.0, 0.0], 0), ([1.0, 0.0], 1)];
        let nearest = classifier(&points, 2).nearest(&[0.0, 0.0, -1.0, 0.0], 1);
        let distances =
            |of: &[Neighbour]| of.iter().map(|near| (near.row, near.distance)).collect::<Vec<_>>();
        assert_eq!(distances(&nearest[0]), [(0, 1.0), (1, 1.0)]);
        assert_eq!(distances(&nearest[1]), [(0, 1.0), (1, 2.0)]);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let refused = |len, width, classes: Vec<usize>, k| {
            Classifier::new(vec![1.0; len], width, classes, k).unwrap_err()
        };
        assert_eq!(refused(3, 2, vec![0, 1], 1), KnnError::Shape { embeddings: 3, width: 2, classes: 2 });
        assert_eq!(refused(4, 2, vec![0, 1], 3), KnnError::TooFew { neighbours: 3, count: 2 });
    }
}
