//! From text to token ids, exactly as the model saw text in training.
//!
//! Two families: SigLIP 1 has a SentencePiece unigram model behind a canonicalisation that deletes punctuation,
//! SigLIP 2 has Gemma's byte-pair encoding. Both are implemented here in full and not by way of the
//! `tokenizers` crate: its unigram normaliser differs from SentencePiece's on combining marks, and the
//! published `tokenizer.json` of SigLIP 1 differs from the truth, `transformers`' slow `SiglipTokenizer`, on
//! `/`, `<` and `>`. What both files have in common, the pieces and the normalisation table, is all that is
//! taken from either.

mod bpe;
mod canonical;
mod charsmap;
mod json;
mod siglip;
mod spiece;
mod trie;
mod unigram;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::TextConfig;
use bpe::Bpe;
use json::Vocabulary;
use siglip::Siglip;

/// A tokenizer: text in, exactly [`Tokenizer::context_length`] token ids out. It can be used from many threads
/// at once.
pub struct Tokenizer {
    family: Family,
    context_length: usize,
    lower_case: bool,
    warnings: Vec<String>,
}

impl Tokenizer {
    /// The SentencePiece model's name in a folder. It is preferred where there is also the other file.
    pub const SPIECE: &'static str = "spiece.model";
    /// The name of the `tokenizers` library's file in a folder.
    pub const JSON: &'static str = "tokenizer.json";
    /// The bytes of a text that are looked at. Encoding takes some 60 bytes of memory for each, and a text of so many
    /// fills any context, unless it is nearly all punctuation.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Opens the tokenizer of a model folder: [`Tokenizer::SPIECE`], or else [`Tokenizer::JSON`].
    ///
    /// # Errors
    ///
    /// [`TokenizerError`], if neither is there, or the one that is read is not valid or not of SigLIP's kind.
    pub fn open(dir: &Path, config: &TextConfig) -> Result<Tokenizer, TokenizerError> {
        let read = |name| {
            let file = dir.join(name);
            match fs::read(&file) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(TokenizerError::Io { file, error }),
            }
        };
        let spiece = read(Self::SPIECE)?;
        let json = if spiece.is_none() { read(Self::JSON)? } else { None };
        Self::from_bytes(json.as_deref(), spiece.as_deref(), config)
    }

    /// Reads a tokenizer from the bytes of its files, of which one is enough.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::open`].
    pub fn from_bytes(
        tokenizer_json: Option<&[u8]>,
        spiece: Option<&[u8]>,
        config: &TextConfig,
    ) -> Result<Tokenizer, TokenizerError> {
        let (file, family) = match (spiece, tokenizer_json) {
            (Some(bytes), _) => {
                (Self::SPIECE, Siglip::from_spiece(bytes).map(|siglip| (Family::Siglip(siglip), vec![])))
            }
            (None, Some(bytes)) => (Self::JSON, family_of_json(bytes)),
            (None, None) => return Err(TokenizerError::Absent),
        };
        let (family, mut warnings) = family.map_err(|reason| TokenizerError::Invalid { file, reason })?;
        let pieces = family.pieces();
        if pieces > config.vocab_size {
            warnings.push(format!(
                "It has {pieces} pieces, but the model's vocabulary has {}: texts with a token beyond it are refused.",
                config.vocab_size
            ));
        }
        for warning in &warnings {
            tracing::warn!("{file}: {warning}");
        }
        Ok(Tokenizer { family, context_length: config.max_position_embeddings, lower_case: true, warnings })
    }

    /// The number of ids that every text becomes.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The token ids of a text: its tokens, an end token, and padding, [`Tokenizer::context_length`] in all.
    ///
    /// # Errors
    ///
    /// [`TokenizeError::TooLong`], if the tokens and the end token are more than that;
    /// [`TokenizeError::TooManyBytes`], if the text is beyond [`Tokenizer::MAX_BYTES`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        if text.len() > Self::MAX_BYTES {
            return Err(TokenizeError::TooManyBytes { bytes: text.len(), limit: Self::MAX_BYTES });
        }
        let mut ids = self.tokens(text);
        self.end(&mut ids);
        if ids.len() > self.context_length {
            return Err(TokenizeError::TooLong { tokens: ids.len(), limit: self.context_length });
        }
        self.pad(&mut ids);
        Ok(ids)
    }

    /// As [`Tokenizer::encode`], but of a text that is too long the tokens that fit are kept, as
    /// `truncation=True` does in `transformers`: the first [`Tokenizer::context_length`] − 1, then the end
    /// token. What is beyond [`Tokenizer::MAX_BYTES`] is cut before anything else.
    pub fn encode_truncated(&self, text: &str) -> Vec<u32> {
        let mut ids = self.tokens(&text[..text.floor_char_boundary(Self::MAX_BYTES)]);
        ids.truncate(self.context_length - 1);
        self.end(&mut ids);
        self.pad(&mut ids);
        ids
    }

    /// What is wrong with the tokenizer's file though it can be used, one sentence each. They were also logged
    /// when it was opened.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether text is put in lower case. True unless [`Tokenizer::set_lower_case`] was called.
    pub fn lower_case(&self) -> bool {
        self.lower_case
    }

    /// Sets whether text is put in lower case. Both families were trained on lower case; `transformers` before
    /// 5 did not do it for SigLIP 2, and false gives its ids.
    pub fn set_lower_case(&mut self, lower_case: bool) {
        self.lower_case = lower_case;
    }

    /// The tokens of a text, without an end token unless the text has one itself.
    fn tokens(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.context_length);
        match &self.family {
            Family::Siglip(siglip) => siglip.encode(text, self.lower_case, &mut ids),
            Family::Siglip2(bpe) => bpe.encode(text, self.lower_case, &mut ids),
        }
        ids
    }

    fn end(&self, ids: &mut Vec<u32>) {
        match &self.family {
            // `SiglipTokenizer` does not repeat an end token that the text ends with, Gemma's tokenizer does.
            Family::Siglip(siglip) if ids.last() == Some(&siglip.end()) => {}
            Family::Siglip(siglip) => ids.push(siglip.end()),
            Family::Siglip2(bpe) => ids.push(bpe.end()),
        }
    }

    fn pad(&self, ids: &mut Vec<u32>) {
        let padding = match &self.family {
            Family::Siglip(siglip) => siglip.end(),
            Family::Siglip2(bpe) => bpe.padding(),
        };
        ids.resize(self.context_length, padding);
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match &self.family {
            Family::Siglip(_) => "SigLIP",
            Family::Siglip2(_) => "SigLIP 2",
        };
        write!(f, "Tokenizer({family}, {} pieces, context {})", self.family.pieces(), self.context_length)
    }
}

