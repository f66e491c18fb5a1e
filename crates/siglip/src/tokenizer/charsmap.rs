//! SentencePiece's text normalisation: a table of replacements, of which the longest that fits is taken each
//! time.
//!
//! The table (`nmt_nfkc` for SigLIP) comes with the model as a blob: the length of a Darts double array, the
//! array, and the replacements, each ended by a zero byte. (`src/normalizer.cc` and
//! `third_party/darts_clone/darts.h` of SentencePiece 0.2.0. The `spm_precompiled` crate behind `tokenizers`
//! goes by grapheme clusters instead of by the longest match and so differs on combining marks.)

use super::trie::Trie;

/// SentencePiece's mark for a space, U+2581.
pub(super) const SPACE_SYMBOL: &str = "\u{2581}";

/// The normalisation of one SentencePiece model.
pub(super) struct Normalizer {
    /// The units of the double array; empty if there is no table.
    units: Vec<u32>,
    /// The replacements, each ended by a zero byte. What the array's values point into.
    replacements: Vec<u8>,
    /// Pieces that are taken as they are, before any replacement.
    verbatim: Trie,
}

impl Normalizer {
    /// Reads a table; an empty one replaces nothing. The error is a clause that says what is wrong.
    pub(super) fn new(charsmap: &[u8], verbatim: Trie) -> Result<Normalizer, String> {
        if charsmap.is_empty() {
            return Ok(Normalizer { units: vec![], replacements: vec![], verbatim });
        }
        let cut_short = || format!("its normalisation table of {} bytes is cut short", charsmap.len());
        let (length, rest) = charsmap.split_first_chunk::<4>().ok_or_else(cut_short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (array, replacements) = rest.split_at_checked(length).ok_or_else(cut_short)?;
        let (units, odd) = array.as_chunks::<4>();
        if !odd.is_empty() || units.is_empty() {
            return Err(format!(
                "its normalisation table has an array of {length} bytes, not a multiple of 4"
            ));
        }
        Ok(Normalizer {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_vec(),
            verbatim,
        })
    }

    /// Appends the normal form of `text` to `out`: replacements made, runs of spaces made one, spaces at the ends
    /// removed, and every space written as [`SPACE_SYMBOL`].
    pub(super) fn normalize(&self, text: &[u8], out: &mut Vec<u8>) {
        let mut rest = text;
        let mut after_space = true;
        while !rest.is_empty() {
            let (length, replacement) = self.next(rest);
            let mut replacement = replacement.unwrap_or(&rest[..length]);
            rest = &rest[length..];
            if after_space {
                let spaces = replacement.iter().take_while(|byte| **byte == b' ').count();
                replacement = &replacement[spaces..];
            }
            if let Some(last) = replacement.last() {
                after_space = *last == b' ';
            }
            for &byte in replacement {
                if byte == b' ' {
                    out.extend_from_slice(SPACE_SYMBOL.as_bytes());
                } else {
                    out.push(byte);
                }
            }
        }
        // A SPACE_SYMBOL that stood in the text counts as a space here, and only here, as in SentencePiece.
        while out.ends_with(SPACE_SYMBOL.as_bytes()) {
            out.truncate(out.len() - SPACE_SYMBOL.len());
        }
    }

    /// How much of the front of `text` is to be replaced, and by what; `None` leaves it.
    fn next(&self, text: &[u8]) -> (usize, Option<&[u8]>) {
        if let Some((length, _)) = self.verbatim.longest_prefix(text) {
            return (length, None);
        }
        match self.longest_match(text) {
            Some((length, start)) => {
                let replacement = self.replacements.get(start..).unwrap_or_default();
                let end = replacement.iter().position(|byte| *byte == 0).unwrap_or(replacement.len());
                (length, Some(&replacement[..end]))
            }
            None => (char_len(text), None),
        }
    }

    /// Walks the double array: each unit says where its children start, a child's place is that start XOR its label,
    /// and a child that is not there is told by its label. Returns the length of the longest key and its value.
    fn longest_match(&self, text: &[u8]) -> Option<(usize, usize)> {
        let mut longest = None;
        let mut position = offset(*self.units.first()?);
        for (index, &byte) in text.iter().enumerate() {
            position ^= usize::from(byte);
            let unit = *self.units.get(position)?;
            // The top bit marks a value, which no label equals.
            if unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            position ^= offset(unit);
            let has_value = unit >> 8 & 1 == 1;
            if has_value {
                longest = Some((index + 1, (*self.units.get(position)? & 0x7fff_ffff) as usize));
            }
        }
        longest
    }
}

/// Where a unit's children start, relative to its own place (by XOR).
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

/// Bytes of the character that a valid UTF-8 text starts with.
pub(super) fn char_len(text: &[u8]) -> usize {
    let length = match text.first() {
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xff) => 4,
        _ => 1,
    };
    length.min(text.len())
}
