//! The functions of the three libraries, found at run time.
//!
//! `cudarc` has bindings that load dynamically, too; they look under fixed names only, hold the libraries in process-wide
//! statics and panic where one is missing. Here a missing library is an ordinary error and the user may say where it is,
//! so each library is a small table of the functions that are used, and no more.

pub(crate) mod cublaslt;
pub(crate) mod driver;
pub(crate) mod nvrtc;
mod search;

use std::fmt;
use std::sync::Arc;

pub use search::LibraryPath;

use crate::error::CudaError;
use cublaslt::CublasLt;
use driver::Driver;
use nvrtc::Nvrtc;

/// The three libraries, open. Cheap to clone.
#[derive(Clone)]
pub struct Libraries {
    pub(crate) driver: Arc<Driver>,
    pub(crate) nvrtc: Arc<Nvrtc>,
    pub(crate) cublaslt: Arc<CublasLt>,
}

impl Libraries {
    /// Opens all three, looking at `path` first.
    ///
    /// # Errors
    ///
    /// [`CudaError::Library`] and [`CudaError::Symbol`] for the first that is missing or too old.
    pub fn open(path: &LibraryPath) -> Result<Libraries, CudaError> {
        Ok(Libraries {
            driver: Arc::new(Driver::open(path)?),
            nvrtc: Arc::new(Nvrtc::open(path)?),
            cublaslt: Arc::new(CublasLt::open(path)?),
        })
    }
}

/// A library of NVIDIA's that the engine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The driver, `libcuda.so.1`.
    Driver,
    /// The run-time compiler, `libnvrtc.so`.
    Nvrtc,
    /// The matrix products, `libcublasLt.so`.
    CublasLt,
}

impl Library {
    /// All that are needed.
    pub const ALL: [Library; 3] = [Library::Driver, Library::Nvrtc, Library::CublasLt];

    /// How it is usually had.
    pub fn advice(self) -> &'static str {
        match self {
            Library::Driver => {
                "it comes with the NVIDIA driver; a container needs the NVIDIA container toolkit and --gpus all"
            }
            Library::Nvrtc => {
                "`pip install nvidia-cuda-nvrtc-cu12` or the CUDA toolkit has it; --cuda-libraries says where"
            }
            Library::CublasLt => {
                "`pip install nvidia-cublas-cu12` or the CUDA toolkit has it; --cuda-libraries says where"
            }
        }
    }

    /// File names, most wanted first.
    fn file_names(self) -> &'static [&'static str] {
        match (self, cfg!(windows)) {
            (Library::Driver, false) => &["libcuda.so.1", "libcuda.so"],
            (Library::Nvrtc, false) => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            (Library::CublasLt, false) => &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            (Library::Driver, true) => &["nvcuda.dll"],
            (Library::Nvrtc, true) => &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"],
            (Library::CublasLt, true) => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Library::Driver => "the NVIDIA driver's library",
            Library::Nvrtc => "NVRTC",
            Library::CublasLt => "cuBLASLt",
        })
    }
}

/// Makes a struct of function pointers, one for each symbol and named like it, that keeps its library open.
macro_rules! function_table {
    (
        $(#[$doc:meta])*
        $table:ident from $library:expr;
        $( fn $symbol:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?; )*
    ) => {
        $(#[$doc])*
        #[expect(non_snake_case, reason = "functions keep the names that their library's documentation uses")]
        pub(crate) struct $table {
            $( pub(crate) $symbol: unsafe extern "C" fn($($argument: $type),*) $(-> $result)?, )*
            /// The file that was opened.
            pub(crate) path: String,
            /// Keeps the functions' code mapped.
            _library: libloading::Library,
        }

        impl $table {
            /// Opens the library and finds every function.
            pub(crate) fn open(path: &$crate::ffi::LibraryPath) -> Result<Self, $crate::error::CudaError> {
                let (library, path) = path.open($library)?;
                $(
                    #[expect(non_snake_case, reason = "as above")]
                    // SAFETY: the type is the one that the library's header declares for this symbol.
                    let $symbol = unsafe {
                        library.get(concat!(stringify!($symbol), "\0").as_bytes()).map(|symbol| *symbol)
                    };
                    #[expect(non_snake_case, reason = "as above")]
                    let $symbol = $symbol.map_err(|_| $crate::error::CudaError::Symbol {
                        library: $library,
                        path: path.clone(),
                        symbol: stringify!($symbol),
                    })?;
                )*
                Ok($table { $($symbol,)* path, _library: library })
            }
        }
    };
}
pub(crate) use function_table;
