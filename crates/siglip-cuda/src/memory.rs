//! Memory of the card, and memory of the host that the card copies from and to.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use crate::error::CudaError;
use crate::ffi::driver::{DevicePointer, OUT_OF_MEMORY};
use crate::gpu::Gpu;
use crate::stream::Stream;

/// A run of the card's memory.
pub(crate) struct DeviceBuffer {
    gpu: Arc<Gpu>,
    pointer: DevicePointer,
    bytes: usize,
}

impl DeviceBuffer {
    /// Takes `bytes` (at least one) of memory for `what`, as an error would call it. Its content is arbitrary.
    pub(crate) fn new(gpu: &Arc<Gpu>, what: &str, bytes: usize) -> Result<DeviceBuffer, CudaError> {
        let bytes = bytes.max(1);
        let mut pointer = 0;
        // SAFETY: writes one address.
        match unsafe { (gpu.driver().cuMemAlloc_v2)(&raw mut pointer, bytes) } {
            OUT_OF_MEMORY => {
                let (free, total) = gpu.memory()?;
                return Err(CudaError::OutOfMemory {
                    index: gpu.index,
                    what: what.into(),
                    needed: bytes,
                    free,
                    total,
                });
            }
            code => gpu.check("cuMemAlloc", code)?,
        }
        Ok(DeviceBuffer { gpu: Arc::clone(gpu), pointer, bytes })
    }

    /// Memory that holds `content`.
    pub(crate) fn with(gpu: &Arc<Gpu>, what: &str, content: &[u8]) -> Result<DeviceBuffer, CudaError> {
        let buffer = DeviceBuffer::new(gpu, what, content.len())?;
        buffer.upload(content)?;
        Ok(buffer)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of it.
    pub(crate) fn view(&self) -> View<'_> {
        View { pointer: self.pointer, bytes: self.bytes, buffer: PhantomData }
    }

    /// Copies `content`, which must fit, to its beginning, and waits until it is there.
    pub(crate) fn upload(&self, content: &[u8]) -> Result<(), CudaError> {
        assert!(content.len() <= self.bytes, "{} bytes into {}", content.len(), self.bytes);
        // SAFETY: both sides have as many bytes.
        let code = unsafe {
            (self.gpu.driver().cuMemcpyHtoD_v2)(self.pointer, content.as_ptr().cast(), content.len())
        };
        self.gpu.check("cuMemcpyHtoD", code)?;
        // That returns once the content is in the driver's own memory. The rest of its way is in the default stream, which
        // no stream of ours waits for.
        // SAFETY: the null handle is the default stream.
        let code = unsafe { (self.gpu.driver().cuStreamSynchronize)(ptr::null_mut()) };
        self.gpu.check("cuStreamSynchronize", code)
    }

    /// Copies bytes from `offset` on, which must be there, and waits for them. Streams are not waited for.
    pub(crate) fn download(&self, offset: usize, content: &mut [u8]) -> Result<(), CudaError> {
        assert!(offset + content.len() <= self.bytes, "{} bytes of {}", offset + content.len(), self.bytes);
        let source = self.pointer + offset as u64;
        // SAFETY: both sides have as many bytes.
        let code = unsafe {
            (self.gpu.driver().cuMemcpyDtoH_v2)(content.as_mut_ptr().cast(), source, content.len())
        };
        self.gpu.check("cuMemcpyDtoH", code)
    }

    /// Fills it with copies of its first `period` bytes, in the stream.
    pub(crate) fn repeat(&self, period: usize, stream: &Stream) -> Result<(), CudaError> {
        let mut filled = period.min(self.bytes);
        while filled > 0 && filled < self.bytes {
            let more = filled.min(self.bytes - filled);
            // SAFETY: `filled + more` bytes are there, and the two runs do not overlap.
            let code = unsafe {
                let target = self.pointer + filled as u64;
                (self.gpu.driver().cuMemcpyDtoDAsync_v2)(target, self.pointer, more, stream.handle())
            };
            self.gpu.check("cuMemcpyDtoDAsync", code)?;
            filled += more;
        }
        Ok(())
    }

