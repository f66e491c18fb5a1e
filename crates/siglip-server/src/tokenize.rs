//! What the server asks of a tokenizer.

/// Turns texts into the token ids that the text tower takes.
pub trait Tokenize: Send + Sync {
    /// The ids of `text`, padded to the model's context length.
    ///
    /// # Errors
    ///
    /// [`TokenizeError::TooLong`] if the text has more tokens than the context holds, unless `truncate` is set: then
    /// it is cut.
    fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>, TokenizeError>;
}

/// Why a text has no token ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// It has more tokens than the context holds.
    #[error(
        "the text has {tokens} tokens and the model takes {context}: shorten it, or set the parameter 'truncation' to \
         true to have it cut"
    )]
    TooLong {
        /// The tokens of the text, its end included.
        tokens: usize,
        /// What the context holds.
        context: usize,
    },
    /// Anything else that the tokenizer has to say.
    #[error("{0}")]
    Other(String),
}
