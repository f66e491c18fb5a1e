//! What both towers do around a pass: checks before, copies and checks after.

use siglip::engine::{EngineError, EngineInfo, Input};

use crate::path::{Layout, Path};

/// Rows of activations that a thread works on at once: enough that fetching the weights costs nothing beside the
/// multiplication, few enough that a layer's input stays in the thread's own cache while all panels pass by.
const ROWS_OF_A_THREAD: usize = 256;
/// The same for a tile unit, beside whose speed fetching the weights takes longer.
const ROWS_OF_A_TILED_THREAD: usize = 384;

/// Items of one pass: larger batches are computed in several. Each thread gets at least one item of its own.
pub(crate) fn items_at_once<P: Path>(positions: usize, threads: usize, max_batch_size: usize) -> usize {
    let rows = match P::LAYOUT {
        Layout::Rows => ROWS_OF_A_THREAD,
        Layout::Blocks => ROWS_OF_A_TILED_THREAD,
    };
    (rows * threads / positions.max(1)).max(threads).clamp(1, max_batch_size.max(1))
}

/// Items of each pass when `items` are divided as evenly as passes of at most `most` allow.
pub(crate) fn even_share(items: usize, most: usize) -> usize {
    items.div_ceil(items.div_ceil(most).max(1)).max(1)
}

/// The number of items, once `input` and `output`, counted in values, fit each other and the engine.
pub(crate) fn check_sizes(info: &EngineInfo, input: usize, output: usize) -> Result<usize, EngineError> {
    if !input.is_multiple_of(info.input_len) {
        return Err(EngineError::WrongInput {
            tower: info.tower,
            expected: format!("rows of {} values", info.input_len),
            got: format!("{input} values"),
        });
    }
    let items = input / info.input_len;
    if items == 0 || items > info.max_batch_size {
        return Err(EngineError::BatchSize { got: items, max: info.max_batch_size });
    }
    if output != items * info.embedding_size {
        return Err(EngineError::WrongInput {
            tower: info.tower,
            expected: format!("room for {} values of output", items * info.embedding_size),
            got: format!("room for {output}"),
        });
    }
    Ok(items)
}

pub(crate) fn other_tower(info: &EngineInfo, input: &Input<'_>) -> EngineError {
    let (expected, got) = match input {
        Input::TokenIds(_) => ("pixel values", "token ids"),
        Input::PixelValues(_) => ("token ids", "pixel values"),
    };
    EngineError::WrongInput { tower: info.tower, expected: expected.into(), got: got.into() }
}

pub(crate) fn check_ids(ids: &[u32], row_len: usize, vocab_size: usize) -> Result<(), EngineError> {
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(at) => {
            Err(EngineError::TokenId { id: ids[at], row: at / row_len, position: at % row_len, vocab_size })
        }
    }
}

pub(crate) fn check_finite(output: &[f32], row_len: usize) -> Result<(), EngineError> {
    match output.chunks(row_len).position(|row| !row.iter().all(|x| x.is_finite())) {
        None => Ok(()),
        Some(row) => Err(EngineError::NotFinite { row }),
    }
}

/// Copies the first `width` values of each row.
pub(crate) fn copy_rows(source: &[f32], stride: usize, target: &mut [f32], width: usize) {
    for (source, target) in source.chunks(stride).zip(target.chunks_mut(width)) {
        target.copy_from_slice(&source[..width]);
    }
}

/// A pointer that the threads of a pass share; each writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

impl<T> Shared<T> {
    /// A method, so that closures capture the whole wrapper and not the bare pointer.
    pub(crate) fn pointer(self) -> *mut T {
        self.0
    }
}

// SAFETY: only a place in memory; whoever writes through it says which part is whose.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}
