//! The program's log: to standard error, filtered by `--log`, and by clients of the server while it runs.

use std::io::IsTerminal;

use siglip_server::LogControl;
use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

/// Checks what `--log` says.
///
/// # Errors
///
/// What is wrong with it and what is allowed.
pub(crate) fn filter(text: &str) -> Result<String, String> {
    // A word that is no level would pass for the name of a target, and nothing else be logged.
    let is_unknown = |part: &&str| !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err();
    if let Some(part) = text.split(',').find(is_unknown) {
        return Err(format!(
            "`{part}` is not a level: off, error, warn, info, debug, trace, or target=level"
        ));
    }
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Starts the log with a filter that was checked. What is returned changes its level for good.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_the_log_is_refused() {
        for good in ["info", "WARN", "off", "siglip=debug", "warn,siglip_server=trace,siglip=off"] {
            assert_eq!(filter(good).as_deref(), Ok(good));
        }
        for (bad, words) in [
            ("verbose", "`verbose` is not a level"),
            ("info,sigl", "`sigl`"),
            ("siglip=loud", "level filter"),
        ] {
            let error = filter(bad).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
