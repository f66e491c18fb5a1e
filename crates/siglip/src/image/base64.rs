//! Base64 as clients send it: with line breaks, in either alphabet, padded or not.

/// Why text is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Base64Error {
    /// A byte that is neither of the alphabet nor white space.
    #[error(
        "base64: byte {position} is {}, but only A–Z, a–z, 0–9, + / or - _, and = at the end are allowed",
        .found.escape_ascii()
    )]
    Byte {
        /// Where, counted from 0.
        position: usize,
        /// What stands there.
        found: u8,
    },
    /// Something follows the padding, or there is more padding than fits.
    #[error("base64: the padding (=) at byte {position} is not at the end of a group of four")]
    Padding {
        /// Where, counted from 0.
        position: usize,
    },
    /// One character is left over: it holds 6 bits, and a byte has 8.
    #[error("base64: the text ends at byte {position} with a single left-over character: it was cut off")]
    Length {
        /// The length of the text.
        position: usize,
    },
}

/// The value of each byte; [`SPACE`], [`PADDING`] and [`OTHER`] for those without.
const VALUES: [u8; 256] = values();
const SPACE: u8 = 64;
const PADDING: u8 = 65;
const OTHER: u8 = 66;

const fn values() -> [u8; 256] {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [OTHER; 256];
    let mut value = 0;
    while value < alphabet.len() {
        values[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    values[b'-' as usize] = 62;
    values[b'_' as usize] = 63;
    values[b'=' as usize] = PADDING;
    values[b' ' as usize] = SPACE;
    values[b'\t' as usize] = SPACE;
    values[b'\r' as usize] = SPACE;
    values[b'\n' as usize] = SPACE;
    values
}

/// Decodes base64. White space is passed over; the alphabet may be the standard or the URL-safe one; padding may be
/// there or not.
///
/// # Errors
///
/// [`Base64Error`], which says where the text goes wrong.
pub fn decode_base64(text: &[u8]) -> Result<Vec<u8>, Base64Error> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (groups, _) = text.as_chunks::<4>();
    let mut position = 0;
    // Whole groups without anything special between them: nearly all of any text.
    for group in groups {
        let [a, b, c, d] = group.map(|byte| VALUES[usize::from(byte)]);
        if a | b | c | d >= 64 {
            break;
        }
        bytes.extend([a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]);
        position += 4;
    }
    let (mut bits, mut characters, mut padding) = (0u32, 0usize, 0usize);
    for (position, &byte) in text.iter().enumerate().skip(position) {
        match VALUES[usize::from(byte)] {
            SPACE => {}
            PADDING => {
                padding += 1;
                // Two characters take two, three take one.
                if characters < 2 || characters + padding > 4 {
                    return Err(Base64Error::Padding { position });
                }
            }
            OTHER => return Err(Base64Error::Byte { position, found: byte }),
            _ if padding > 0 => return Err(Base64Error::Padding { position }),
            value => {
                bits = bits << 6 | u32::from(value);
                characters += 1;
                if characters == 4 {
                    let [_, a, b, c] = bits.to_be_bytes();
                    bytes.extend([a, b, c]);
                    (bits, characters) = (0, 0);
                }
            }
        }
    }
    match characters {
        0 => {}
        2 => bytes.push((bits >> 4) as u8),
        3 => bytes.extend([(bits >> 10) as u8, (bits >> 2) as u8]),
        _ => return Err(Base64Error::Length { position: text.len() }),
    }
    Ok(bytes)
}
