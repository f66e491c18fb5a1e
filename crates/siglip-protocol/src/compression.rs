//! Compressed bodies, over HTTP.

use std::io::{Read, Write};

use flate2::bufread::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// gzip.
    Gzip,
    /// zlib, which HTTP calls deflate.
    Deflate,
}

/// A request is compressed in a way that the server does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unsupported compression type")]
pub struct UnsupportedEncoding;

/// Why a body was not decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// There is no body.
    #[error("nothing to be decompressed")]
    Empty,
    /// It is larger than a body may be.
    #[error(
        "the request body is larger than {limit} bytes when decompressed; the limit is set by --max-body-mb"
    )]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

impl Encoding {
    /// Reads `Content-Encoding`, which must be exactly one of the names.
    ///
    /// # Errors
    ///
    /// [`UnsupportedEncoding`] for any other.
    pub fn of_request(header: Option<&[u8]>) -> Result<Encoding, UnsupportedEncoding> {
        match header {
            None | Some(b"identity") => Ok(Encoding::Identity),
            Some(b"gzip") => Ok(Encoding::Gzip),
            Some(b"deflate") => Ok(Encoding::Deflate),
            Some(_) => Err(UnsupportedEncoding),
        }
    }

    /// Picks from `Accept-Encoding`: the largest weight, of equal ones the first; names in lower case only, no `*`.
    pub fn of_response(header: Option<&[u8]>) -> Encoding {
        let mut best = (Encoding::Identity, 0.0);
        for item in header.unwrap_or_default().split(|&byte| byte == b',') {
            let Ok(item) = std::str::from_utf8(item) else { continue };
            let (name, weight) = match item.trim_start().split_once(";q=") {
                None => (item.trim_start(), 1.0),
                Some((name, weight)) => (name, weight.trim().parse().unwrap_or(0.0)),
            };
            let encoding = match name {
                "identity" => Encoding::Identity,
                "gzip" => Encoding::Gzip,
                "deflate" => Encoding::Deflate,
                _ => continue,
            };
            if weight > best.1 {
                best = (encoding, weight);
            }
        }
        best.0
    }

    /// Its name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Identity => "identity",
            Encoding::Gzip => "gzip",
            Encoding::Deflate => "deflate",
        }
    }
}

/// Decompresses a body that is gzip or zlib, whichever it was said to be.
///
/// What is cut off or damaged is decompressed as far as it goes, as by Triton: the tensor or the JSON in it is then
/// incomplete, and the error says so.
///
/// # Errors
///
/// [`DecompressError`] for an empty body, and for one that grows beyond `limit`.
pub fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    if body.is_empty() {
        return Err(DecompressError::Empty);
    }
    if body.starts_with(&[0x1f, 0x8b]) {
        inflate(GzDecoder::new(body), limit)
    } else {
        inflate(ZlibDecoder::new(body), limit)
    }
}

fn inflate(decoder: impl Read, limit: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    // An error in the middle leaves what came before it in `out`.
    let _ = decoder.take(limit as u64 + 1).read_to_end(&mut out);
    if out.len() > limit { Err(DecompressError::TooLarge { limit }) } else { Ok(out) }
}

/// Compresses a body.
///
/// The fastest level is enough: what is worth compressing here are the digits of random-looking numbers, and the
/// slowest level makes them hardly smaller.
pub fn compress(body: Vec<u8>, encoding: Encoding) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let out = Vec::with_capacity(body.len() / 2 + 64);
    let compressed = match encoding {
        Encoding::Identity => return body,
        Encoding::Gzip => {
            let mut encoder = GzEncoder::new(out, level);
            encoder.write_all(&body).and_then(|()| encoder.finish())
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(out, level);
            encoder.write_all(&body).and_then(|()| encoder.finish())
        }
    };
    // Writing into a vector does not fail.
    compressed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let body = b"0.1,0.2,0.3,".repeat(100);
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let small = compress(body.clone(), encoding);
            assert!(small.len() < body.len() / 2);
            assert_eq!(decompress(&small, body.len()), Ok(body.clone()));
            assert_eq!(decompress(&small, 100), Err(DecompressError::TooLarge { limit: 100 }));
            let cut = decompress(&small[..small.len() / 2], body.len()).unwrap();
            assert!(body.starts_with(&cut));
        }
        assert_eq!(decompress(b"", 10), Err(DecompressError::Empty));
        assert_eq!(decompress(b"neither of both", 10), Ok(vec![]));
    }

    #[test]
    fn accept_encoding() {
        let pick = |header: &str| Encoding::of_response(Some(header.as_bytes()));
        assert_eq!(Encoding::of_response(None), Encoding::Identity);
        assert_eq!(pick("gzip, deflate"), Encoding::Gzip);
        assert_eq!(pick("gzip;q=0.5, deflate;q=0.9"), Encoding::Deflate);
        assert_eq!(pick("gzip;q=0"), Encoding::Identity);
        assert_eq!(pick("identity, gzip;q=0.5"), Encoding::Identity);
        for ignored in ["", "br", "GZIP", "*", "x-gzip", "gzip;q=x"] {
            assert_eq!(pick(ignored), Encoding::Identity, "{ignored}");
        }
    }
}
