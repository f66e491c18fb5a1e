//! Ctrl-C and SIGTERM: what runs finishes its batch and ends cleanly; a second signal ends it at once, as does the first
//! while a model is fetched and opened: what has come of it by then is kept.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on, once the model is there, the first signal only sets [`requested`].
pub(crate) fn on_signals() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            // Temporary files stay behind; none carries an output's name.
            std::process::exit(130);
        }
    })
    .map_err(|error| Failure::System { what: "a signal handler", error: std::io::Error::other(error) })
}

/// Whether a signal came.
pub(crate) fn requested() -> bool {
    STOP.load(Ordering::Relaxed)
}
