//! Whole engines on the emulated machine.
