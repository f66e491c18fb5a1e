//! The SigLIP model: its configuration, weights and tokenizer, a reference forward pass, and the contract that
//! engines implement.
//!
//! [`model::Model::open`] reads a model folder in the Hub's layout. [`mod@reference`] computes embeddings the
//! slow and plain way; engines compute the same ones behind [`engine::Engine`]. With the feature `hub`, the module
//! `hub` fetches such folders. This crate knows nothing of
//! servers, of SIMD or of GPUs.
//!
//! The model is described in *Sigmoid Loss for Language Image Pre-Training*, Zhai et al. 2023
//! (<https://arxiv.org/abs/2303.15343>), and *SigLIP 2*, Tschannen et al. 2025
//! (<https://arxiv.org/abs/2502.14786>).
#![deny(unsafe_code)]

pub mod config;
pub mod engine;
#[cfg(feature = "hub")]
pub mod hub;
pub mod image;
pub mod knn;
pub mod model;
pub mod preprocessor;
pub mod profile;
pub mod prompt;
pub mod reference;
pub mod similarity;
pub mod tokenizer;
pub mod weights;
