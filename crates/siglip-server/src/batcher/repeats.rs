//! Identical rows of a batch, which are computed once.
//!
//! An engine's answer to a row depends on that row alone, to the bit, so nobody can tell.

use std::collections::HashMap;

/// Where each row of a batch is computed.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<usize>);

impl Places {
    /// Leaves one of each row of `row_len` ids in `ids`, in the order of their first occurrence, and remembers which
    /// row went where.
    pub(super) fn compact(&mut self, ids: &mut Vec<u32>, row_len: usize) {
        self.0.clear();
        let mut known = HashMap::new();
        for row in ids.chunks_exact(row_len.max(1)) {
            let next = known.len();
            self.0.push(*known.entry(row).or_insert(next));
        }
        let unique = known.len();
        let mut next = 0;
        for (row, &place) in self.0.iter().enumerate() {
            if place == next {
                // The first of its kind; it moves towards the front, or stays.
                ids.copy_within(row * row_len..(row + 1) * row_len, place * row_len);
                next += 1;
            }
        }
        ids.truncate(unique * row_len);
    }

    /// Every row at a place of its own.
    pub(super) fn all_distinct(&mut self, rows: usize) {
        self.0.clear();
        self.0.extend(0..rows);
    }

    /// The rows that are computed.
    pub(super) fn computed(&self) -> usize {
        self.0.iter().max().map_or(0, |last| last + 1)
    }

    /// The place of a row.
    pub(super) fn of(&self, row: usize) -> usize {
        self.0.get(row).copied().unwrap_or(row)
    }

    /// The first row at a place.
    pub(super) fn first_row(&self, place: usize) -> usize {
        self.0.iter().position(|&other| other == place).unwrap_or(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each() {
        let mut places = Places::default();
        let mut ids = vec![1, 2, 3, 4, 1, 2, 5, 6, 3, 4, 1, 2];
        places.compact(&mut ids, 2);
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!((0..6).map(|row| places.of(row)).collect::<Vec<_>>(), [0, 1, 0, 2, 1, 0]);
        assert_eq!((places.computed(), places.first_row(2)), (3, 3));

        let mut ids = vec![7; 6];
        places.compact(&mut ids, 2);
        assert_eq!((ids, places.computed()), (vec![7, 7], 1));
        places.all_distinct(3);
        assert_eq!((places.computed(), places.of(2), places.first_row(1)), (3, 2, 1));
    }
}
