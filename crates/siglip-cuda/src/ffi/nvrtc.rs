//! NVRTC's functions. Names and types are those of `nvrtc.h`.

use std::ffi::{c_char, c_int, c_void};

use super::{Library, function_table};

/// `nvrtcProgram`: an address that only NVRTC reads.
pub(crate) type Program = *mut c_void;

function_table! {
    /// The run-time compiler, `libnvrtc.so`.
    Nvrtc from Library::Nvrtc;
    fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int;
    fn nvrtcGetErrorString(result: c_int) -> *const c_char;
    fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> c_int;
    fn nvrtcGetSupportedArchs(archs: *mut c_int) -> c_int;
    fn nvrtcCreateProgram(
        program: *mut Program,
        source: *const c_char,
        name: *const c_char,
        headers: c_int,
        header_sources: *const *const c_char,
        header_names: *const *const c_char,
    ) -> c_int;
    fn nvrtcDestroyProgram(program: *mut Program) -> c_int;
    fn nvrtcCompileProgram(program: Program, options: c_int, option: *const *const c_char) -> c_int;
    fn nvrtcGetProgramLogSize(program: Program, bytes: *mut usize) -> c_int;
    fn nvrtcGetProgramLog(program: Program, log: *mut c_char) -> c_int;
    fn nvrtcGetCUBINSize(program: Program, bytes: *mut usize) -> c_int;
    fn nvrtcGetCUBIN(program: Program, cubin: *mut c_char) -> c_int;
    fn nvrtcGetPTXSize(program: Program, bytes: *mut usize) -> c_int;
    fn nvrtcGetPTX(program: Program, ptx: *mut c_char) -> c_int;
}
