//! The order of work on a card: streams, events between them, and graphs that replay what a stream was given.

use std::ffi::c_uint;
use std::ptr;
use std::sync::Arc;

use crate::error::CudaError;
use crate::ffi::driver::{CAPTURE_THREAD_LOCAL, EVENT_DISABLE_TIMING, Handle, STREAM_NON_BLOCKING};
use crate::gpu::Gpu;

/// A queue of work that runs in order.
pub(crate) struct Stream {
    gpu: Arc<Gpu>,
    handle: Handle,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Stream {}

impl Stream {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Stream, CudaError> {
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (gpu.driver().cuStreamCreate)(&raw mut handle, STREAM_NON_BLOCKING) };
        gpu.check("cuStreamCreate", code)?;
        Ok(Stream { gpu: Arc::clone(gpu), handle })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// Waits until everything in it is done. Failures of kernels show here.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the handle is open.
        let code = unsafe { (self.gpu.driver().cuStreamSynchronize)(self.handle) };
        self.gpu.check("cuStreamSynchronize", code)
    }

    /// Lets what comes next in this stream wait for the event as it was last recorded.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both handles are open.
        let code = unsafe { (self.gpu.driver().cuStreamWaitEvent)(self.handle, event.handle, 0) };
        self.gpu.check("cuStreamWaitEvent", code)
    }

    /// Records what `work` puts into this stream, instead of doing it.
    pub(crate) fn capture(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        let driver = self.gpu.driver();
        // SAFETY: the handle is open.
        let code = unsafe { (driver.cuStreamBeginCapture_v2)(self.handle, CAPTURE_THREAD_LOCAL) };
        self.gpu.check("cuStreamBeginCapture", code)?;
        let worked = work();
        let mut graph = ptr::null_mut();
        // SAFETY: ends the capture that began above, also after a failure, so that the stream can be used again.
        let ended = unsafe { (driver.cuStreamEndCapture)(self.handle, &raw mut graph) };
        let mut executable = ptr::null_mut();
        let instantiated = worked.and_then(|()| {
            self.gpu.check("cuStreamEndCapture", ended)?;
            // SAFETY: the capture ended, so the graph is one.
            let code = unsafe { (driver.cuGraphInstantiateWithFlags)(&raw mut executable, graph, 0) };
            self.gpu.check("cuGraphInstantiate", code)
        });
        if !graph.is_null() {
            // SAFETY: it is needed no more, whether it was instantiated or not.
            unsafe { (driver.cuGraphDestroy)(graph) };
        }
        instantiated.map(|()| Graph { gpu: Arc::clone(&self.gpu), executable })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: opened by `new`; what is still in it is done first.
        unsafe {
            let _ = self.gpu.make_current();
            (self.gpu.driver().cuStreamSynchronize)(self.handle);
            (self.gpu.driver().cuStreamDestroy_v2)(self.handle);
        }
    }
}

/// A point in a stream, for another one or the host to wait for.
pub(crate) struct Event {
    gpu: Arc<Gpu>,
    handle: Handle,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Event {}

impl Event {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Event, CudaError> {
        Event::with(gpu, EVENT_DISABLE_TIMING)
    }

    /// One that knows when it was passed, which NVIDIA advises against where nobody asks.
    pub(crate) fn timed(gpu: &Arc<Gpu>) -> Result<Event, CudaError> {
        Event::with(gpu, 0)
    }

    fn with(gpu: &Arc<Gpu>, flags: c_uint) -> Result<Event, CudaError> {
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (gpu.driver().cuEventCreate)(&raw mut handle, flags) };
        gpu.check("cuEventCreate", code)?;
        Ok(Event { gpu: Arc::clone(gpu), handle })
    }

    /// Marks the end of what is in the stream so far.
    pub(crate) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both handles are open.
        let code = unsafe { (self.gpu.driver().cuEventRecord)(self.handle, stream.handle) };
        self.gpu.check("cuEventRecord", code)
    }

    /// Waits until the stream has come to it; at once if it was never recorded.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the handle is open.
        let code = unsafe { (self.gpu.driver().cuEventSynchronize)(self.handle) };
        self.gpu.check("cuEventSynchronize", code)
    }

    /// Milliseconds from an earlier event to this one. Both are [timed](Event::timed) and must have passed.
    pub(crate) fn milliseconds_since(&self, earlier: &Event) -> Result<f32, CudaError> {
        let mut milliseconds = 0.0;
        // SAFETY: writes one float.
        let code = unsafe {
            (self.gpu.driver().cuEventElapsedTime)(&raw mut milliseconds, earlier.handle, self.handle)
        };
        self.gpu.check("cuEventElapsedTime", code)?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: opened by `new`.
        unsafe {
            let _ = self.gpu.make_current();
            (self.gpu.driver().cuEventDestroy_v2)(self.handle);
        }
    }
}

/// A recorded sequence of launches, which costs the host one call.
pub(crate) struct Graph {
    gpu: Arc<Gpu>,
    executable: Handle,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Graph {}

impl Graph {
    pub(crate) fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both handles are open, and the memory that the graph uses lives as long as its engine.
        let code = unsafe { (self.gpu.driver().cuGraphLaunch)(self.executable, stream.handle) };
        self.gpu.check("cuGraphLaunch", code)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated by `Stream::capture`.
        unsafe {
            let _ = self.gpu.make_current();
            (self.gpu.driver().cuGraphExecDestroy)(self.executable);
        }
    }
}
