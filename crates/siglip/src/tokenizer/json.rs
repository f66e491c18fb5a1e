//! Reads a `tokenizer.json`, the file format of the `tokenizers` library, as far as it matters here.

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A whole file.
#[derive(serde::Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    pub(super) model: Model,
}

/// A string that is recognised before the model sees the text.
#[derive(serde::Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) normalized: bool,
}

/// The model: unigram or BPE. What only one of them has is optional.
#[derive(serde::Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) vocab: Vocabulary,
    #[serde(default)]
    pub(super) merges: Vec<Merge>,
    pub(super) unk_id: Option<u32>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
}

/// The pieces: a list with scores for a unigram model, a map to ids for BPE.
pub(super) enum Vocabulary {
    Scores(Vec<(String, f64)>),
    Ids(HashMap<String, u32>),
}

/// Two pieces that become one, in the order of their priority: `["a", "b"]`, or `"a b"` in older files.
pub(super) struct Merge(pub(super) String, pub(super) String);

/// Reads the bytes of a `tokenizer.json`. The error is a clause that says what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<TokenizerFile, String> {
    serde_json::from_slice(bytes)
        .map_err(|error| format!("it is not JSON of the form of a tokenizer.json: {error}"))
}

impl TokenizerFile {
    /// SentencePiece's normalisation table, wherever it stands among the normalisers; empty if there is none.
    pub(super) fn charsmap(&self) -> Result<Vec<u8>, String> {
        let parts = self.normalizer.get("normalizers").and_then(Value::as_array).map(Vec::as_slice);
        let parts = parts.unwrap_or_else(|| std::slice::from_ref(&self.normalizer));
        let table = parts.iter().find_map(|part| part.get("precompiled_charsmap")).and_then(Value::as_str);
        BASE64_STANDARD
            .decode(table.unwrap_or_default())
            .map_err(|error| format!("its normalisation table is not base64: {error}"))
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrMap;
        impl<'de> Visitor<'de> for ListOrMap {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pieces with scores, or a map from pieces to ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut scores = Vec::new();
                while let Some(piece) = list.next_element()? {
                    scores.push(piece);
                }
                Ok(Vocabulary::Scores(scores))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut ids = HashMap::new();
                while let Some((piece, id)) = map.next_entry()? {
                    ids.insert(piece, id);
                }
                Ok(Vocabulary::Ids(ids))
            }
        }
        deserializer.deserialize_any(ListOrMap)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairOrString;
        impl<'de> Visitor<'de> for PairOrString {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two pieces, as a list or with a space between them")
            }

            fn visit_str<E: Error>(self, pair: &str) -> Result<Merge, E> {
                let (left, right) =
                    pair.split_once(' ').ok_or_else(|| E::custom("a merge has two pieces"))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Merge, A::Error> {
                match (pair.next_element()?, pair.next_element()?, pair.next_element::<String>()?) {
                    (Some(left), Some(right), None) => Ok(Merge(left, right)),
                    _ => Err(A::Error::custom("a merge has two pieces")),
                }
            }
        }
        deserializer.deserialize_any(PairOrString)
    }
}
