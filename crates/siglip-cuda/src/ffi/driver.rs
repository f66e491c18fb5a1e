//! The driver's functions. Names, types and values are those of `cuda.h`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::{Library, function_table};
use crate::error::CudaError;

/// `CUresult`.
pub(crate) type Code = c_int;
/// `CUdeviceptr`.
pub(crate) type DevicePointer = u64;
/// `CUcontext`, `CUstream` and the like: addresses that only the driver reads.
pub(crate) type Handle = *mut c_void;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub(crate) const OUT_OF_MEMORY: Code = 2;
/// `CUDA_ERROR_NO_DEVICE`.
pub(crate) const NO_DEVICE: Code = 100;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`.
pub(crate) const CAPABILITY_MAJOR: c_int = 75;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`.
pub(crate) const CAPABILITY_MINOR: c_int = 76;
/// `CU_STREAM_NON_BLOCKING`.
pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub(crate) const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: other threads may go on calling the driver while a graph is captured.
pub(crate) const CAPTURE_THREAD_LOCAL: c_int = 1;

function_table! {
    /// The driver, `libcuda.so.1`.
    Driver from Library::Driver;
    fn cuInit(flags: c_uint) -> Code;
    fn cuDriverGetVersion(version: *mut c_int) -> Code;
    fn cuGetErrorName(error: Code, name: *mut *const c_char) -> Code;
    fn cuGetErrorString(error: Code, text: *mut *const c_char) -> Code;
    fn cuDeviceGetCount(count: *mut c_int) -> Code;
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code;
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> Code;
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> Code;
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> Code;
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> Code;
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> Code;
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Code;
    fn cuCtxSetCurrent(context: Handle) -> Code;
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code;
    fn cuMemAlloc_v2(pointer: *mut DevicePointer, bytes: usize) -> Code;
    fn cuMemFree_v2(pointer: DevicePointer) -> Code;
    fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) -> Code;
    fn cuMemFreeHost(pointer: *mut c_void) -> Code;
    fn cuMemcpyHtoD_v2(target: DevicePointer, source: *const c_void, bytes: usize) -> Code;
    fn cuMemcpyDtoH_v2(target: *mut c_void, source: DevicePointer, bytes: usize) -> Code;
    fn cuMemcpyHtoDAsync_v2(target: DevicePointer, source: *const c_void, bytes: usize, stream: Handle) -> Code;
    fn cuMemcpyDtoHAsync_v2(target: *mut c_void, source: DevicePointer, bytes: usize, stream: Handle) -> Code;
    fn cuMemcpyDtoDAsync_v2(target: DevicePointer, source: DevicePointer, bytes: usize, stream: Handle) -> Code;
    fn cuMemsetD8Async(target: DevicePointer, value: u8, bytes: usize, stream: Handle) -> Code;
    fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> Code;
    fn cuStreamDestroy_v2(stream: Handle) -> Code;
    fn cuStreamSynchronize(stream: Handle) -> Code;
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> Code;
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_int) -> Code;
    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> Code;
    fn cuEventCreate(event: *mut Handle, flags: c_uint) -> Code;
    fn cuEventDestroy_v2(event: Handle) -> Code;
    fn cuEventRecord(event: Handle, stream: Handle) -> Code;
    fn cuEventSynchronize(event: Handle) -> Code;
    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> Code;
    fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64) -> Code;
    fn cuGraphLaunch(executable: Handle, stream: Handle) -> Code;
    fn cuGraphExecDestroy(executable: Handle) -> Code;
    fn cuGraphDestroy(graph: Handle) -> Code;
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> Code;
    fn cuModuleUnload(module: Handle) -> Code;
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> Code;
    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared_bytes: c_uint,
        stream: Handle,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> Code;
}

impl Driver {
    /// Turns a result into an error that says what failed.
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        let (mut name, mut meaning) = (std::ptr::null(), std::ptr::null());
        // SAFETY: both write the address of a string that lives as long as the driver, or nothing for an unknown code.
        let (name, meaning) = unsafe {
            (self.cuGetErrorName)(code, &raw mut name);
            (self.cuGetErrorString)(code, &raw mut meaning);
            (string(name, "an unknown error"), string(meaning, "of which the driver says nothing"))
        };
        Err(CudaError::Driver { call, code, name, meaning })
    }
}

/// # Safety
///
/// `text` is null or a C string.
unsafe fn string(text: *const c_char, otherwise: &str) -> String {
    if text.is_null() {
        return otherwise.to_owned();
    }
    // SAFETY: as the caller guarantees.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
