//! How many files and connections may be open at once.

/// Sees to it that so many files and connections can be open at once, as far as the system lets this process: what it
/// is allowed before it asks is often 1,024.
#[cfg(unix)]
pub(crate) fn allow(count: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limits = getrlimit(Resource::Nofile);
    let Some(current) = limits.current.filter(|&current| current < count) else { return };
    let wanted = limits.maximum.map_or(count, |maximum| maximum.min(count));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limits });
    let allowed = if raised.is_ok() { wanted } else { current };
    if allowed < count {
        tracing::warn!(
            "{allowed} files and connections may be open at once, and {count} would be needed: see ulimit -n"
        );
    }
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub(crate) fn allow(_count: u64) {}
