//! How the server is set up.

pub use crate::batcher::QueuePolicy;
pub use crate::settings::LogControl;
pub use crate::trace::TraceOptions;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port for HTTP; 0 for any that is free.
    pub http_port: u16,
    /// The port for gRPC; 0 for any that is free.
    pub grpc_port: u16,
    /// The port for metrics; 0 for any that is free.
    pub metrics_port: u16,
    /// How long a batch that is not full waits for more rows while the engine is idle. At 0 an idle engine never
    /// waits: batches form while it is busy.
    pub max_queue_delay: Duration,
    /// The most rows that wait in a tower's queue; a request that would make it more is refused at once.
    pub max_queue_size: usize,
    /// How requests wait.
    pub queue_policy: QueuePolicy,
    /// What each text tower's cache of results may take, in bytes; 0 for no cache.
    pub cache_bytes: u64,
    /// How long the server goes on, once told to stop, to finish what it took in.
    pub shutdown_grace: Duration,
    /// The largest body of a request, before and after decompression.
    pub max_body_bytes: usize,
    /// The most connections that are open at once, over HTTP and gRPC together; more wait to be accepted.
    pub max_connections: usize,
    /// How long a connection may take for a request's headers, idle time before them included. Over gRPC: for its first
    /// bytes; after as long a silence a client is asked whether it is still there.
    pub header_timeout: Duration,
    /// How long a request's body may come to a standstill; and how long it may arrive too slowly. The same of an answer
    /// that its client does not take.
    pub body_timeout: Duration,
    /// Threads that tokenise texts, and decode and resize images.
    pub preparation_threads: usize,
    /// How often an idle engine is asked something whose answer is known, to see that it still knows it; zero for never.
    pub canary_interval: Duration,
    /// How long requests may wait with no batch ending before the server says that it is not alive.
    pub stuck_after: Duration,
    /// The form in which endpoints of two generations are shown.
    pub compat: Compat,
    /// Who says which models are loaded.
    pub model_control: ModelControl,
    /// What changes the log's level when a client asks for it; without it, such settings are kept and mean nothing.
    pub log: Option<LogControl>,
    /// Where and how requests are traced; without it none is, whatever clients set.
    pub trace: Option<TraceOptions>,
}

/// Which generation's form the metadata of `siglip_text` and `siglip_vision` show. Both take either form's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// The older's: token ids and pixel values.
    #[default]
    Page,
    /// The successor's, where both are ensembles: texts and image files.
    Ensemble,
}

/// Who says which models are loaded, as Triton's `--model-control-mode` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelControl {
    /// All are, for as long as the server runs.
    #[default]
    None,
    /// Clients load and unload them. All are loaded at start.
    Explicit,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_port: 8000,
            grpc_port: 8001,
            metrics_port: 8002,
            max_queue_delay: Duration::ZERO,
            max_queue_size: 1024,
            queue_policy: QueuePolicy::default(),
            cache_bytes: 0,
            shutdown_grace: Duration::from_secs(30),
            // A batch of 32 images at 384 pixels is 57 MB in binary, and 293 MB in JSON as Python writes it: an f32 with the
            // digits of a double.
            max_body_bytes: 512 << 20,
            max_connections: 4096,
            header_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            preparation_threads: std::thread::available_parallelism().map_or(1, usize::from),
            canary_interval: Duration::from_secs(600),
            stuck_after: Duration::from_secs(300),
            compat: Compat::default(),
            model_control: ModelControl::default(),
            log: None,
            trace: None,
        }
    }
}
