//! SigLIP 1's tokenizer: what `transformers`' slow `SiglipTokenizer` does around SentencePiece, step by step
//! (`tokenization_siglip.py` of `transformers` 4.42.4).
//!
//! `transformers` 5 differs in two corners: it lower-cases each part as a whole, so that ΣΟΣ becomes σος and not σοσ,
//! and it looks for special strings before it does, so that `</S>` is none.

use super::canonical;
use super::charsmap::SPACE_SYMBOL;
use super::json::TokenizerFile;
use super::spiece::{self, SentencePieceModel};
use super::unigram::{Piece, PieceKind, Unigram, byte_of_piece};

/// SigLIP 1's tokenizer.
pub(super) struct Siglip {
    model: Unigram,
    /// The token of [`END`].
    end: u32,
    /// The token of [`UNKNOWN`].
    unknown: u32,
    /// How many tokens [`ANCHOR`] makes by itself.
    anchor_tokens: usize,
}

/// The end token, which is also the padding.
const END: &str = "</s>";
/// The token of what no piece stands for.
const UNKNOWN: &str = "<unk>";

/// What stands before each part of a text when SentencePiece sees it, and is taken off the tokens again, so
/// that the mark of a space survives at the front. To SentencePiece its characters are text like any other.
const ANCHOR: &str = UNKNOWN;

impl Siglip {
    /// Reads a `spiece.model`. The error is a clause that says what is wrong.
    pub(super) fn from_spiece(bytes: &[u8]) -> Result<Siglip, String> {
        let SentencePieceModel { pieces, charsmap, byte_fallback } = spiece::parse(bytes)?;
        Self::new(&pieces, &charsmap, byte_fallback)
    }

    /// The tokenizer of a `tokenizer.json`, whose vocabulary is `scores`, and warnings about the file.
    pub(super) fn from_json(
        file: &TokenizerFile,
        scores: &[(String, f64)],
    ) -> Result<(Siglip, Vec<String>), String> {
        // The file does not say what each piece is for, but enough to tell.
        let kind = |id: u32, text: &str| {
            if Some(id) == file.model.unk_id {
                PieceKind::Unknown
            } else if byte_of_piece(text).is_some() {
                PieceKind::Byte
            } else if text == "<pad>" || file.added_tokens.iter().any(|token| token.id == id) {
                PieceKind::Control
            } else {
                PieceKind::Normal
            }
        };
        let pieces: Vec<Piece> = (0..)
            .zip(scores)
            .map(|(id, (text, score))| Piece {
                text: text.clone(),
                score: *score as f32,
                kind: kind(id, text),
            })
            .collect();

        let has_bytes = pieces.iter().filter(|piece| piece.kind == PieceKind::Byte).count() == 256;
        let mut warnings = Vec::new();
        if !file.model.byte_fallback {
            warnings.push(if has_bytes { FALLBACK_OFF.to_owned() } else { NO_FALLBACK.to_owned() });
        }
        let siglip = Self::new(&pieces, &file.charsmap()?, file.model.byte_fallback || has_bytes)?;
        Ok((siglip, warnings))
    }

    fn new(pieces: &[Piece], charsmap: &[u8], byte_fallback: bool) -> Result<Siglip, String> {
        let id = |text: &str| {
            let found = (0..).zip(pieces).find(|(_, piece)| piece.text == text);
            found.map(|(id, _)| id).ok_or_else(|| format!("it has no piece `{text}`"))
        };
        let model = Unigram::new(pieces, charsmap, byte_fallback)?;
        let mut anchor = Vec::new();
        model.encode(ANCHOR.as_bytes(), &mut anchor);
        Ok(Siglip { model, end: id(END)?, unknown: id(UNKNOWN)?, anchor_tokens: anchor.len() })
    }

    /// The token that ends every text and fills the context after it.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// The size of the vocabulary.
    pub(super) fn pieces(&self) -> usize {
        self.model.pieces()
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(&self, text: &str, lower_case: bool, ids: &mut Vec<u32>) {
        // The mark stands for the space before the first word. It is no white space to the cleaning, and so a
        // text that starts with white space gets one more mark than one that does not.
        let mut prepared = String::with_capacity(SPACE_SYMBOL.len() + text.len() + 16);
        prepared.push_str(SPACE_SYMBOL);
        if lower_case {
            canonical::lower_case(text, &mut prepared);
        } else {
            prepared.push_str(&text.replace(SPACE_SYMBOL, " "));
        }

        let mut buffer = String::with_capacity(ANCHOR.len() + prepared.len());
        let mut rest = prepared.as_str();
        while let Some(Special { start, end, token }) = self.first_special(rest) {
            // It takes the white space on both its sides with it.
            self.encode_part(rest[..start].trim_end_matches(canonical::is_space), &mut buffer, ids);
            ids.push(token);
            rest = rest[end..].trim_start_matches(canonical::is_space);
        }
        self.encode_part(rest, &mut buffer, ids);
    }

    /// Appends the tokens of a part of a text that has no special strings.
    fn encode_part(&self, part: &str, buffer: &mut String, ids: &mut Vec<u32>) {
        if part.is_empty() {
            return;
        }
        buffer.clear();
        buffer.push_str(ANCHOR);
        canonical::clean(part, buffer);
        let start = ids.len();
        self.model.encode(buffer.as_bytes(), ids);
        let anchor = self.anchor_tokens.min(ids.len() - start);
        ids.drain(start..start + anchor);
    }

    fn first_special(&self, text: &str) -> Option<Special> {
        text.match_indices('<').find_map(|(start, _)| {
            let special = |string: &str, token| {
                let end = start + string.len();
                text[start..].starts_with(string).then_some(Special { start, end, token })
            };
            special(END, self.end).or_else(|| special(UNKNOWN, self.unknown))
        })
    }
}

/// A special string in a text: where it starts and ends, and the token that it is.
struct Special {
    start: usize,
    end: usize,
    token: u32,
}

const FALLBACK_OFF: &str = "It says `byte_fallback: false` although its vocabulary has the pieces of all bytes, as files \
                            converted by third parties do; characters that are no piece are written as bytes, as the \
                            model was trained, where other programs make them `<unk>`.";
const NO_FALLBACK: &str = "It does not fall back to bytes: characters that are no piece, most of those outside the Latin \
                           script, become `<unk>`, and texts made of them become alike.";
