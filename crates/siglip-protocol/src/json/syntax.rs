//! Validation of a whole JSON text.

use std::fmt;

use super::Value;

/// The deepest nesting that is accepted.
///
/// The reader itself needs no such limit; it protects whoever reads our replies or logs with a recursive parser, and
/// no tensor has a thousand dimensions.
pub const MAX_DEPTH: usize = 1000;

/// Why a text is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at {offset}")]
pub struct SyntaxError {
    /// What is wrong.
    pub kind: SyntaxErrorKind,
    /// The byte at which it was noticed.
    pub offset: usize,
}

/// What is wrong with a text that is not JSON. The words are RapidJSON's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of each are in `Display`, right below")]
pub enum SyntaxErrorKind {
    Empty,
    TrailingValue,
    InvalidValue,
    MissingName,
    MissingColon,
    ObjectEnd,
    ArrayEnd,
    UnicodeEscape,
    Surrogate,
    Escape,
    MissingQuote,
    NumberTooBig,
    MissingFraction,
    MissingExponent,
    TooDeep,
}

impl fmt::Display for SyntaxErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "The document is empty.",
            Self::TrailingValue => "The document root must not be followed by other values.",
            Self::InvalidValue => "Invalid value.",
            Self::MissingName => "Missing a name for object member.",
            Self::MissingColon => "Missing a colon after a name of object member.",
            Self::ObjectEnd => "Missing a comma or '}' after an object member.",
            Self::ArrayEnd => "Missing a comma or ']' after an array element.",
            Self::UnicodeEscape => "Incorrect hex digit after \\u escape in string.",
            Self::Surrogate => "The surrogate pair in string is invalid.",
            Self::MissingQuote => "Missing a closing quotation mark in string.",
            Self::Escape => "Invalid escape character in string.",
            Self::NumberTooBig => "Number too big to be stored in double.",
            Self::MissingFraction => "Miss fraction part in number.",
            Self::MissingExponent => "Miss exponent in number.",
            Self::TooDeep => "Nesting deeper than 1000 arrays and objects.",
        })
    }
}

/// Checks that `text` is one JSON value and nothing else, and gives it.
///
/// As RapidJSON under Triton, it accepts the numbers `NaN`, `Inf` and `Infinity`, strings that are not UTF-8, and a byte
/// order mark in front; and a NUL ends the text.
///
/// # Errors
///
/// The first thing that is wrong, with its offset.
pub fn parse(text: &[u8]) -> Result<Value<'_>, SyntaxError> {
    let mut validator = Validator { text, at: 0 };
    for byte in BYTE_ORDER_MARK {
        if !validator.take(byte) {
            break;
        }
    }
    let start = validator.at;
    validator.document()?;
    Ok(Value::root(text, start))
}

/// That of UTF-8.
const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];

struct Validator<'a> {
    text: &'a [u8],
    at: usize,
}

/// The containers that are open, innermost last: a bit each, set for an object.
#[derive(Default)]
struct Open {
    bits: [u64; MAX_DEPTH.div_ceil(64)],
    depth: usize,
}

