//! The program's log: to standard error, filtered by `--log`, and by clients of the server while it runs.

use std::io::IsTerminal;

use siglip_server::LogControl;
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

/// Starts the log. What is returned changes its level for good.
pub(crate) fn start(filter: &str) -> LogControl {
    let filter = EnvFilter::builder().parse_lossy(filter);
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    LogControl::new(move |level: Option<Level>| {
        let level = level.map_or_else(|| "off".to_owned(), |level| level.to_string());
        // It fails only when the log is gone, and then there is nothing to filter.
        let _ = handle.reload(EnvFilter::new(level));
    })
}
