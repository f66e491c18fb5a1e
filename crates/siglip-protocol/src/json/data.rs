//! A tensor's `data`: an array of scalars, nested in any way, read straight into a vector.
//!
//! Triton cares only that the scalars are of the right type and as many as the shape says; brackets may stand
//! anywhere. In a validated text they can be skipped like commas, with a count of how many are open to find the end.

use super::value::{AccessError, Value, number_length, parse_double, parse_signed};

/// Why an array of data could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// An element, or the whole, is of another type.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// There are more or fewer elements than the shape says.
    #[error("Shape does not match true shape of 'data' field")]
    Count,
}

/// Reads `expected` integers.
///
/// # Errors
///
/// [`DataError`] if there are more or fewer, or one is not an integer.
pub fn read_i64(array: &Value<'_>, expected: usize) -> Result<Vec<i64>, DataError> {
    let mut out = Vec::with_capacity(plausible(array, expected));
    scalars(array, |text| {
        room(out.len(), expected)?;
        // Up to 18 digits cannot overflow; anything longer, signed or odd takes the careful way.
        let (value, digits) = small_integer(text);
        let end = text.get(digits).copied().unwrap_or(b']');
        if (1..19).contains(&digits) && matches!(end, b',' | b']' | b' ' | b'\n' | b'\r' | b'\t') {
            out.push(value);
            return Ok(digits);
        }
        let length = number_length(text);
        let value = text.get(..length).and_then(parse_signed).ok_or(AccessError::NotSigned)?;
        out.push(value);
        Ok(length)
    })?;
    if out.len() == expected { Ok(out) } else { Err(DataError::Count) }
}

/// The number of scalars in an array, nested in any way; 0 for any other value.
pub fn count_scalars(array: &Value<'_>) -> usize {
    let mut count = 0;
    // Strings are stepped over whole: a bracket in one is none.
    let counted = scalars(array, |text| {
        count += 1;
        Ok(Value::root(text, 0).quoted().map_or_else(|| number_length(text), |quoted| quoted.len() + 2))
    });
    if counted.is_ok() { count } else { 0 }
}

/// Reads `expected` numbers, rounding each to `f64` and then to `f32`, as Triton does.
///
/// # Errors
///
/// [`DataError`] if there are more or fewer, or one is not a number.
pub fn read_f32(array: &Value<'_>, expected: usize) -> Result<Vec<f32>, DataError> {
    let mut out = Vec::with_capacity(plausible(array, expected));
    scalars(array, |text| {
        room(out.len(), expected)?;
        let length = number_length(text);
        let value = text.get(..length).and_then(parse_double).ok_or(AccessError::NotNumber)?;
        out.push(value as f32);
        Ok(length)
    })?;
    if out.len() == expected { Ok(out) } else { Err(DataError::Count) }
}

/// Reads `expected` scalars of some other type, only to see whether `check` likes each.
///
/// # Errors
///
/// [`DataError`] if there are more or fewer, or `check` failed.
pub fn read_other(
    array: &Value<'_>,
    expected: usize,
    check: impl Fn(&Value<'_>) -> Result<(), AccessError>,
) -> Result<(), DataError> {
    let mut count = 0;
    scalars(array, |text| {
        room(count, expected)?;
        check(&Value::root(text, 0))?;
        count += 1;
        Ok(number_length(text))
    })?;
    if count == expected { Ok(()) } else { Err(DataError::Count) }
}

/// Hands each string to `push`, as it is written between its quotes: still escaped.
///
/// # Errors
///
/// [`AccessError::NotString`] for the first element that is none.
pub fn read_strings<'a>(array: &Value<'a>, mut push: impl FnMut(&'a [u8])) -> Result<(), AccessError> {
    let rest = scalars(array, |text| {
        let quoted = Value::root(text, 0).quoted().ok_or(AccessError::NotString)?;
        push(quoted);
        Ok(quoted.len() + 2)
    });
    rest.map_err(|error| match error {
        DataError::Access(error) => error,
        DataError::Count => AccessError::NotString,
    })
}

/// Calls `read` at the start of every scalar; it returns how many bytes the scalar takes.
fn scalars<'a>(
    array: &Value<'a>,
    mut read: impl FnMut(&'a [u8]) -> Result<usize, DataError>,
) -> Result<(), DataError> {
    let text = array.array()?.rest();
    let mut open = 0_usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b',' | b' ' | b'\n' | b'\r' | b'\t' => at += 1,
            b'[' => {
                open += 1;
                at += 1;
            }
            b']' => {
                open = open.saturating_sub(1);
                at += 1;
                if open == 0 {
                    break;
                }
            }
            // At least one byte, so that the loop ends whatever `read` makes of a text that was not validated.
            _ => at += read(text.get(at..).unwrap_or_default())?.max(1),
        }
    }
    Ok(())
}

