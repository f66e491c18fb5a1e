//! What both towers do around a pass: how many items it has, and copies after it.

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
