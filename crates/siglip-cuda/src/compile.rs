//! The kernels' sources, and their compilation for the card that is there.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use crate::error::CudaError;
use crate::ffi::nvrtc::{Nvrtc, Program};
use crate::number::Number;

/// A source file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) name: &'static CStr,
    text: &'static str,
}

macro_rules! sources {
    ($($source:ident $file:literal;)*) => {
        impl Source {
            $( pub(crate) const $source: Source = Source {
                name: match CStr::from_bytes_with_nul(concat!($file, "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("a file name has no zero byte"),
                },
                text: include_str!(concat!("../kernels/", $file)),
            }; )*
        }
    };
}
sources! {
    EMBEDDING "embedding.cu";
    LAYER_NORM "layer_norm.cu";
    ATTENTION "attention.cu";
    ATTENTION_ROWS "attention_rows.cu";
    DEVICE "device.cuh";
    NUMBER "number.cuh";
}

impl Source {
    /// Those that hold kernels.
    #[cfg(test)]
    pub(crate) const KERNELS: [Source; 4] =
        [Source::EMBEDDING, Source::LAYER_NORM, Source::ATTENTION, Source::ATTENTION_ROWS];
    /// Those that they include.
    const HEADERS: [Source; 2] = [Source::DEVICE, Source::NUMBER];
}

/// What kernels are compiled for: sizes that are constants to them, so that loops unroll and rows fit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Constants {
    pub(crate) number: Number,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Attention heads; `heads × head_dim` is `hidden`.
    pub(crate) heads: usize,
}

impl Constants {
    /// Values of one head.
    pub(crate) fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Machine code of a card's generation, e.g. 90.
    Machine(i32),
    /// Assembly, which the driver compiles for a card that is newer than the compiler.
    Assembly(i32),
}

impl Target {
    /// The best that this NVRTC can do for a card of this compute capability.
    pub(crate) fn of(nvrtc: &Nvrtc, arch: i32) -> Result<Target, CudaError> {
        let known = supported(nvrtc)?;
        let best = known.iter().copied().filter(|known| *known <= arch).max();
        Ok(match best {
            Some(best) if best == arch => Target::Machine(arch),
            // Machine code runs on later minor revisions of its generation, but assembly is compiled for the very card.
            Some(best) => Target::Assembly(best),
            None => Target::Machine(arch),
        })
    }

    fn option(self) -> String {
        match self {
            Target::Machine(arch) => format!("--gpu-architecture=sm_{arch}"),
            Target::Assembly(arch) => format!("--gpu-architecture=compute_{arch}"),
        }
    }

    fn name(self) -> String {
        self.option().trim_start_matches("--gpu-architecture=").to_owned()
    }
}

/// Compiles one source. Returns what [`crate::gpu::Module::load`] takes.
///
/// # Errors
///
/// [`CudaError::Compile`] with the compiler's log.
pub(crate) fn compile(
    nvrtc: &Nvrtc,
    source: Source,
    constants: &Constants,
    target: Target,
) -> Result<Vec<u8>, CudaError> {
    let job = Job::new(nvrtc, source, target)?;
    let log = job.compile(constants)?;
    tracing::debug!("{} for {}: {log}", source.name.to_string_lossy(), target.name());
    job.image()
}

/// A compilation, until it is dropped.
struct Job<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
    target: Target,
}

impl<'a> Job<'a> {
    fn new(nvrtc: &'a Nvrtc, source: Source, target: Target) -> Result<Self, CudaError> {
        let text = c_string(source.text);
        let headers: Vec<CString> = Source::HEADERS.iter().map(|header| c_string(header.text)).collect();
        let headers: Vec<*const c_char> = headers.iter().map(|header| header.as_ptr()).collect();
        let names = Source::HEADERS.map(|header| header.name.as_ptr());
        let mut job = Job { nvrtc, program: ptr::null_mut(), target };
        // SAFETY: all strings live until the call returns, which copies them; there are as many headers as names.
        let result = unsafe {
            (nvrtc.nvrtcCreateProgram)(
                &raw mut job.program,
                text.as_ptr(),
                source.name.as_ptr(),
                names.len() as c_int,
                headers.as_ptr(),
                names.as_ptr(),
            )
        };
        job.check("nvrtcCreateProgram", result)?;
        Ok(job)
    }

    /// Compiles, and returns the log.
    fn compile(&self, constants: &Constants) -> Result<String, CudaError> {
        let options = [
            self.target.option(),
            "--std=c++17".into(),
            // Multiplications and additions are fused where the source says so and nowhere else: the host twins of the
            // tests compute the same.
            "--fmad=false".into(),
            "--ptxas-options=-v".into(),
            format!("-D{}", constants.number.define()),
            format!("-DHIDDEN={}", constants.hidden),
            format!("-DHEADS={}", constants.heads),
            format!("-DHEAD_DIM={}", constants.head_dim()),
            format!("-DFP8={}", i32::from(constants.number == Number::E4m3)),
        ]
        .map(|option| c_string(&option));
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the options live until the call returns.
        let result = unsafe {
            (self.nvrtc.nvrtcCompileProgram)(self.program, options.len() as c_int, options.as_ptr())
        };
        let log = self.log();
        if result != 0 {
            return Err(CudaError::Compile { call: "nvrtcCompileProgram", target: self.target.name(), log });
        }
        Ok(log)
    }

