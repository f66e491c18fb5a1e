//! The binary form of BYTES tensors.

use bytes::Bytes;

/// What is wrong with the binary form of a BYTES tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BytesTensorError {
    /// Fewer than four bytes are left where a string's length should be.
    IncompleteLength {
        /// How many bytes are left.
        available: usize,
    },
    /// A string is longer than what is left.
    IncompleteString {
        /// The length that was announced.
        length: usize,
        /// How many bytes are left.
        available: usize,
    },
}

/// Splits a BYTES tensor (each string after its length as a little-endian `u32`) into its strings, without copying.
///
/// On an error the strings before it are in `strings` nevertheless: which of two errors is reported depends on how
/// many there were.
///
/// # Errors
///
/// [`BytesTensorError`] at the first string that is not complete.
pub fn split_bytes_tensor(tensor: &Bytes, strings: &mut Vec<Bytes>) -> Result<(), BytesTensorError> {
    let mut at = 0;
    while at < tensor.len() {
        let rest = tensor.get(at..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return Err(BytesTensorError::IncompleteLength { available: rest.len() });
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            return Err(BytesTensorError::IncompleteString { length, available: rest.len() });
        }
        strings.push(tensor.slice(at + 4..at + 4 + length));
        at += 4 + length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits() {
        let split = |bytes: &'static [u8]| {
            let mut strings = Vec::new();
            let result = split_bytes_tensor(&Bytes::from_static(bytes), &mut strings);
            (strings, result)
        };
        assert_eq!(split(b""), (vec![], Ok(())));
        let (strings, result) = split(b"\x01\0\0\0a\0\0\0\0\x02\0\0\0bc");
        assert_eq!((strings, result), (vec!["a".into(), Bytes::new(), "bc".into()], Ok(())));
        assert_eq!(split(b"ab").1, Err(BytesTensorError::IncompleteLength { available: 2 }));
        let (strings, result) = split(b"\0\0\0\0\xff\xff\xff\xffab");
        assert_eq!(strings.len(), 1);
        assert_eq!(result, Err(BytesTensorError::IncompleteString { length: 0xffff_ffff, available: 2 }));
    }
}
