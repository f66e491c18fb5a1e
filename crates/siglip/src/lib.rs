//! The SigLIP model.
pub mod engine;
