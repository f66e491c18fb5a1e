//! Strings: out of escapes and into them.

use std::borrow::Cow;

/// The bytes of a string, given what stands between its quotes in a validated text.
///
/// A string without escapes is returned as it stands, so that a caller can keep a reference to it.
pub fn unescape(quoted: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\\', quoted) else {
        return Cow::Borrowed(quoted);
    };
    let mut out = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    let mut next = Some(first);
    while let Some(at) = next {
        let (plain, escape) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        rest = unescape_one(escape, &mut out);
        next = memchr::memchr(b'\\', rest);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Takes the escape at the start of `text` and returns what follows it.
fn unescape_one<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let Some((&letter, mut rest)) = text.get(1..).and_then(|text| text.split_first()) else {
        return &[];
    };
    out.push(match letter {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let mut unit = hex(&mut rest);
            if (0xD800..0xDC00).contains(&unit) {
                rest = rest.strip_prefix(b"\\u").unwrap_or(rest);
                unit = 0x10000 + ((unit - 0xD800) << 10) + (hex(&mut rest).wrapping_sub(0xDC00) & 0x3FF);
            }
            let character = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return rest;
        }
        other => other,
    });
    rest
}

fn hex(text: &mut &[u8]) -> u32 {
    let (digits, rest) = text.split_at_checked(4).unwrap_or((text, &[]));
    *text = rest;
    digits.iter().fold(0, |value, &digit| value * 16 + char::from(digit).to_digit(16).unwrap_or(0))
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    out.push(b'"');
    for &byte in text.as_bytes() {
        let escape = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => {
                let digit = |index: u8| HEX.get(usize::from(index)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', escape]);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["", "plain", "\"\\/\u{8}\u{c}\n\r\t", "n\u{e9}\u{2603}\u{1F600}", "a\0b\u{1f}"] {
            let mut written = Vec::new();
            write_string(&mut written, text);
            crate::json::parse(&written).unwrap();
            assert_eq!(unescape(&written[1..written.len() - 1]), text.as_bytes());
        }
    }

    #[test]
    fn escapes_of_every_kind() {
        assert_eq!(unescape(br#"\u0041\u00e9\ud83d\ude00\n\/\\\""#), "A\u{e9}\u{1F600}\n/\\\"".as_bytes());
        assert!(matches!(unescape(b"no escapes"), Cow::Borrowed(_)));
    }
}
