//! The server: from sockets to engines and back.
//!
//! A request comes in through a door (HTTP or gRPC), is understood by `siglip-protocol`, finds its model in
//! the registry, is prepared (a text becomes token ids), waits in the queue of its tower's batcher, is computed
//! together with its neighbours, and goes back through the door that it came by. Every door shares what lies behind
//! it: one registry, one admission rule, one set of statistics.
//!
//! The program binds the ports first ([`BoundServer::bind`]), so that a port in use is reported before minutes are
//! spent on loading a model, and serves ([`BoundServer::serve`]) once the models are there.
#![forbid(unsafe_code)]

mod batcher;
mod cache;
mod cards;
mod catalogue;
mod control;
mod describe;
mod endpoint;
mod error;
mod grpc;
mod histogram;
mod http;
mod infer;
mod labels;
mod listener;
mod machine;
mod metrics;
mod options;
mod pace;
mod prepare;
mod regions;
mod registry;
mod runtime;
mod served;
mod server;
mod settings;
mod state;
mod statistics;
mod tokenize;
mod trace;
mod trace_update;

pub use error::ServeError;
pub use options::{Compat, LogControl, ModelControl, QueuePolicy, ServerOptions, TraceOptions};
pub use regions::MAX_REGIONS;
pub use runtime::runtime;
pub use served::{BuildEngines, ServedModel, ServedText, ServedVision, Similarity};
pub use server::BoundServer;
pub use tokenize::{Tokenize, TokenizeError};
