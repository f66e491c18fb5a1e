//! The program `siglip`.
fn main() {}