/// The digits at the start of `text` as a number, as far as 18 of them, and how many there are.
fn small_integer(text: &[u8]) -> (i64, usize) {
    let mut value = 0_i64;
    let mut digits = 0;
    for byte in text.iter().take(18) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value * 10 + i64::from(digit);
        digits += 1;
    }
    (value, digits)
}

fn room(read: usize, expected: usize) -> Result<(), DataError> {
    if read < expected { Ok(()) } else { Err(DataError::Count) }
}

/// What to reserve: as the shape says, but no more than the text can hold, whatever the shape says.
fn plausible(array: &Value<'_>, expected: usize) -> usize {
    expected.min(array.rest().len() / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(text: &str, expected: usize) -> Result<Vec<i64>, String> {
        read_i64(&crate::json::parse(text.as_bytes()).unwrap(), expected).map_err(|error| error.to_string())
    }

    #[test]
    fn integers_nested_in_any_way() {
        assert_eq!(ints("[1,2,3]", 3), Ok(vec![1, 2, 3]));
        assert_eq!(ints(" [[1, 2],\n[[3]], []]", 3), Ok(vec![1, 2, 3]));
        assert_eq!(ints("[]", 0), Ok(vec![]));
        assert_eq!(
            ints("[9223372036854775807,-9223372036854775808,-5]", 3),
            Ok(vec![i64::MAX, i64::MIN, -5])
        );
        assert_eq!(
            ints("[123456789012345678,1234567890123456789]", 2).unwrap()[1],
            1_234_567_890_123_456_789
        );
    }

    #[test]
    fn wrong_counts_and_types() {
        let count = Err("Shape does not match true shape of 'data' field".to_owned());
        let signed = Err("attempt to access JSON non-signed-integer as signed-integer".to_owned());
        assert_eq!(ints("[1,2]", 3), count);
        assert_eq!(ints("[1,2,3,4]", 3), count);
        assert_eq!(ints("[1,2,3,\"x\"]", 3), count);
        assert_eq!(ints("[1,2]", usize::MAX), count);
        for odd in ["1.5", "1e3", "7.0", "true", "null", "\"1\"", "{\"a\":1}", "9223372036854775808"] {
            assert_eq!(ints(&format!("[{odd}]"), 1), signed, "{odd}");
        }
        assert_eq!(ints("{}", 1), Err("attempt to access JSON non-array as array".to_owned()));
    }

    #[test]
    fn floats_and_strings() {
        let floats = read_f32(&Value::root(b"[1, 2.5, [-1e-3], NaN]", 0), 4).unwrap();
        assert_eq!(floats[..3], [1.0, 2.5, -1e-3]);
        assert!(floats[3].is_nan());
        let mut strings = Vec::new();
        read_strings(&Value::root(br#"["a,]",["b\""]]"#, 0), |text| strings.push(text)).unwrap();
        assert_eq!(strings, [&b"a,]"[..], b"b\\\""]);
        assert_eq!(read_strings(&Value::root(b"[5]", 0), |_| ()), Err(AccessError::NotString));
    }
}
