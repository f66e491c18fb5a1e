//! The classification form of an output: the largest values with their places.

use std::cmp::Ordering;

/// The `classes` largest values of each row of `columns`, largest first, each as `value:index`; of equal values the
/// first.
pub(crate) fn classify<T: Copy>(
    values: &[T],
    columns: usize,
    classes: usize,
    compare: impl Fn(&T, &T) -> Ordering,
    show: impl Fn(&T) -> String,
) -> Vec<String> {
    let mut texts = Vec::new();
    for row in values.chunks_exact(columns.max(1)) {
        let mut order: Vec<(usize, T)> = row.iter().copied().enumerate().collect();
        order.sort_by(|(left, a), (right, b)| compare(b, a).then(left.cmp(right)));
        texts.extend(order.iter().take(classes).map(|(index, value)| format!("{}:{index}", show(value))));
    }
    texts
}

#[cfg(test)]
mod tests {
    use crate::OutputData;

    #[test]
    fn largest_first() {
        let classify = |row: &[f32], classes| OutputData::Fp32(row).classify(row.len(), classes);
        assert_eq!(classify(&[0.0, 3.0, 1151.063, 3.0], 3), ["1151.062988:2", "3.000000:1", "3.000000:3"]);
        assert_eq!(classify(&[1.0], usize::MAX), ["1.000000:0"]);
        assert_eq!(classify(&[], 2), [""; 0]);
    }

    #[test]
    fn row_by_row() {
        assert_eq!(OutputData::Int64(&[1, 2, 4, 3]).classify(2, 1), ["2:1", "4:0"]);
    }
}
