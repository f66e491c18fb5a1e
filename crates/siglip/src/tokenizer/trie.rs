//! A set of byte strings, each with a number, that finds all members that a text starts with.

/// A trie in breadth-first order: the children of a node lie side by side, sorted by label.
///
/// Compact (9 bytes a node), built once from sorted keys, and quick enough without a double array's search for free
/// slots at start-up.
pub(super) struct Trie {
    /// One more than there are nodes: the children of node `i` are `first_child[i]..first_child[i + 1]`.
    first_child: Vec<u32>,
    /// The byte on the edge that leads to each node.
    label: Vec<u8>,
    /// The number of the key that ends at each node, or [`NONE`].
    value: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Trie {
    /// A trie of these keys. Empty keys are left out; of equal keys the one with the lowest number counts.
    pub(super) fn new<'a>(keys: impl IntoIterator<Item = (&'a [u8], u32)>) -> Trie {
        let mut keys: Vec<(&[u8], u32)> = keys.into_iter().filter(|(key, _)| !key.is_empty()).collect();
        keys.sort_unstable();
        keys.dedup_by_key(|(key, _)| *key);

        let mut trie = Trie { first_child: vec![], label: vec![0], value: vec![NONE] };
        // The keys below each node, a run of the sorted list, level by level.
        let mut level = vec![keys.as_slice()];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for below in level {
                trie.first_child.push(trie.label.len() as u32);
                for run in below.chunk_by(|(a, _), (b, _)| a[depth] == b[depth]) {
                    // The shortest key of a run is its first, and the only one that can end here.
                    let ends = run[0].0.len() == depth + 1;
                    trie.label.push(run[0].0[depth]);
                    trie.value.push(if ends { run[0].1 } else { NONE });
                    next.push(&run[usize::from(ends)..]);
                }
            }
            level = next;
            depth += 1;
        }
        trie.first_child.push(trie.label.len() as u32);
        trie
    }

    /// All keys that `text` starts with, as length and number, from the shortest to the longest.
    #[inline]
    pub(super) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = 0;
        text.iter()
            .map_while(move |byte| {
                let children = self.first_child[node] as usize..self.first_child[node + 1] as usize;
                let offset = self.label[children.clone()].binary_search(byte).ok()?;
                node = children.start + offset;
                Some(self.value[node])
            })
            .enumerate()
            .filter(|(_, value)| *value != NONE)
            .map(|(index, value)| (index + 1, value))
    }

    /// The longest key that `text` starts with, as length and number.
    pub(super) fn longest_prefix(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(keys: &[&str]) -> Trie {
        Trie::new(keys.iter().zip(0..).map(|(key, number)| (key.as_bytes(), number)))
    }

    #[test]
    fn finds_every_prefix_in_order_of_length() {
        let trie = trie(&["b", "abc", "a", "abcd", "ax"]);
        assert_eq!(trie.prefixes(b"abce").collect::<Vec<_>>(), [(1, 2), (3, 1)]);
        assert_eq!(trie.longest_prefix(b"abcde"), Some((4, 3)));
        assert_eq!(trie.longest_prefix(b"c"), None);
        assert_eq!(trie.longest_prefix(b""), None);
    }

    #[test]
    fn empty_and_equal_keys() {
        let trie = trie(&["", "a", "a"]);
        assert_eq!(trie.prefixes(b"aa").collect::<Vec<_>>(), [(1, 1)]);
        assert_eq!(super::Trie::new([]).longest_prefix(b"a"), None);
    }
}
