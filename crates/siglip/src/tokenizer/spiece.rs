//! Reads a `spiece.model`: SentencePiece's `ModelProto` (`src/sentencepiece_model.proto`), as far as it matters here.

use super::unigram::{Piece, PieceKind};

/// The parts of a SentencePiece model that encoding needs.
pub(super) struct SentencePieceModel {
    pub(super) pieces: Vec<Piece>,
    pub(super) charsmap: Vec<u8>,
    pub(super) byte_fallback: bool,
}

/// Reads the bytes of a `spiece.model`. The error is a clause that says what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<SentencePieceModel, String> {
    let mut model = SentencePieceModel { pieces: vec![], charsmap: vec![], byte_fallback: false };
    let (mut has_trainer, mut has_normalizer) = (false, false);
    for field in Message(bytes) {
        match field? {
            (1, Value::Bytes(piece)) => {
                let number = model.pieces.len();
                model.pieces.push(parse_piece(piece).map_err(|error| format!("piece {number}: {error}"))?);
            }
            (2, Value::Bytes(trainer)) => {
                parse_trainer(trainer, &mut model)?;
                has_trainer = true;
            }
            (3, Value::Bytes(normalizer)) => {
                parse_normalizer(normalizer, &mut model)?;
                has_normalizer = true;
            }
            _ => {}
        }
    }
    // Both follow the pieces: without them the file was cut short between two pieces.
    if model.pieces.is_empty() || !has_trainer || !has_normalizer {
        return Err(
            "it is cut short or no SentencePiece model: pieces, training or normalisation is missing"
                .to_owned(),
        );
    }
    Ok(model)
}

fn parse_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in Message(bytes) {
        match field? {
            (1, Value::Bytes(text)) => {
                piece.text = str::from_utf8(text).map_err(|error| format!("its text: {error}"))?.to_owned();
            }
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Varint(kind)) => {
                piece.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    other => return Err(format!("its type is {other}, not 1 to 6")),
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn parse_trainer(bytes: &[u8], model: &mut SentencePieceModel) -> Result<(), String> {
    const UNIGRAM: u64 = 1;
    for field in Message(bytes) {
        match field? {
            (3, Value::Varint(kind)) if kind != UNIGRAM => {
                return Err(format!(
                    "it is a model of type {kind}, but only unigram models (1) are supported"
                ));
            }
            (24, Value::Varint(suffix)) if suffix != 0 => {
                return Err("it takes white space as a suffix, which is not supported".to_owned());
            }
            (35, Value::Varint(byte_fallback)) => model.byte_fallback = byte_fallback != 0,
            _ => {}
        }
    }
    Ok(())
}

fn parse_normalizer(bytes: &[u8], model: &mut SentencePieceModel) -> Result<(), String> {
    for field in Message(bytes) {
        match field? {
            (2, Value::Bytes(charsmap)) => model.charsmap = charsmap.to_vec(),
            // Field 3 asks for a dummy prefix; SigLIP's tokenizer turns it off and puts its own.
            (4, Value::Varint(0)) => {
                return Err("it keeps extra white space, which is not supported".to_owned());
            }
            (5, Value::Varint(0)) => {
                return Err("it does not escape white space, which is not supported".to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

/// A protobuf message: the iterator over its fields, as number and value, in the order of the bytes.
struct Message<'a>(&'a [u8]);

enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// Eight bytes; nothing here has them.
    Fixed64,
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            // Nothing after a broken field can be understood.
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "it is cut short or is no protobuf message".to_owned()))
    }
}

impl<'a> Message<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_messages_are_errors() {
        for (bytes, why) in [
            (&[][..], "pieces, training or normalisation is missing"),
            (&[0x0a, 0x05, 0x0a], "cut short"),
            (&[0xff; 12], "cut short"),
            (&[0x0b], "cut short"),
            (&[0x0a, 0x03, 0x0a, 0x01, 0xff], "piece 0: its text"),
            (&[0x0a, 0x02, 0x18, 0x07], "piece 0: its type is 7"),
            (&[0x12, 0x02, 0x18, 0x02], "type 2"),
        ] {
            let error = parse(bytes).err().unwrap_or_default();
            assert!(error.contains(why), "{bytes:x?}: {error}");
        }
    }
}
