//! Zeroed, aligned memory for weights and scratch.

use std::marker::PhantomData;

use memmap2::MmapMut;

/// A fixed block of `len` zeroed values, aligned to a cache line, or to a huge page (and asked for as huge pages) if it
/// fills half of one: a forward pass walks through hundreds of megabytes of weights, and with 4 KiB pages it would miss the
/// TLB at every one.
pub(crate) struct Buffer<T> {
    map: MmapMut,
    offset: usize,
    len: usize,
    of: PhantomData<T>,
}

const HUGE_PAGE: usize = 2 << 20;
/// From which size scratch memory is on huge pages though it fills none: it has more small pages than the first TLB has
/// entries, and there are few such buffers.
const HUGE_SCRATCH: usize = 256 << 10;

/// Values that may be all zero bits and may be read as whatever bits they hold.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for crate::path::RowScale {}

impl<T: Plain> Buffer<T> {
    /// Room for `len` zeroes. The pages are taken when first written. What fills less than half of a huge page is on small
    /// ones: a model has more than a hundred such buffers.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses the address space.
    pub(crate) fn zeroed(len: usize) -> std::io::Result<Self> {
        let bytes = size_in_bytes::<T>(len)?;
        Self::map(len, bytes, (bytes + HUGE_PAGE / 2) / HUGE_PAGE * HUGE_PAGE)
    }

    /// The same for memory that every pass goes through: if large, all of it is on huge pages, the rest of the last one
    /// unused.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::zeroed`].
    pub(crate) fn scratch(len: usize) -> std::io::Result<Self> {
        let bytes = size_in_bytes::<T>(len)?;
        Self::map(len, bytes, if bytes >= HUGE_SCRATCH { bytes.next_multiple_of(HUGE_PAGE) } else { 0 })
    }

    fn map(len: usize, bytes: usize, huge: usize) -> std::io::Result<Self> {
        // Room to begin at a huge page.
        let map = MmapMut::map_anon(if huge > 0 { bytes.max(huge) + HUGE_PAGE } else { bytes })?;
        let mut offset = 0;
        if huge > 0 {
            offset = map.as_ptr().align_offset(HUGE_PAGE);
            #[cfg(target_os = "linux")]
            if let Err(error) = map.advise_range(memmap2::Advice::HugePage, offset, huge) {
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

fn size_in_bytes<T>(len: usize) -> std::io::Result<usize> {
    Ok(len.checked_mul(size_of::<T>()).ok_or(std::io::ErrorKind::OutOfMemory)?.max(1))
}