impl Open {
    fn push(&mut self, object: bool) -> Option<()> {
        let word = self.bits.get_mut(self.depth / 64).filter(|_| self.depth < MAX_DEPTH)?;
        let bit = 1 << (self.depth % 64);
        *word = if object { *word | bit } else { *word & !bit };
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Whether the innermost container is an object; `None` when none is open.
    fn innermost_is_object(&self) -> Option<bool> {
        let index = self.depth.checked_sub(1)?;
        self.bits.get(index / 64).map(|word| word & (1 << (index % 64)) != 0)
    }
}

impl Validator<'_> {
    fn document(mut self) -> Result<(), SyntaxError> {
        let mut open = Open::default();
        self.skip_space();
        if self.peek().is_none() {
            return self.fail(SyntaxErrorKind::Empty);
        }
        // Each turn reads one value, or opens a container and goes on with its first value.
        loop {
            let closed = match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    open.push(true).ok_or_else(|| self.error(SyntaxErrorKind::TooDeep))?;
                    self.skip_space();
                    if !self.take(b'}') {
                        self.name()?;
                        continue;
                    }
                    open.pop();
                    true
                }
                Some(b'[') => {
                    self.at += 1;
                    open.push(false).ok_or_else(|| self.error(SyntaxErrorKind::TooDeep))?;
                    self.skip_space();
                    if !self.take(b']') {
                        continue;
                    }
                    open.pop();
                    true
                }
                _ => false,
            };
            if !closed {
                self.scalar()?;
            }
            // A value is complete: close what it completes, then find the next one.
            loop {
                self.skip_space();
                match open.innermost_is_object() {
                    None => {
                        return match self.peek() {
                            None => Ok(()),
                            Some(_) => self.fail(SyntaxErrorKind::TrailingValue),
                        };
                    }
                    Some(true) if self.take(b',') => {
                        self.skip_space();
                        self.name()?;
                        break;
                    }
                    Some(true) if self.take(b'}') => open.pop(),
                    Some(true) => return self.fail(SyntaxErrorKind::ObjectEnd),
                    Some(false) if self.take(b',') => {
                        self.skip_space();
                        break;
                    }
                    Some(false) if self.take(b']') => open.pop(),
                    Some(false) => return self.fail(SyntaxErrorKind::ArrayEnd),
                }
            }
        }
    }

    /// A member's name and colon, up to its value.
    fn name(&mut self) -> Result<(), SyntaxError> {
        if self.peek() != Some(b'"') {
            return self.fail(SyntaxErrorKind::MissingName);
        }
        self.string()?;
        self.skip_space();
        if !self.take(b':') {
            return self.fail(SyntaxErrorKind::MissingColon);
        }
        self.skip_space();
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), SyntaxError> {
        for &letter in word {
            if !self.take(letter) {
                return self.fail(SyntaxErrorKind::InvalidValue);
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), SyntaxError> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                None => return self.fail(SyntaxErrorKind::MissingQuote),
                Some(byte) if byte < 0x20 => return self.fail(SyntaxErrorKind::Escape),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let fail = |kind| Err(SyntaxError { kind, offset: start });
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                match self.hex(start)? {
                    0xD800..=0xDBFF => {
                        if !(self.take(b'\\') && self.take(b'u')) {
                            return fail(SyntaxErrorKind::Surrogate);
                        }
                        if !matches!(self.hex(start)?, 0xDC00..=0xDFFF) {
                            return fail(SyntaxErrorKind::Surrogate);
                        }
                    }
                    0xDC00..=0xDFFF => return fail(SyntaxErrorKind::Surrogate),
                    _ => {}
                }
            }
            _ => return fail(SyntaxErrorKind::Escape),
        }
        Ok(())
    }

    fn hex(&mut self, start: usize) -> Result<u32, SyntaxError> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let digit = digit.ok_or(SyntaxError { kind: SyntaxErrorKind::UnicodeEscape, offset: start })?;
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        self.take(b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(b'N') => return self.word(b"NaN"),
            Some(b'I') => {
                self.word(b"Inf")?;
                return if self.peek() == Some(b'i') { self.word(b"inity") } else { Ok(()) };
            }
            _ => return self.fail(SyntaxErrorKind::InvalidValue),
        }
        if self.take(b'.') {
            if !self.at_digit() {
                return self.fail(SyntaxErrorKind::MissingFraction);
            }
            self.digits();
        }
        let exponent = self.take(b'e') || self.take(b'E');
        if exponent {
            if !self.take(b'-') {
                self.take(b'+');
            }
            if !self.at_digit() {
                return self.fail(SyntaxErrorKind::MissingExponent);
            }
            self.digits();
        }
        // Without an exponent it takes 309 digits to leave the range of a double.
        if exponent || self.at - start > 300 {
            let digits = self.text.get(start..self.at).and_then(|text| std::str::from_utf8(text).ok());
            if digits.and_then(|text| text.parse::<f64>().ok()).is_none_or(f64::is_infinite) {
                return Err(SyntaxError { kind: SyntaxErrorKind::NumberTooBig, offset: start });
            }
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.at_digit() {
            self.at += 1;
        }
    }

    fn at_digit(&self) -> bool {
        self.peek().is_some_and(|byte| byte.is_ascii_digit())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// The next byte, of which RapidJSON cannot tell a NUL from the end of its input.
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied().filter(|&byte| byte != 0)
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn error(&self, kind: SyntaxErrorKind) -> SyntaxError {
        SyntaxError { kind, offset: self.at }
    }

    fn fail(&self, kind: SyntaxErrorKind) -> Result<(), SyntaxError> {
        Err(self.error(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(text: &[u8]) -> Result<(), SyntaxError> {
        parse(text).map(drop)
    }

    #[test]
    fn accepts_what_is_json() {
        for text in [
            "{}",
            " [ ] ",
            "null",
            "-0",
            "1.5e-3",
            r#"{"a":[1,{"b":"\u00e9\ud83d\ude00"},[]],"c":{}}"#,
            "[NaN,-Infinity,Inf]",
            "[[[[1],[2]]]]",
        ] {
            assert_eq!(validate(text.as_bytes()), Ok(()), "{text}");
        }
        assert_eq!(validate(b"\"\xff\""), Ok(()));
        assert_eq!(validate(b"{} \0what follows"), Ok(()));
        assert_eq!(parse("\u{feff} [5]".as_bytes()).unwrap().elements().count(), 1);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, words) in [
            ("", "The document is empty. at 0"),
            ("  ", "The document is empty. at 2"),
            ("hello", "Invalid value. at 0"),
            ("nope", "Invalid value. at 1"),
            ("{", "Missing a name for object member. at 1"),
            ("{\"a\"", "Missing a colon after a name of object member. at 4"),
            ("{\"a\":1", "Missing a comma or '}' after an object member. at 6"),
            ("{\"a\":1,}", "Missing a name for object member. at 7"),
            ("[1,]", "Invalid value. at 3"),
            ("[007]", "Missing a comma or ']' after an array element. at 2"),
            ("[1", "Missing a comma or ']' after an array element. at 2"),
            ("{}x", "The document root must not be followed by other values. at 2"),
            ("\u{feff}", "The document is empty. at 3"),
            ("\u{feff}{\"a\"", "Missing a colon after a name of object member. at 7"),
            (" \0{}", "The document is empty. at 1"),
            ("{\"a\":1\0}", "Missing a comma or '}' after an object member. at 6"),
            ("\"a\0b\"", "Missing a closing quotation mark in string. at 2"),
            ("\"abc", "Missing a closing quotation mark in string. at 4"),
            ("\"a\nb\"", "Invalid escape character in string. at 2"),
            ("\"\\x\"", "Invalid escape character in string. at 1"),
            ("\"\\u12g4\"", "Incorrect hex digit after \\u escape in string. at 1"),
            ("\"\\udc00\"", "The surrogate pair in string is invalid. at 1"),
            ("\"\\ud83dx\"", "The surrogate pair in string is invalid. at 1"),
            ("-", "Invalid value. at 1"),
            ("1.", "Miss fraction part in number. at 2"),
            ("1e", "Miss exponent in number. at 2"),
            ("[1e999]", "Number too big to be stored in double. at 1"),
        ] {
            let error = validate(text.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(error, Err(words.to_owned()), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let deep = "[".repeat(1 << 20);
        assert_eq!(validate(deep.as_bytes()).map_err(|error| error.kind), Err(SyntaxErrorKind::TooDeep));
        let objects = "{\"a\":".repeat(1 << 20);
        assert_eq!(validate(objects.as_bytes()).map_err(|error| error.kind), Err(SyntaxErrorKind::TooDeep));
        let allowed = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
        assert_eq!(validate(allowed.as_bytes()), Ok(()));
    }
}
