//! What `transformers`' `SiglipTokenizer` does to a text before SentencePiece sees it.
//!
//! Lower case character by character (so ΣΟΣ becomes σοσ, without a final ς), then the special strings are cut out,
//! then each part in between loses its ASCII punctuation and has its white space collapsed
//! (`tokenization_siglip.py` and `PreTrainedTokenizer.tokenize` of `transformers` 4.42.4).

use super::charsmap::SPACE_SYMBOL;

/// Appends the text in lower case to `out`. [`SPACE_SYMBOL`] in the text becomes a space, so that no text can
/// fake one.
pub(super) fn lower_case(text: &str, out: &mut String) {
    for char in text.chars() {
        if char.is_ascii() {
            out.push(char.to_ascii_lowercase());
        } else if SPACE_SYMBOL.starts_with(char) {
            out.push(' ');
        } else {
            out.extend(char.to_lowercase());
        }
    }
}

/// Appends the text to `out` without ASCII punctuation, with every run of white space as one space, and none at
/// the ends.
pub(super) fn clean(text: &str, out: &mut String) {
    let start = out.len();
    let mut space = false;
    for char in text.chars() {
        if is_space(char) {
            space = true;
        } else if !char.is_ascii_punctuation() {
            if space && out.len() > start {
                out.push(' ');
            }
            space = false;
            out.push(char);
        }
    }
}

/// White space as Python's `str.isspace` and `\s` have it: Unicode's, and the four separators U+001C to U+001F.
pub(super) fn is_space(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\u{1c}'..='\u{1f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> String {
        let mut lower = String::new();
        lower_case(text, &mut lower);
        let mut out = "kept|".to_owned();
        clean(&lower, &mut out);
        out
    }

    #[test]
    fn lower_case_goes_character_by_character() {
        assert_eq!(cleaned("ΣΟΣ"), "kept|σοσ");
        assert_eq!(cleaned("İstanbul, Straße"), "kept|i\u{307}stanbul straße");
    }

    #[test]
    fn punctuation_goes_and_white_space_collapses() {
        assert_eq!(cleaned("  a_photo (of) \u{a0}\t\u{1f} a… cat! "), "kept|aphoto of a… cat");
        assert_eq!(cleaned(" . , "), "kept|");
        assert_eq!(cleaned("a - b"), "kept|a b");
    }
}
