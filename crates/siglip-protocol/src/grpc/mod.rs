//! The protocol over gRPC: its messages, and what lies between them and the types that every door shares.

mod describe;
mod request;
mod response;

pub use request::GrpcRequestError;

/// The messages of `inference.proto`.
#[allow(missing_docs, clippy::doc_markdown, reason = "generated; the fields are Triton's, documented there")]
#[rustfmt::skip]
pub mod inference {
    include!("inference.rs");
}

/// The messages of gRPC's health service.
#[allow(missing_docs, reason = "generated")]
#[rustfmt::skip]
pub mod health {
    include!("health.rs");
}
