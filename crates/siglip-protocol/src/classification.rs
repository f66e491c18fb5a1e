//! The classification form of an output: the largest values with their places.

/// The `classes` largest values of a row, largest first, each as `value:index`; of equal values the first.
pub(crate) fn classify(row: &[f32], classes: usize) -> Vec<String> {
    let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
    order.sort_by(|(left, a), (right, b)| b.total_cmp(a).then(left.cmp(right)));
    order.into_iter().take(classes).map(|(index, value)| format!("{value:.6}:{index}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_first() {
        assert_eq!(classify(&[0.0, 3.0, 1151.063, 3.0], 3), ["1151.062988:2", "3.000000:1", "3.000000:3"]);
        assert_eq!(classify(&[1.0], usize::MAX), ["1.000000:0"]);
        assert_eq!(classify(&[], 2), [""; 0]);
    }
}