    /// Zeroes it, in the stream.
    pub(crate) fn zero(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: the buffer has as many bytes, and outlives the stream's work as all of an engine does.
        let code =
            unsafe { (self.gpu.driver().cuMemsetD8Async)(self.pointer, 0, self.bytes, stream.handle()) };
        self.gpu.check("cuMemsetD8Async", code)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; freeing waits for what the card still does with it.
        unsafe {
            let _ = self.gpu.make_current();
            (self.gpu.driver().cuMemFree_v2)(self.pointer);
        }
    }
}

/// A part of a [`DeviceBuffer`]: from some byte to its end, unless it was cut off before.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pointer: DevicePointer,
    bytes: usize,
    buffer: PhantomData<&'a DeviceBuffer>,
}

impl View<'_> {
    /// The part after its first `bytes`.
    pub(crate) fn skip(self, bytes: usize) -> Self {
        assert!(bytes <= self.bytes, "{bytes} bytes of {}", self.bytes);
        View { pointer: self.pointer + bytes as u64, bytes: self.bytes - bytes, ..self }
    }

    /// One of the parts of `bytes` that it begins with, and nothing of what follows.
    pub(crate) fn part(self, index: usize, bytes: usize) -> Self {
        let rest = self.skip(index * bytes);
        assert!(bytes <= rest.bytes, "{bytes} bytes of {}", rest.bytes);
        View { bytes, ..rest }
    }

    /// Its address, for work that touches nothing past its first `bytes`.
    ///
    /// # Panics
    ///
    /// If it is shorter: a launch was put together wrongly. This holds every launch to its buffers, when it is recorded.
    pub(crate) fn holding(self, bytes: usize) -> DevicePointer {
        assert!(bytes <= self.bytes, "{bytes} bytes of {}", self.bytes);
        self.pointer
    }
}

/// Host memory that stays where it is, so that the card can copy from and to it while the host goes on.
pub(crate) struct PinnedBuffer {
    gpu: Arc<Gpu>,
    pointer: *mut c_void,
    bytes: usize,
}

// SAFETY: it owns its memory, as a Vec does.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    pub(crate) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<PinnedBuffer, CudaError> {
        let bytes = bytes.max(1);
        let mut pointer = ptr::null_mut();
        // SAFETY: writes one address.
        let code = unsafe { (gpu.driver().cuMemAllocHost_v2)(&raw mut pointer, bytes) };
        gpu.check("cuMemAllocHost", code)?;
        // SAFETY: as many bytes were allocated; they are zeroed so that they may be read.
        unsafe { ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(PinnedBuffer { gpu: Arc::clone(gpu), pointer, bytes })
    }

    /// Its content.
    ///
    /// # Safety
    ///
    /// The card must not write to it as long as the result lives.
    pub(crate) unsafe fn as_bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised by `new`.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.bytes) }
    }

    /// Its content, to be written.
    ///
    /// # Safety
    ///
    /// The card must neither read from it nor write to it as long as the result lives.
    pub(crate) unsafe fn as_mut_bytes(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes) }
    }

    /// Starts a copy of its first `bytes` to the card.
    pub(crate) fn upload(&self, to: &DeviceBuffer, bytes: usize, stream: &Stream) -> Result<(), CudaError> {
        assert!(bytes <= self.bytes.min(to.bytes), "{bytes} bytes from {} into {}", self.bytes, to.bytes);
        // SAFETY: both sides have as many bytes, and outlive the copy: an engine waits before it drops them.
        let code = unsafe {
            (self.gpu.driver().cuMemcpyHtoDAsync_v2)(to.pointer, self.pointer, bytes, stream.handle())
        };
        self.gpu.check("cuMemcpyHtoDAsync", code)
    }

    /// Starts a copy of `bytes` at `from` to its bytes from `offset` on.
    pub(crate) fn download(
        &self,
        offset: usize,
        from: &DeviceBuffer,
        bytes: usize,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        assert!(offset + bytes <= self.bytes && bytes <= from.bytes, "{bytes} bytes into {}", self.bytes);
        // SAFETY: as above.
        let code = unsafe {
            let target = self.pointer.cast::<u8>().add(offset).cast();
            (self.gpu.driver().cuMemcpyDtoHAsync_v2)(target, from.pointer, bytes, stream.handle())
        };
        self.gpu.check("cuMemcpyDtoHAsync", code)
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; nothing copies any more.
        unsafe {
            let _ = self.gpu.make_current();
            (self.gpu.driver().cuMemFreeHost)(self.pointer);
        }
    }
}
