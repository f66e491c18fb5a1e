//! cuBLASLt's functions. Names, types and values are those of `cublasLt.h`, `cublas_api.h` and `library_types.h`, the same
//! in CUDA 12 and 13.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::{Library, function_table};
use crate::error::CudaError;

/// Handles, descriptors, layouts and preferences: addresses that only cuBLASLt reads.
pub(crate) type Handle = *mut c_void;

/// `CUDA_R_32F`.
pub(crate) const R_32F: c_int = 0;
/// `CUDA_R_16F`.
pub(crate) const R_16F: c_int = 2;
/// `CUDA_R_16BF`.
pub(crate) const R_16BF: c_int = 14;
/// `CUDA_R_8F_E4M3`.
pub(crate) const R_8F_E4M3: c_int = 28;
/// `CUBLAS_COMPUTE_32F`: sums in f32, and for f32 operands no TF32, which has a type of its own (77).
pub(crate) const COMPUTE_32F: c_int = 68;
/// `CUBLAS_OP_T`.
pub(crate) const OP_T: i32 = 1;

/// `CUBLASLT_MATMUL_DESC_TRANSA`.
pub(crate) const DESC_TRANSA: c_int = 3;
/// `CUBLASLT_MATMUL_DESC_EPILOGUE`.
pub(crate) const DESC_EPILOGUE: c_int = 7;
/// `CUBLASLT_MATMUL_DESC_BIAS_POINTER`.
pub(crate) const DESC_BIAS_POINTER: c_int = 8;
/// `CUBLASLT_MATMUL_DESC_A_SCALE_POINTER`: the address of an f32 on the card that A is multiplied by, as B and D with theirs.
pub(crate) const DESC_A_SCALE_POINTER: c_int = 17;
/// `CUBLASLT_MATMUL_DESC_B_SCALE_POINTER`.
pub(crate) const DESC_B_SCALE_POINTER: c_int = 18;
/// `CUBLASLT_MATMUL_DESC_D_SCALE_POINTER`: applied last, and only where D is fp8.
pub(crate) const DESC_D_SCALE_POINTER: c_int = 20;
/// `CUBLASLT_MATMUL_DESC_FAST_ACCUM`: for e4m3 operands, sums of fewer bits than f32 has, at nearly twice the rate on Hopper.
pub(crate) const DESC_FAST_ACCUM: c_int = 25;
/// `CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE`: D's type unless it is said.
pub(crate) const DESC_BIAS_DATA_TYPE: c_int = 26;
/// `CUBLASLT_EPILOGUE_DEFAULT`: nothing.
pub(crate) const EPILOGUE_DEFAULT: u32 = 1;
/// `CUBLASLT_EPILOGUE_BIAS`.
pub(crate) const EPILOGUE_BIAS: u32 = 4;
/// `CUBLASLT_EPILOGUE_GELU_BIAS`: the bias first, then GELU in its tanh form.
pub(crate) const EPILOGUE_GELU_BIAS: u32 = 36;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`.
pub(crate) const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK`: 0 rules out splitting k over blocks, whose parts then have to be added.
pub(crate) const PREF_REDUCTION_SCHEME_MASK: c_int = 3;
/// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES` and those of B, C and D: 256 unless it is said to be less.
pub(crate) const PREF_MIN_ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];

/// `cublasLtMatmulAlgo_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Algorithm {
    data: [u64; 8],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct HeuristicResult {
    pub(crate) algorithm: Algorithm,
    pub(crate) workspace_bytes: usize,
    pub(crate) state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

function_table! {
    /// The matrix products, `libcublasLt.so`.
    CublasLt from Library::CublasLt;
    fn cublasLtGetVersion() -> usize;
    fn cublasLtGetStatusName(status: c_int) -> *const c_char;
    fn cublasLtCreate(handle: *mut Handle) -> c_int;
    fn cublasLtDestroy(handle: Handle) -> c_int;
    fn cublasLtMatmulDescCreate(description: *mut Handle, compute: c_int, scale: c_int) -> c_int;
    fn cublasLtMatmulDescDestroy(description: Handle) -> c_int;
    fn cublasLtMatmulDescSetAttribute(
        description: Handle, attribute: c_int, value: *const c_void, bytes: usize
    ) -> c_int;
    fn cublasLtMatrixLayoutCreate(layout: *mut Handle, number: c_int, rows: u64, columns: u64, ld: i64) -> c_int;
    fn cublasLtMatrixLayoutDestroy(layout: Handle) -> c_int;
    fn cublasLtMatmulPreferenceCreate(preference: *mut Handle) -> c_int;
    fn cublasLtMatmulPreferenceDestroy(preference: Handle) -> c_int;
    fn cublasLtMatmulPreferenceSetAttribute(
        preference: Handle, attribute: c_int, value: *const c_void, bytes: usize
    ) -> c_int;
    fn cublasLtMatmulAlgoGetHeuristic(
        handle: Handle, description: Handle, a: Handle, b: Handle, c: Handle, d: Handle,
        preference: Handle, requested: c_int, results: *mut HeuristicResult, returned: *mut c_int,
    ) -> c_int;
    fn cublasLtMatmul(
        handle: Handle, description: Handle, alpha: *const c_void, a: *const c_void, a_layout: Handle,
        b: *const c_void, b_layout: Handle, beta: *const c_void, c: *const c_void, c_layout: Handle,
        d: *mut c_void, d_layout: Handle, algorithm: *const Algorithm,
        workspace: *mut c_void, workspace_bytes: usize, stream: *mut c_void,
    ) -> c_int;
}

impl CublasLt {
    /// Turns a status into an error that says what failed.
    pub(crate) fn check(&self, call: &'static str, status: c_int) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: takes any status, and returns a string that lives as long as the library, or null.
        let name = unsafe { (self.cublasLtGetStatusName)(status) };
        let name = if name.is_null() {
            "an unknown status".into()
        } else {
            // SAFETY: not null, so a C string.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        Err(CudaError::Blas { call, status, name })
    }
}
