//! Zeroed, aligned memory for weights and scratch.

use std::marker::PhantomData;

use memmap2::MmapMut;

/// A fixed block of `len` zeroed values, aligned to a cache line, or to a huge page (and asked for as huge pages)
/// from [`HUGE_FROM`] up: a forward pass walks through hundreds of megabytes of weights, and with 4 KiB pages it would
/// miss the TLB at every one.
pub(crate) struct Buffer<T> {
    map: MmapMut,
    offset: usize,
    len: usize,
    of: PhantomData<T>,
}

const HUGE_PAGE: usize = 2 << 20;
/// From which size huge pages are asked for: activations of this size would need more small pages than the first TLB has
/// entries for.
const HUGE_FROM: usize = 256 << 10;

/// Values that may be all zero bits and may be read as whatever bits they hold.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for crate::path::RowScale {}

impl<T: Plain> Buffer<T> {
    /// Room for `len` zeroes. The pages are taken when first written.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses the address space.
    pub(crate) fn zeroed(len: usize) -> std::io::Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(std::io::ErrorKind::OutOfMemory)?.max(1);
        let huge = bytes >= HUGE_FROM;
        let map = MmapMut::map_anon(if huge { bytes + HUGE_PAGE } else { bytes })?;
        let mut offset = 0;
        if huge {
            offset = map.as_ptr().align_offset(HUGE_PAGE);
            #[cfg(target_os = "linux")]
            if let Err(error) = map.advise(memmap2::Advice::HugePage) {
                tracing::debug!("no huge pages for {bytes} bytes: {error}");
            }
        }
        Ok(Buffer { map, offset, len, of: PhantomData })
    }

    /// A copy of `values`, padded with zeroes to `len`.
    pub(crate) fn padded(values: &[T], len: usize) -> std::io::Result<Self> {
        let mut buffer = Self::zeroed(len.max(values.len()))?;
        buffer.as_mut_slice()[..values.len()].copy_from_slice(values);
        Ok(buffer)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    pub(crate) fn as_ptr(&self) -> *const T {
        self.map.as_ptr().wrapping_add(self.offset).cast()
    }

    /// For kernels that write from several threads; the pointer carries the whole block.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.map.as_mut_ptr().wrapping_add(self.offset).cast()
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: `len` values lie within the mapping from `offset` on, aligned, and any bits are a value of T.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let len = self.len;
        // SAFETY: as for `as_slice`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), len) }
    }
}