enum Family {
    Siglip(Siglip),
    Siglip2(Bpe),
}

impl Family {
    /// The size of the vocabulary.
    fn pieces(&self) -> usize {
        match self {
            Family::Siglip(siglip) => siglip.pieces(),
            Family::Siglip2(bpe) => bpe.pieces(),
        }
    }
}

/// What a `tokenizer.json` holds, and warnings about it.
fn family_of_json(bytes: &[u8]) -> Result<(Family, Vec<String>), String> {
    let file = json::parse(bytes)?;
    match (file.model.kind.as_str(), &file.model.vocab) {
        ("Unigram", Vocabulary::Scores(scores)) => {
            let (siglip, warnings) = Siglip::from_json(&file, scores)?;
            Ok((Family::Siglip(siglip), warnings))
        }
        ("BPE", Vocabulary::Ids(ids)) => Ok((Family::Siglip2(Bpe::from_json(&file, ids)?), vec![])),
        (kind, _) => Err(format!("its model is of type `{kind}`, but SigLIP's are `Unigram` or `BPE`")),
    }
}

/// Why a tokenizer could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// There is no file to read.
    #[error("there is no tokenizer: neither spiece.model nor tokenizer.json is there")]
    Absent,
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file is not a tokenizer of SigLIP's kind.
    #[error("{file} is not a tokenizer that can be used: {reason}")]
    Invalid {
        /// `spiece.model` or `tokenizer.json`.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a text has no token ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The text has more tokens than the model's context.
    #[error("the text has {tokens} tokens, end token included, but the model takes at most {limit}")]
    TooLong {
        /// Tokens of the text, its end token included.
        tokens: usize,
        /// The context length.
        limit: usize,
    },
    /// The text is so long that its tokens are not counted.
    #[error("the text has {bytes} bytes: beyond {limit} its tokens are not even counted")]
    TooManyBytes {
        /// Bytes of the text.
        bytes: usize,
        /// The most that is looked at.
        limit: usize,
    },
}
