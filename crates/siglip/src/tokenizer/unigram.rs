//! SentencePiece's unigram model: of all ways to cut a text into pieces, the one with the highest sum of
//! scores.
//!
//! Follows `EncodeOptimized` in `src/unigram_model.cc` of SentencePiece 0.2.0 to the rounding, because texts in
//! which two ways score nearly the same are common enough to matter.

use super::charsmap::{Normalizer, char_len};
use super::trie::Trie;

/// A piece of the vocabulary; its id is its place in the list.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    /// The logarithm of its probability.
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// What a piece is for; the numbers are SentencePiece's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// 1: found in text.
    Normal,
    /// 2: what stands for characters that no piece has.
    Unknown,
    /// 3: never found in text.
    Control,
    /// 4: found in text, and preferred to any other way to cut it.
    UserDefined,
    /// 5: counts as not there.
    Unused,
    /// 6: `<0x00>` to `<0xFF>`, the bytes of characters that no piece has.
    Byte,
}

/// A unigram model, ready to encode.
pub(super) struct Unigram {
    normalizer: Normalizer,
    /// Pieces that can be found in text.
    trie: Trie,
    /// What the search adds for a piece of each id. For user-defined pieces see `best_path`.
    scores: Vec<f32>,
    user_defined: Vec<bool>,
    highest_score: f32,
    unknown_score: f32,
    unknown_id: u32,
    /// The ids of the pieces that stand for single bytes, if characters that no piece has are written as bytes.
    byte_ids: Option<[u32; 256]>,
}

impl Unigram {
    /// A model of these pieces. `charsmap` is the normalisation table. The error is a clause that says what is wrong.
    pub(super) fn new(pieces: &[Piece], charsmap: &[u8], byte_fallback: bool) -> Result<Unigram, String> {
        let numbered = || (0..).zip(pieces);
        let unknown = numbered().find(|(_, piece)| piece.kind == PieceKind::Unknown);
        let (unknown_id, _) = unknown.ok_or("it has no piece for unknown characters")?;
        if let Some((_, piece)) = numbered().find(|(_, piece)| !piece.score.is_finite()) {
            return Err(format!("the score of piece `{}` is not a finite number", piece.text));
        }
        let in_text = numbered()
            .filter(|(_, piece)| matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined))
            .map(|(id, piece)| (piece.text.as_bytes(), id));
        let verbatim = numbered()
            .filter(|(_, piece)| piece.kind == PieceKind::UserDefined)
            .map(|(id, piece)| (piece.text.as_bytes(), id));
        let normal =
            || pieces.iter().filter(|piece| piece.kind == PieceKind::Normal).map(|piece| piece.score);
        /// How much less than the lowest score of a piece an unknown character scores.
        const UNKNOWN_PENALTY: f32 = 10.0;
        Ok(Unigram {
            normalizer: Normalizer::new(charsmap, Trie::new(verbatim))?,
            trie: Trie::new(in_text),
            scores: pieces.iter().map(|piece| piece.score).collect(),
            user_defined: pieces.iter().map(|piece| piece.kind == PieceKind::UserDefined).collect(),
            // FLT_MIN, the least positive number, is what SentencePiece starts from.
            highest_score: normal().fold(f32::MIN_POSITIVE, f32::max),
            unknown_score: normal().fold(f32::MAX, f32::min) - UNKNOWN_PENALTY,
            unknown_id,
            byte_ids: if byte_fallback { Some(byte_ids(pieces)?) } else { None },
        })
    }

    /// The size of the vocabulary.
    pub(super) fn pieces(&self) -> usize {
        self.scores.len()
    }

    /// Appends the ids of a text to `ids`. Nothing is put before it: no dummy prefix.
    pub(super) fn encode(&self, text: &[u8], ids: &mut Vec<u32>) {
        let mut normalized = Vec::with_capacity(text.len() + text.len() / 2);
        self.normalizer.normalize(text, &mut normalized);
        let mut after_unknown = false;
        for (piece, id) in self.best_path(&normalized) {
            let unknown = id == self.unknown_id;
            match &self.byte_ids {
                Some(byte_ids) if unknown => {
                    ids.extend(piece.iter().map(|byte| byte_ids[usize::from(*byte)]))
                }
                // Unknown characters in a row become one token.
                None if unknown && after_unknown => {}
                _ => ids.push(id),
            }
            after_unknown = unknown;
        }
    }

    /// The pieces of the best way to cut `text`, in order.
    ///
    /// For each position from left to right, in order: the best way to reach it is final, because pieces only
    /// lead to the right; each piece that starts there may be a better way to reach the position where it ends.
    fn best_path<'a>(&self, text: &'a [u8]) -> Vec<(&'a [u8], u32)> {
        #[derive(Clone, Copy)]
        struct Way {
            score: f32,
            /// The last piece, and where it starts; `usize::MAX` where no way is known yet.
            id: u32,
            start: usize,
        }
        impl Way {
            // Compared in double precision, kept in single, as the original does.
            fn improve(&mut self, score: f64, id: u32, start: usize) {
                if self.start == usize::MAX || score > f64::from(self.score) {
                    *self = Way { score: score as f32, id, start };
                }
            }
        }
        let mut ways = vec![Way { score: 0.0, id: 0, start: usize::MAX }; text.len() + 1];
        let mut start = 0;
        while start < text.len() {
            let score_here = ways[start].score;
            let rest = &text[start..];
            let char_len = char_len(rest);
            let mut char_is_a_piece = false;
            for (length, id) in self.trie.prefixes(rest) {
                let score = self.score(id, length) + f64::from(score_here);
                ways[start + length].improve(score, id, start);
                char_is_a_piece |= length == char_len;
            }
            if !char_is_a_piece {
                let score = self.unknown_score + score_here;
                ways[start + char_len].improve(f64::from(score), self.unknown_id, start);
            }
            start += char_len;
        }

        let mut pieces = Vec::with_capacity(text.len() / 2);
        let mut end = text.len();
        while end > 0 {
            let Way { id, start, .. } = ways[end];
            pieces.push((&text[start..end], id));
            end = start;
        }
        pieces.reverse();
        pieces
    }

    fn score(&self, id: u32, length: usize) -> f64 {
        let id = id as usize;
        if self.user_defined[id] {
            f64::from(length as f32 * self.highest_score) - 0.1
        } else {
            f64::from(self.scores[id])
        }
    }
}

/// The value of a piece that stands for a byte: its text is `<0x00>` to `<0xFF>`.
pub(super) fn byte_of_piece(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn byte_ids(pieces: &[Piece]) -> Result<[u32; 256], String> {
    let mut ids = [None; 256];
    for (id, piece) in (0..).zip(pieces).filter(|(_, piece)| piece.kind == PieceKind::Byte) {
        if let Some(byte) = byte_of_piece(&piece.text) {
            ids[usize::from(byte)] = Some(id);
        }
    }
    let mut found = [0; 256];
    for (byte, (found, id)) in found.iter_mut().zip(ids).enumerate() {
        *found = id.ok_or_else(|| format!("it falls back to bytes but has no piece `<0x{byte:02X}>`"))?;
    }
    Ok(found)
}
