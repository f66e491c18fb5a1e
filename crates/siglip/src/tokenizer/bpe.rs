//! SigLIP 2's tokenizer: Gemma's byte-pair encoding, as `tokenizer.json` describes it.
//!
//! A text is cut into characters, and neighbours are merged, always the pair of highest priority that is left,
//! until no pair can be. There are no words: spaces are characters like others, written U+2581.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::charsmap::SPACE_SYMBOL;
use super::json::{Merge, TokenizerFile};
use super::trie::Trie;

/// A BPE model, ready to encode.
pub(super) struct Bpe {
    /// Strings that are tokens wherever they stand in the text, and that nothing is merged with.
    added: Trie,
    chars: HashMap<char, u32>,
    /// The ids of the pieces that stand for single bytes: what a character that is no piece becomes.
    byte_ids: [u32; 256],
    /// For two neighbours: the priority of merging them, lower first, and what they become.
    merges: HashMap<(u32, u32), (u32, u32)>,
    end: u32,
    padding: u32,
    pieces: usize,
}

impl Bpe {
    /// The model of a `tokenizer.json`, whose vocabulary is `vocabulary`. The error is a clause that says what
    /// is wrong.
    pub(super) fn from_json(file: &TokenizerFile, vocabulary: &HashMap<String, u32>) -> Result<Bpe, String> {
        let TokenizerFile { added_tokens, model, .. } = file;
        if !model.byte_fallback {
            return Err("it does not fall back to bytes, as Gemma's tokenizer must".to_owned());
        }
        if let Some(token) = added_tokens.iter().find(|token| token.normalized) {
            let content = &token.content;
            return Err(format!(
                "added token `{content}` is matched after normalisation, which is not supported"
            ));
        }
        let id =
            |piece: &str| vocabulary.get(piece).copied().ok_or_else(|| format!("it has no piece `{piece}`"));
        let mut byte_ids = [0; 256];
        for (byte, byte_id) in (0..=u8::MAX).zip(&mut byte_ids) {
            let piece = format!("<0x{byte:02X}>");
            // An ASCII character that is a piece itself, as tab and line feed are, needs none for its byte.
            let char_id = byte.is_ascii().then(|| id(&char::from(byte).to_string()).ok()).flatten();
            *byte_id = char_id.map_or_else(|| id(&piece), Ok)?;
        }
        let mut merges = HashMap::with_capacity(model.merges.len());
        let mut merged = String::new();
        for (priority, Merge(left, right)) in (0..).zip(&model.merges) {
            merged.clear();
            merged.push_str(left);
            merged.push_str(right);
            merges.insert((id(left)?, id(right)?), (priority, id(&merged)?));
        }
        let chars = vocabulary.iter().filter_map(|(piece, id)| {
            let mut chars = piece.chars();
            Some((chars.next().filter(|_| chars.next().is_none())?, *id))
        });
        Ok(Bpe {
            added: Trie::new(added_tokens.iter().map(|token| (token.content.as_bytes(), token.id))),
            chars: chars.collect(),
            byte_ids,
            merges,
            end: id("<eos>")?,
            padding: id("<pad>")?,
            pieces: vocabulary.len(),
        })
    }

    /// The size of the vocabulary.
    pub(super) fn pieces(&self) -> usize {
        self.pieces
    }

    /// The token that ends every text.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// The token that fills the context after the end token.
    pub(super) fn padding(&self) -> u32 {
        self.padding
    }

    /// Appends the ids of a text to `ids`.
    pub(super) fn encode(&self, text: &str, lower_case: bool, ids: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let found = rest.char_indices().find_map(|(start, _)| {
                let (length, id) = self.added.longest_prefix(&rest.as_bytes()[start..])?;
                Some((start, length, id))
            });
            let Some((start, length, id)) = found else {
                self.encode_between(rest, lower_case, ids);
                break;
            };
            // An added token is valid UTF-8, and so it starts and ends between characters.
            self.encode_between(&rest[..start], lower_case, ids);
            ids.push(id);
            rest = &rest[start + length..];
        }
    }

    /// Encodes text without added tokens.
    fn encode_between(&self, text: &str, lower_case: bool, ids: &mut Vec<u32>) {
        let mut symbols = Symbols::default();
        let mut push = |char: char| match self.chars.get(&char) {
            Some(id) => symbols.push(*id),
            None => {
                for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                    symbols.push(self.byte_ids[usize::from(byte)]);
                }
            }
        };
        for char in text.chars() {
            if char == ' ' {
                SPACE_SYMBOL.chars().for_each(&mut push);
            } else if lower_case {
                char.to_lowercase().for_each(&mut push);
            } else {
                push(char);
            }
        }
        symbols.merge(&self.merges);
        ids.extend(symbols.0.iter().filter_map(|symbol| symbol.id));
    }
}

/// A text being merged: symbols in a doubly linked list over a vector.
#[derive(Default)]
struct Symbols(Vec<Symbol>);

struct Symbol {
    /// `None` once it has been merged into the symbol before it.
    id: Option<u32>,
    previous: Option<usize>,
    next: Option<usize>,
}

impl Symbols {
    fn push(&mut self, id: u32) {
        let index = self.0.len();
        let previous = index.checked_sub(1);
        if let Some(previous) = previous {
            self.0[previous].next = Some(index);
        }
        self.0.push(Symbol { id: Some(id), previous, next: None });
    }

    /// Merges until nothing can be merged: the highest priority first, and of equal ones the leftmost.
    fn merge(&mut self, merges: &HashMap<(u32, u32), (u32, u32)>) {
        let mut queue: BinaryHeap<_> =
            (0..self.0.len()).filter_map(|left| self.candidate(left, merges)).map(Reverse).collect();
        while let Some(Reverse((priority, left, merged))) = queue.pop() {
            // What was queued may have changed since: then it is not the same merge any more, and the new one is
            // queued.
            if self.candidate(left, merges) != Some((priority, left, merged)) {
                continue;
            }
            let Some(right) = self.0[left].next else { continue };
            let next = self.0[right].next;
            self.0[right].id = None;
            self.0[left].id = Some(merged);
            self.0[left].next = next;
            if let Some(next) = next {
                self.0[next].previous = Some(left);
            }
            let before = self.0[left].previous.and_then(|previous| self.candidate(previous, merges));
            queue.extend([before, self.candidate(left, merges)].into_iter().flatten().map(Reverse));
        }
    }

    /// The merge of the symbol at `left` with the one after it, if there is one: priority, place, result.
    fn candidate(&self, left: usize, merges: &HashMap<(u32, u32), (u32, u32)>) -> Option<(u32, usize, u32)> {
        let symbol = &self.0[left];
        let right = &self.0[symbol.next?];
        let (priority, merged) = merges.get(&(symbol.id?, right.id?))?;
        Some((*priority, left, *merged))
    }
}
