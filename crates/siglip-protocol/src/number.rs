//! Integers that travel as text.

/// The integer that a text starts with, after white space and a sign, as C's `strtol` reads it: what follows it does not
/// count. One too large for 128 bits becomes the largest. `None` if there is no digit.
pub fn leading_integer(text: &[u8]) -> Option<i128> {
    let (sign, text) = match text.trim_ascii_start() {
        [b'-', text @ ..] => (-1, text),
        [b'+', text @ ..] | text => (1, text),
    };
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let size = digits
        .map(|byte| i128::from(byte - b'0'))
        .reduce(|size, digit| size.saturating_mul(10).saturating_add(digit));
    size.map(|size| sign * size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_starts_with() {
        for (text, expected) in [
            ("12", Some(12)),
            (" \t-7x", Some(-7)),
            ("+5 6", Some(5)),
            ("0x10", Some(0)),
            ("-0", Some(0)),
            ("", None),
            ("x1", None),
            ("-", None),
            ("--1", None),
            ("- 1", None),
        ] {
            assert_eq!(leading_integer(text.as_bytes()), expected, "{text}");
        }
        let huge = "9".repeat(50);
        assert_eq!(leading_integer(huge.as_bytes()), Some(i128::MAX));
        assert_eq!(leading_integer(format!("-{huge}").as_bytes()), Some(-i128::MAX));
    }
}
