//! The emulated driver, NVRTC and cuBLASLt (`emulator/`), built with the machine's C++ compiler.
//!
//! One process has [two](MACHINES) of them, whose failures are set by tests: [`Emulator::lock`] lets one test use one at a time.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::ffi::{Libraries, LibraryPath};

const NAMES: [&str; 3] = ["libcuda.so.1", "libnvrtc.so.12", "libcublasLt.so.12"];

/// Emulated machines that know nothing of each other: each is a copy of the library, and compiles its kernels itself.
const MACHINES: usize = 2;

/// An emulated machine, for as long as a test holds it.
pub(crate) struct Emulator {
    folder: &'static Path,
    control: libloading::Library,
    _alone: MutexGuard<'static, ()>,
}

impl Emulator {
    /// The machine in its first state, or none, with the reason printed, where there is no C++ compiler.
    pub(crate) fn lock() -> Option<Emulator> {
        static FOLDERS: [OnceLock<Option<tempfile::TempDir>>; MACHINES] =
            [const { OnceLock::new() }; MACHINES];
        static ALONE: [Mutex<()>; MACHINES] = [const { Mutex::new(()) }; MACHINES];
        static TURNS: AtomicUsize = AtomicUsize::new(0);
        let turn = TURNS.fetch_add(1, Ordering::Relaxed);
        let free = |machine: &usize| ALONE.get(*machine).is_some_and(|alone| alone.try_lock().is_ok());
        let machine = (0..MACHINES).find(free).unwrap_or(turn % MACHINES);
        // A failed test leaves nothing behind that the next one does not set anew.
        let alone = ALONE[machine].lock().unwrap_or_else(PoisonError::into_inner);
        let folder = FOLDERS[machine].get_or_init(|| build(&[])).as_ref()?.path();
        // SAFETY: the library was built from this crate's own source.
        let control = unsafe { libloading::Library::new(folder.join(NAMES[0])) }.unwrap();
        let emulator = Emulator { folder, control, _alone: alone };
        emulator.machine(2, 12040, 90, 2 << 30);
        emulator.bias_first_for_few(false);
        emulator.compute_wrongly("");
        Some(emulator)
    }

    pub(crate) fn path(&self) -> LibraryPath {
        LibraryPath::only(vec![self.folder.to_owned()])
    }

    pub(crate) fn libraries(&self) -> Libraries {
        Libraries::open(&self.path()).unwrap()
    }

    /// What the machine is: cards, the driver's version, their compute capability and memory.
    pub(crate) fn machine(&self, cards: c_int, driver: c_int, capability: c_int, memory: usize) {
        // SAFETY: the signature is that of `emulator/libraries.cpp`.
        unsafe {
            let set =
                self.control.get::<unsafe extern "C" fn(c_int, c_int, c_int, usize)>(b"emulator_machine\0");
            set.unwrap()(cards, driver, capability, memory);
        }
    }

    /// From now on every call about a card fails, until [`Emulator::machine`] is called.
    pub(crate) fn lose(&self, card: c_int) {
        // SAFETY: as above.
        unsafe { self.control.get::<unsafe extern "C" fn(c_int)>(b"emulator_lose\0").unwrap()(card) }
    }

    /// Calls of `function`, after the next `after`, return `code` for as long as the result lives.
    pub(crate) fn fail(&self, function: &str, code: c_int, after: c_int) -> Failing<'_> {
        self.set_failure(function, code, after);
        Failing { emulator: self, function: function.to_owned() }
    }

    fn set_failure(&self, function: &str, code: c_int, after: c_int) {
        let function = CString::new(function).unwrap();
        // SAFETY: as above.
        unsafe {
            let set =
                self.control.get::<unsafe extern "C" fn(*const c_char, c_int, c_int)>(b"emulator_fail\0");
            set.unwrap()(function.as_ptr(), code, after);
        }
    }

    /// How often a function was called since the process began.
    pub(crate) fn calls(&self, function: &str) -> c_int {
        let function = CString::new(function).unwrap();
        // SAFETY: as above.
        unsafe {
            self.control.get::<unsafe extern "C" fn(*const c_char) -> c_int>(b"emulator_calls\0").unwrap()(
                function.as_ptr(),
            )
        }
    }

    /// Bytes of the card, pinned buffers, contexts and handles of any kind that were not given back.
    pub(crate) fn in_use(&self) -> usize {
        // SAFETY: as above.
        unsafe { self.control.get::<unsafe extern "C" fn() -> usize>(b"emulator_in_use\0").unwrap()() }
    }

    /// From now on a kernel leaves out its last blocks, or products their `bias`, `gelu` or what is `added`.
    pub(crate) fn compute_wrongly(&self, what: &str) {
        let what = CString::new(what).unwrap();
        // SAFETY: as above.
        unsafe {
            let set = self.control.get::<unsafe extern "C" fn(*const c_char)>(b"emulator_wrong\0");
            set.unwrap()(what.as_ptr());
        }
    }

    /// Whether cuBLASLt's algorithms for few rows begin their sums with the bias, where those for many end with it.
    pub(crate) fn bias_first_for_few(&self, first: bool) {
        // SAFETY: as above.
        unsafe {
            let set = self.control.get::<unsafe extern "C" fn(c_int)>(b"emulator_bias_first\0");
            set.unwrap()(first.into());
        }
    }
}

/// Ends a failure when dropped.
pub(crate) struct Failing<'a> {
    emulator: &'a Emulator,
    function: String,
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.emulator.set_failure(&self.function, 0, 0);
    }
}

/// Compiles the libraries, less the functions in `without`, into a folder.
pub(crate) fn build(without: &[&str]) -> Option<tempfile::TempDir> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator");
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join(NAMES[0]);
    let mut command = Command::new("c++");
    command.args(["-std=c++17", "-O2", "-g", "-fPIC", "-shared", "-o"]).arg(&library);
    command.arg(sources.join("libraries.cpp")).arg("-ldl");
    command.args(without.iter().map(|function| format!("-D{function}=left_out")));
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: the emulator needs a C++ compiler, `c++`: {error}");
            return None;
        }
    }
    for name in &NAMES[1..] {
        std::fs::hard_link(&library, folder.path().join(name)).unwrap();
    }
    std::fs::copy(sources.join("device.cuh"), folder.path().join("device.cuh")).unwrap();
    Some(folder)
}
