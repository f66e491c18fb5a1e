//! A card: its context, its memory, what it is.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use siglip::engine::Precision;

use crate::error::CudaError;
use crate::ffi::driver::{self, Driver, Handle};
use crate::ffi::{Libraries, cublaslt};

/// CUDA 12.0: the oldest driver that code of pip's current NVRTC and cuBLASLt runs on.
const OLDEST_DRIVER: c_int = 12000;
/// Ampere: the first generation with bf16 tensor cores and asynchronous copies.
pub(crate) const OLDEST_CAPABILITY: (i32, i32) = (8, 0);
/// Ada: the first with fp8 tensor cores.
pub(crate) const FP8_CAPABILITY: (i32, i32) = (8, 9);

/// An open card. Engines on it share it; the last one closes it.
pub(crate) struct Gpu {
    pub(crate) libraries: Libraries,
    pub(crate) index: usize,
    pub(crate) name: String,
    /// As NVIDIA's tools write it: `GPU-…`.
    pub(crate) uuid: String,
    /// Compute capability, major and minor.
    pub(crate) capability: (i32, i32),
    pub(crate) blas: cublaslt::Handle,
    device: c_int,
    context: Handle,
}

// SAFETY: the driver's and cuBLASLt's handles may be used from any thread; the driver's calls are thread-safe, given a
// current context, which `make_current` sets, and a cuBLASLt handle carries no state of a call.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Opens a card, counted from 0 as the driver does, and makes it the current one of this thread.
    ///
    /// # Errors
    ///
    /// [`CudaError`]: no card, a card or a driver too old, or what the driver says.
    pub(crate) fn open(libraries: &Libraries, index: usize) -> Result<Arc<Gpu>, CudaError> {
        let driver = &*libraries.driver;
        let count = card_count(driver)?;
        if index >= count {
            return Err(CudaError::CardIndex { index, count });
        }
        let mut device = 0;
        // SAFETY: writes one int.
        driver.check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&raw mut device, index as c_int) })?;
        let name = card_name(driver, device)?;
        let capability = card_capability(driver, device)?;
        if capability < OLDEST_CAPABILITY {
            return Err(CudaError::OldCard { index, name, capability });
        }
        let uuid = card_uuid(driver, device)?;
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle, for a device that is there.
        let code = unsafe { (driver.cuDevicePrimaryCtxRetain)(&raw mut context, device) };
        driver.check("cuDevicePrimaryCtxRetain", code)?;
        // From here on the context is released when `gpu` is dropped.
        let libraries = libraries.clone();
        let mut gpu =
            Gpu { libraries, index, name, uuid, capability, blas: ptr::null_mut(), device, context };
        gpu.make_current()?;
        let blas = &gpu.libraries.cublaslt;
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle; a context is current.
        blas.check("cublasLtCreate", unsafe { (blas.cublasLtCreate)(&raw mut handle) })?;
        gpu.blas = handle;
        Ok(Arc::new(gpu))
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.libraries.driver
    }

    /// Makes this card the one that the thread's calls go to.
    pub(crate) fn make_current(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained for as long as `self` lives.
        let code = unsafe { (self.driver().cuCtxSetCurrent)(self.context) };
        self.check("cuCtxSetCurrent", code)
    }

    pub(crate) fn check(&self, call: &'static str, code: driver::Code) -> Result<(), CudaError> {
        self.driver().check(call, code)
    }

    /// Bytes free and bytes in all.
    pub(crate) fn memory(&self) -> Result<(usize, usize), CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        let code = unsafe { (self.driver().cuMemGetInfo_v2)(&raw mut free, &raw mut total) };
        self.check("cuMemGetInfo", code)?;
        Ok((free, total))
    }

    /// Whether its tensor cores have a precision.
    pub(crate) fn check_precision(&self, precision: Precision) -> Result<(), CudaError> {
        if precision == Precision::Fp8 && self.capability < FP8_CAPABILITY {
            let (index, name, capability) = (self.index, self.name.clone(), self.capability);
            return Err(CudaError::NoFp8 { index, name, capability });
        }
        Ok(())
    }

    /// Whether `needed` bytes are free, before any of them is taken: nothing is ever lowered to fit.
    pub(crate) fn check_memory(&self, what: &str, needed: usize) -> Result<(), CudaError> {
        let (free, total) = self.memory()?;
        if needed > free {
            return Err(CudaError::OutOfMemory { index: self.index, what: what.into(), needed, free, total });
        }
        Ok(())
    }

    /// The compute capability as NVRTC counts it: 90 for 9.0.
    pub(crate) fn arch(&self) -> i32 {
        self.capability.0 * 10 + self.capability.1
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: both were opened by `open` and nothing that uses them is left: everything on the card holds an `Arc` of
        // this. What they return is of no use to anyone any more.
        unsafe {
            if !self.blas.is_null() {
                (self.libraries.cublaslt.cublasLtDestroy)(self.blas);
            }
            (self.driver().cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

/// The number of cards, once the driver is up and new enough.
pub(crate) fn card_count(driver: &Driver) -> Result<usize, CudaError> {
    // SAFETY: may be called any number of times.
    match unsafe { (driver.cuInit)(0) } {
        driver::NO_DEVICE => return Err(CudaError::NoCard),
        code => driver.check("cuInit", code)?,
    }
    let version = driver_version(driver)?;
    if version < OLDEST_DRIVER {
        return Err(CudaError::OldDriver { version, needed: OLDEST_DRIVER });
    }
    let mut count = 0;
    // SAFETY: writes one int.
    driver.check("cuDeviceGetCount", unsafe { (driver.cuDeviceGetCount)(&raw mut count) })?;
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(CudaError::NoCard),
    }
}

/// The CUDA version that the driver supports, as 1000 × major + 10 × minor.
pub(crate) fn driver_version(driver: &Driver) -> Result<i32, CudaError> {
    let mut version = 0;
    // SAFETY: writes one int.
    driver.check("cuDriverGetVersion", unsafe { (driver.cuDriverGetVersion)(&raw mut version) })?;
    Ok(version)
}

pub(crate) fn card_name(driver: &Driver, device: c_int) -> Result<String, CudaError> {
    let mut name: [c_char; 256] = [0; 256];
    // SAFETY: writes a C string of at most the length that is given.
    let code = unsafe { (driver.cuDeviceGetName)(name.as_mut_ptr(), name.len() as c_int - 1, device) };
    driver.check("cuDeviceGetName", code)?;
    // SAFETY: the last byte is zero whatever was written.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

fn card_uuid(driver: &Driver, device: c_int) -> Result<String, CudaError> {
    let mut bytes = [0; 16];
    // SAFETY: writes 16 bytes.
    let code = unsafe { (driver.cuDeviceGetUuid_v2)(&raw mut bytes, device) };
    driver.check("cuDeviceGetUuid", code)?;
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let groups: Vec<&str> =
        [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().filter_map(|at| digits.get(at)).collect();
    Ok(format!("GPU-{}", groups.join("-")))
}

pub(crate) fn card_capability(driver: &Driver, device: c_int) -> Result<(i32, i32), CudaError> {
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: writes one int.
        let code = unsafe { (driver.cuDeviceGetAttribute)(&raw mut value, which, device) };
        driver.check("cuDeviceGetAttribute", code)?;
        Ok(value)
    };
    Ok((attribute(driver::CAPABILITY_MAJOR)?, attribute(driver::CAPABILITY_MINOR)?))
}

/// Bytes of memory that a card has.
pub(crate) fn card_memory(driver: &Driver, device: c_int) -> Result<usize, CudaError> {
    let mut bytes = 0;
    // SAFETY: writes one size.
    driver.check("cuDeviceTotalMem", unsafe { (driver.cuDeviceTotalMem_v2)(&raw mut bytes, device) })?;
    Ok(bytes)
}

/// A compiled module's kernels on a card.
pub(crate) struct Module {
    gpu: Arc<Gpu>,
    module: Handle,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Module {}

impl Module {
    /// Loads machine code, or assembly that the driver compiles.
    pub(crate) fn load(gpu: &Arc<Gpu>, image: &[u8]) -> Result<Module, CudaError> {
        let mut module = ptr::null_mut();
        // SAFETY: the image is one of NVRTC's, which says its own length.
        let code =
            unsafe { (gpu.driver().cuModuleLoadData)(&raw mut module, image.as_ptr().cast::<c_void>()) };
        gpu.check("cuModuleLoadData", code)?;
        Ok(Module { gpu: Arc::clone(gpu), module })
    }

    pub(crate) fn function(&self, name: &CStr) -> Result<Handle, CudaError> {
        let mut function = ptr::null_mut();
        // SAFETY: writes one handle, which is valid as long as the module is loaded.
        let code =
            unsafe { (self.gpu.driver().cuModuleGetFunction)(&raw mut function, self.module, name.as_ptr()) };
        self.gpu.check("cuModuleGetFunction", code)?;
        Ok(function)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: nothing is running any more: the engine waits for its streams before its parts are dropped. A context
        // is set since a drop may come on any thread.
        unsafe {
            let _ = self.gpu.make_current();
            (self.gpu.driver().cuModuleUnload)(self.module);
        }
    }
}
