//! The one place of this crate with unsafe code: a file mapped read-only into memory.
#![expect(unsafe_code, reason = "mapping a file is unsafe by nature: others may change it")]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::Mmap;

/// A whole file, mapped read-only and shared with the page cache.
pub(super) struct MappedFile {
    map: Mmap,
    #[cfg(unix)]
    file: File,
}

impl MappedFile {
    /// Maps `file`. An empty file gives an empty map.
    pub(super) fn map(file: File) -> io::Result<MappedFile> {
        // SAFETY: The map is read-only and is only ever read as bytes, every value of which is valid. What is left is
        // that another process changes the file meanwhile: then the weights change too, or, if it was cut short, a
        // read of the lost part ends this process by a signal. Model files are replaced, not rewritten in place (the
        // Hub's cache names them by their content), and a server that copied 2 GB first instead would not be ready in
        // a second; the documentation of `Weights::open` states the condition.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(MappedFile {
            map,
            #[cfg(unix)]
            file,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Fills `out` with the bytes from `start` on, which stay out of this process's resident memory.
    pub(super) fn read(&self, start: usize, out: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(&self.file, out, start as u64);
        #[cfg(not(unix))]
        {
            out.copy_from_slice(&self.map[start..start + out.len()]);
            Ok(())
        }
    }

    /// Tells the system that the pages that `range` touches are not needed for now. They leave this process's
    /// resident memory and come back from the file when they are read again. Does nothing where that is not
    /// offered.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.map.len() {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: The range is inside the map, checked above. The map is shared and read-only (`Mmap::map` asks
            // for `MAP_SHARED`), so pages given back are read from the file again: the content of the range, and of
            // the rest of the pages at its ends, does not change.
            let released = unsafe { self.map.unchecked_advise_range(advice, range.start, range.len()) };
            // Advice only: where the system refuses it the memory stays resident, and nothing else follows.
            drop(released);
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
