//! The contract between a model's tower and whatever computes it.
//!
//! An engine owns one tower (text or vision) with its weights, its threads and its scratch memory. It takes plain
//! slices and fills a plain slice: no tensor type, nothing of servers, nothing of files. The batcher, the command
//! line and the benchmarks all speak to a CPU or a GPU through this one trait.

use std::fmt;

/// One tower of a SigLIP model, ready to compute embeddings.
///
/// An engine computes one batch at a time. A device that takes several at once, such as a card that copies one while it
/// computes another, has an engine for each, with the same [`EngineInfo::device`], which share weights and take turns.
///
/// Two promises hold for every implementation and are tested for each:
///
/// - **Determinism.** A row's bits depend on that row's input alone, not on the batch size, the row's place in the
///   batch, or its neighbours.
/// - **No wrong answer.** An output that is not finite is an [`EngineError::NotFinite`], never a vector.
pub trait Engine: Send {
    /// What this engine is and what it needs, fixed at build time.
    fn info(&self) -> &EngineInfo;

    /// Computes the embeddings (`pooler_output`, not normalised) of a batch of rows.
    ///
    /// `input` holds `n` rows of [`EngineInfo::input_len`] values each, with `1 <= n <= max_batch_size`; `output`
    /// holds exactly `n` rows of [`EngineInfo::embedding_size`] values. In the steady state nothing is allocated.
    ///
    /// # Errors
    ///
    /// [`EngineError::WrongInput`], [`EngineError::BatchSize`] and [`EngineError::TokenId`] for what the caller
    /// sent, before anything is computed; [`EngineError::NotFinite`] and [`EngineError::Device`] for what went wrong
    /// while computing, after which the engine can be used again; [`EngineError::Lost`] if it cannot.
    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError>;
}

/// A batch of rows for one tower.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids, `[n, context_length]`, row-major.
    TokenIds(&'a [u32]),
    /// Normalised pixels, `[n, channels, height, width]`, row-major.
    PixelValues(&'a [f32]),
}

impl Input<'_> {
    /// The number of values over all rows.
    pub fn len(&self) -> usize {
        match self {
            Input::TokenIds(ids) => ids.len(),
            Input::PixelValues(pixels) => pixels.len(),
        }
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tower that this input is for.
    pub fn tower(&self) -> Tower {
        match self {
            Input::TokenIds(_) => Tower::Text,
            Input::PixelValues(_) => Tower::Vision,
        }
    }
}

/// One of the two halves of a SigLIP model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tower {
    /// Token ids in, text embeddings out.
    Text,
    /// Pixels in, image embeddings out.
    Vision,
}

impl fmt::Display for Tower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tower::Text => "text",
            Tower::Vision => "vision",
        })
    }
}

/// The number format in which an engine computes its matrix products. Sums are f32 in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single precision throughout.
    F32,
    /// bfloat16 operands (8 bits of significand), f32 accumulation and residual stream.
    Bf16,
    /// 8-bit integer operands: a scale per output channel for weights, per row for activations.
    Int8,
    /// IEEE half-precision operands, f32 accumulation (GPU).
    F16,
    /// 8-bit floating-point operands (e4m3) with a scale per tensor (GPU).
    Fp8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
            Precision::F16 => "f16",
            Precision::Fp8 => "fp8",
        })
    }
}

/// What an engine is and what it needs.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// The tower that it computes.
    pub tower: Tower,
    /// Where it computes: `cpu`, `cuda:0`.
    pub device: String,
    /// On an NVIDIA card: its UUID as NVIDIA's tools write it, `GPU-…`.
    pub card_uuid: Option<String>,
    /// The precision of its matrix products.
    pub precision: Precision,
    /// The kernels that were chosen for this machine, e.g. `avx512-bf16`.
    pub kernels: String,
    /// Threads that compute, the calling one included. 1 on a GPU.
    pub threads: usize,
    /// The most rows that one call of [`Engine::embed`] takes.
    pub max_batch_size: usize,
    /// Values of one row of input: the context length, or channels × height × width.
    pub input_len: usize,
    /// For the text tower: ids must be below this. 0 for the vision tower.
    pub vocab_size: usize,
    /// Values of one row of output.
    pub embedding_size: usize,
    /// Bytes held by the weights in the form in which they are used.
    pub weights_bytes: usize,
    /// Bytes of scratch memory, allocated once for the largest batch.
    pub scratch_bytes: usize,
    /// Floating-point operations (a multiply and an add are two) of the matrix products that this engine computes for
    /// one row. What it leaves out of a plain forward pass, because nobody reads it, is not counted: set against a
    /// peak, this must not make an engine look faster than its instructions.
    pub flop_per_item: f64,
}

