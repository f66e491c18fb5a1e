//! A file under a temporary name until it is whole.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use tempfile::NamedTempFile;

/// A file being written. Dropping it removes what was written; [`Unfinished::finish`] gives it its name.
pub(crate) struct Unfinished {
    path: PathBuf,
    temporary: NamedTempFile,
}

impl Unfinished {
    /// Whether a file can be made at `path`, as far as that can be known before the work that it is to hold is done.
    pub(crate) fn check(path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if path.file_name().is_none() {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        // What is looked at is whether files may be made in it: to make one, others would see it come and go.
        rustix::fs::access(folder(path).join("."), Access::WRITE_OK | Access::EXEC_OK)
            .map_err(io::Error::from)
    }

    /// Starts a file that will be `path`, in the same folder.
    pub(crate) fn beside(path: &Path) -> io::Result<Unfinished> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".partial")
            .permissions(readable())
            .tempfile_in(folder(path))?;
        Ok(Unfinished { path: path.to_owned(), temporary })
    }

    /// A writer to it.
    pub(crate) fn writer(&self) -> io::Result<BufWriter<File>> {
        Ok(BufWriter::with_capacity(1 << 20, self.temporary.reopen()?))
    }

    /// Gives the file its name, in one step that either happens or does not. What is written must be flushed.
    pub(crate) fn finish(self) -> io::Result<()> {
        // On disk before the name is: a crash must not leave the name without the data.
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What the umask makes of an ordinary file; a temporary file would be the owner's alone.
fn readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}
