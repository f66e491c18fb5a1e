//! A JSON reader that builds no document.
//!
//! A text is first [checked](parse) as a whole, in one pass that neither recurses nor allocates more than a bit
//! per open bracket; then [`Value`] walks over it lazily. An inference request is a few hundred bytes around one long
//! array of numbers: reading those few bytes twice is much cheaper than building a tree of them, and the array is
//! read straight into the tensor.
//!
//! Errors carry the words and the byte offset that RapidJSON gives, because Triton's clients are shown them.

mod data;
mod syntax;
mod text;
mod value;

pub use data::{DataError, count_scalars, read_f32, read_i64, read_other, read_strings};
pub use syntax::{MAX_DEPTH, SyntaxError, SyntaxErrorKind, parse};
pub use text::{unescape, write_string};
pub use value::{AccessError, Element, Kind, Member, Value};