    fn image(&self) -> Result<Vec<u8>, CudaError> {
        let nvrtc = self.nvrtc;
        let (size, get) = match self.target {
            Target::Machine(_) => (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN),
            Target::Assembly(_) => (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX),
        };
        let mut bytes = 0;
        // SAFETY: writes one size.
        self.check("nvrtcGetCUBINSize", unsafe { size(self.program, &raw mut bytes) })?;
        let mut image = vec![0_u8; bytes];
        // SAFETY: writes as many bytes as it said.
        self.check("nvrtcGetCUBIN", unsafe { get(self.program, image.as_mut_ptr().cast()) })?;
        Ok(image)
    }

    fn log(&self) -> String {
        let mut bytes = 0;
        // SAFETY: writes one size, and then as many bytes, the last of them zero.
        unsafe {
            if (self.nvrtc.nvrtcGetProgramLogSize)(self.program, &raw mut bytes) != 0 {
                return String::new();
            }
            let mut log = vec![0_u8; bytes];
            (self.nvrtc.nvrtcGetProgramLog)(self.program, log.as_mut_ptr().cast());
            String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned()
        }
    }

    fn check(&self, call: &'static str, result: c_int) -> Result<(), CudaError> {
        match result {
            0 => Ok(()),
            _ => Err(CudaError::Compile {
                call,
                target: self.target.name(),
                log: error_string(self.nvrtc, result),
            }),
        }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: created by `new`.
            unsafe { (self.nvrtc.nvrtcDestroyProgram)(&raw mut self.program) };
        }
    }
}

/// The generations that this NVRTC makes code for.
fn supported(nvrtc: &Nvrtc) -> Result<Vec<i32>, CudaError> {
    let check = |call, result| match result {
        0 => Ok(()),
        _ => Err(CudaError::Compile { call, target: "any card".into(), log: error_string(nvrtc, result) }),
    };
    let mut count = 0;
    // SAFETY: writes one int.
    let result = unsafe { (nvrtc.nvrtcGetNumSupportedArchs)(&raw mut count) };
    check("nvrtcGetNumSupportedArchs", result)?;
    let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: writes as many ints as it said.
    check("nvrtcGetSupportedArchs", unsafe { (nvrtc.nvrtcGetSupportedArchs)(archs.as_mut_ptr()) })?;
    Ok(archs)
}

/// Major and minor version.
pub(crate) fn version(nvrtc: &Nvrtc) -> Option<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two ints.
    (unsafe { (nvrtc.nvrtcVersion)(&raw mut major, &raw mut minor) } == 0).then_some((major, minor))
}

fn error_string(nvrtc: &Nvrtc, result: c_int) -> String {
    // SAFETY: returns a string for any result, which lives as long as the library.
    unsafe { CStr::from_ptr((nvrtc.nvrtcGetErrorString)(result)) }.to_string_lossy().into_owned()
}

/// Our own sources and options, which have no zero byte; what comes after one is left out if they had.
fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

    use super::*;
    use crate::ffi::LibraryPath;

    /// NVRTC needs no card. `SIGLIP_TEST_NVRTC` names a folder that has it, as `--cuda-libraries` does.
    #[test]
    fn every_kernel_compiles_for_every_generation() {
        let path =
            LibraryPath::new(std::env::var_os("SIGLIP_TEST_NVRTC").map(Into::into).into_iter().collect());
        let nvrtc = match Nvrtc::open(&path) {
            Ok(nvrtc) => nvrtc,
            Err(error) => {
                assert!(
                    std::env::var_os("SIGLIP_TEST_NVRTC").is_none(),
                    "SIGLIP_TEST_NVRTC is set, but {error}"
                );
                eprintln!("skipped: {error}; SIGLIP_TEST_NVRTC may name its folder");
                return;
            }
        };
        let version = version(&nvrtc);
        let mut compiled = 0;
        for arch in [80, 89, 90, 100] {
            for (hidden, heads) in [(1152, 16), (768, 12), (1536, 16), (96, 3), (35, 5)] {
                for number in [Number::Bf16, Number::F16, Number::F32, Number::E4m3] {
                    // Older cards do not have it, and other models are refused.
                    if number == Number::E4m3 && (arch < 89 || hidden % 16 != 0) {
                        continue;
                    }
                    let constants = Constants { number, hidden, heads };
                    for source in Source::KERNELS {
                        let job = Job::new(&nvrtc, source, Target::Machine(arch)).unwrap();
                        let log = job.compile(&constants).unwrap();
                        assert!(!job.image().unwrap().is_empty());
                        // Registers that do not suffice show as spills, which cost more than they look.
                        let spills = log.lines().filter(|line| line.contains("spill"));
                        for line in spills {
                            let none = line.contains(" 0 bytes spill stores, 0 bytes spill loads");
                            assert!(none, "{source:?} {constants:?} sm_{arch}: {line}");
                        }
                        compiled += 1;
                    }
                }
            }
        }
        eprintln!("compiled {compiled} times with NVRTC {version:?} ({})", nvrtc.path);
        // Cards newer than the compiler get assembly.
        assert_eq!(Target::of(&nvrtc, 90).unwrap(), Target::Machine(90));
        let Target::Assembly(newest) = Target::of(&nvrtc, 999).unwrap() else { panic!("not assembly") };
        let constants = Constants { number: Number::Bf16, hidden: 96, heads: 3 };
        let assembly = compile(&nvrtc, Source::LAYER_NORM, &constants, Target::Assembly(newest)).unwrap();
        assert!(String::from_utf8_lossy(&assembly).contains(".entry layer_norm"));
    }
}
