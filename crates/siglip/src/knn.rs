//! Nearest-neighbour classification by cosine, as the original deployment was validated with.
//!
//! The rules are those of scikit-learn's `KNeighborsClassifier(n_neighbors=k, weights="distance", metric="cosine")`:
//! each of the `k` nearest training embeddings votes for its class with weight 1/distance; if any of them is at distance
//! zero, only those vote, with weight one. Where classes tie, the lower number wins.

use crate::similarity;

/// Training embeddings with their classes.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// Normalised, `[count, width]`.
    embeddings: Vec<f32>,
    width: usize,
    classes: Vec<usize>,
    neighbours: usize,
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
        Ok(Classifier { embeddings, width, classes, neighbours })
    }

    /// The classes of an embedding, the most likely first: those that got votes, by their votes.
    pub fn classify(&self, embedding: &[f32]) -> Vec<usize> {
        let mut votes: Vec<(usize, f64)> = Vec::with_capacity(self.neighbours);
        let nearest = self.nearest(embedding);
        let exact = nearest.iter().any(|&(distance, _)| distance == 0.0);
        for (distance, row) in nearest {
            let weight = match (exact, distance == 0.0) {
                (true, true) => 1.0,
                (true, false) => 0.0,
                // In f32 first, as scikit-learn divides.
                (false, _) => f64::from(1.0 / distance),
            };
            let class = self.classes[row];
            match votes.iter_mut().find(|(of, _)| *of == class) {
                Some((_, sum)) => *sum += weight,
                None => votes.push((class, weight)),
            }
        }
        votes.sort_by(|(class_a, a), (class_b, b)| b.total_cmp(a).then(class_a.cmp(class_b)));
        votes.into_iter().map(|(class, _)| class).collect()
    }

    /// The nearest training embeddings as (cosine distance, row), the nearest first and equal ones by row.
    fn nearest(&self, embedding: &[f32]) -> Vec<(f32, usize)> {
        let mut query = embedding.to_vec();
        similarity::normalize(&mut query);
        let mut nearest: Vec<(f32, usize)> = Vec::with_capacity(self.neighbours + 1);
        for (row, candidate) in self.embeddings.chunks(self.width).enumerate() {
            let distance = (1.0 - dot(&query, candidate)).clamp(0.0, 2.0);
            if nearest.len() == self.neighbours && nearest.last().is_some_and(|&(worst, _)| distance >= worst)
            {
                continue;
            }
            let at = nearest.partition_point(|&(other, _)| other <= distance);
            nearest.insert(at, (distance, row));
            nearest.truncate(self.neighbours);
        }
        nearest
    }
}

/// The dot product in sixteen running sums, which compiles to vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(points: &[([f32; 2], usize)], neighbours: usize) -> Classifier {
        let embeddings = points.iter().flat_map(|(point, _)| *point).collect();
        Classifier::new(embeddings, 2, points.iter().map(|(_, class)| *class).collect(), neighbours).unwrap()
    }

    #[test]
    fn near_votes_weigh_more_than_many_far_ones() {
        let points = [([1.0, 0.01], 7), ([1.0, 0.9], 3), ([0.9, 1.0], 3), ([0.0, 1.0], 3)];
        assert_eq!(classifier(&points, 4).classify(&[2.0, 0.0]), [7, 3]);
    }

    #[test]
    fn at_distance_zero_only_exact_matches_vote() {
        let points = [([1.0, 0.0], 5), ([3.0, 0.0], 2), ([1.0, 1e-3], 9), ([1.0, 2e-3], 9)];
        assert_eq!(classifier(&points, 4).classify(&[1.0, 0.0]), [2, 5, 9]);
    }

    #[test]
    fn equal_votes_go_to_the_lower_class() {
        let points = [([1.0, 1.0], 4), ([1.0, -1.0], 1)];
        assert_eq!(classifier(&points, 2).classify(&[1.0, 0.0]), [1, 4]);
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