impl EngineInfo {
    /// The token ids of a call of [`Engine::embed`] with room for `output_len` values, once all is well: it is the text tower,
    /// rows are whole, there are some and not too many, there is room for as many embeddings, ids are in the vocabulary.
    ///
    /// # Errors
    ///
    /// The first of these that is not so.
    pub fn token_ids<'a>(&self, input: Input<'a>, output_len: usize) -> Result<&'a [u32], EngineError> {
        match (input, self.tower) {
            (Input::TokenIds(ids), Tower::Text) => {
                self.check_sizes(ids.len(), output_len)?;
                match ids.iter().position(|&id| id as usize >= self.vocab_size) {
                    None => Ok(ids),
                    Some(at) => Err(EngineError::TokenId {
                        id: ids[at],
                        row: at / self.input_len,
                        position: at % self.input_len,
                        vocab_size: self.vocab_size,
                    }),
                }
            }
            (input, _) => Err(self.other_tower(input)),
        }
    }

    /// The pixel values of a call of [`Engine::embed`], as [`token_ids`](Self::token_ids) has the ids.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pixel_values<'a>(&self, input: Input<'a>, output_len: usize) -> Result<&'a [f32], EngineError> {
        match (input, self.tower) {
            (Input::PixelValues(pixels), Tower::Vision) => {
                self.check_sizes(pixels.len(), output_len)?;
                Ok(pixels)
            }
            (input, _) => Err(self.other_tower(input)),
        }
    }

    /// Whether embeddings that were computed may be handed out.
    ///
    /// # Errors
    ///
    /// [`EngineError::NotFinite`] with the first row of `embeddings` in which a value is not.
    pub fn check_finite(&self, embeddings: &[f32]) -> Result<(), EngineError> {
        match embeddings.chunks(self.embedding_size).position(|row| !row.iter().all(|x| x.is_finite())) {
            None => Ok(()),
            Some(row) => Err(EngineError::NotFinite { row }),
        }
    }

    fn check_sizes(&self, input_len: usize, output_len: usize) -> Result<(), EngineError> {
        let wrong = |expected, got| EngineError::WrongInput { tower: self.tower, expected, got };
        if !input_len.is_multiple_of(self.input_len) {
            return Err(wrong(format!("rows of {} values", self.input_len), format!("{input_len} values")));
        }
        let items = input_len / self.input_len;
        if items == 0 || items > self.max_batch_size {
            return Err(EngineError::BatchSize { got: items, max: self.max_batch_size });
        }
        if output_len != items * self.embedding_size {
            let expected = format!("room for {} values of output", items * self.embedding_size);
            return Err(wrong(expected, format!("room for {output_len}")));
        }
        Ok(())
    }

    fn other_tower(&self, input: Input<'_>) -> EngineError {
        let kind = |tower| match tower {
            Tower::Text => "token ids",
            Tower::Vision => "pixel values",
        };
        let (expected, got) = (kind(self.tower).into(), kind(input.tower()).into());
        EngineError::WrongInput { tower: self.tower, expected, got }
    }
}

/// Why a batch was not computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The input is for the other tower, or its length or the output's does not fit.
    #[error("the {tower} tower takes {expected}, got {got}")]
    WrongInput {
        /// The tower that was called.
        tower: Tower,
        /// What it takes.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// No rows, or more than the engine was built for.
    #[error("a batch has 1 to {max} rows, got {got}")]
    BatchSize {
        /// Rows in the call.
        got: usize,
        /// The most rows allowed.
        max: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} at row {row}, position {position} is outside the vocabulary (0 to {})", vocab_size.saturating_sub(1))]
    TokenId {
        /// The offending id.
        id: u32,
        /// Its row in the batch.
        row: usize,
        /// Its position in the row.
        position: usize,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// The result has a NaN or an infinity, so it is withheld.
    #[error("the embedding of row {row} is not finite: the input or the weights hold values out of range")]
    NotFinite {
        /// The first row concerned.
        row: usize,
    },
    /// Weights that are read as they are needed could not be.
    #[error("the weights file could not be read: {0}")]
    Weights(#[from] std::io::Error),
    /// The device failed.
    #[error("{0}")]
    Device(String),
    /// The device failed in such a way that this engine cannot be used again, nor can others on that device.
    #[error("{0}; the device cannot be used again by this process")]
    Lost(String),
}
