//! Files of embeddings, written row by row and never visible half done.

mod jsonl;
mod npy;
mod parquet;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// A file of embeddings being written under a temporary name beside its place. Dropping it removes what was written;
/// [`Output::finish`] puts it in place.
pub(crate) struct Output {
    path: PathBuf,
    temporary: NamedTempFile,
    rows: Box<dyn Rows>,
}

/// A format of rows.
trait Rows {
    /// Appends texts and their embeddings, `[texts.len(), width]`.
    fn append(&mut self, texts: &[String], embeddings: &[f32]) -> io::Result<()>;
    /// Writes what belongs at the end, and what at the beginning could not be known before.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// The formats, by the ending of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Npy,
    Parquet,
    Jsonl,
}

impl Format {
    /// The format that a path's ending names.
    pub(crate) fn of(path: &Path) -> Result<Format, Failure> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Format::Npy),
            Some("parquet") => Ok(Format::Parquet),
            Some("jsonl") => Ok(Format::Jsonl),
            _ => Err(Failure::OutputFormat(path.to_owned())),
        }
    }
}

impl Output {
    /// Starts a file for rows of `width` values.
    pub(crate) fn create(path: &Path, width: usize) -> Result<Output, Failure> {
        let failed = |error| Failure::Write { path: path.to_owned(), error };
        let format = Format::of(path)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".partial")
            .permissions(readable())
            .tempfile_in(folder)
            .map_err(failed)?;
        let file = BufWriter::with_capacity(1 << 20, temporary.reopen().map_err(failed)?);
        let rows: Box<dyn Rows> = match format {
            Format::Npy => Box::new(npy::NpyRows::new(file, width).map_err(failed)?),
            Format::Parquet => Box::new(parquet::ParquetRows::new(file, width).map_err(failed)?),
            Format::Jsonl => Box::new(jsonl::JsonRows::new(file, width)),
        };
        Ok(Output { path: path.to_owned(), temporary, rows })
    }

    /// Appends texts and their embeddings.
    pub(crate) fn append(&mut self, texts: &[String], embeddings: &[f32]) -> Result<(), Failure> {
        self.rows.append(texts, embeddings).map_err(|error| Failure::Write { path: self.path.clone(), error })
    }

    /// Completes the file and gives it its name, in one step that either happens or does not.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Output { path, temporary, rows } = self;
        let finish = || -> io::Result<()> {
            rows.finish()?;
            // On disk before the name is: a crash must not leave the name without the data.
            temporary.as_file().sync_all()?;
            temporary.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        finish().map_err(|error| Failure::Write { path: path.clone(), error })
    }
}

/// What the umask makes of an ordinary file; a temporary file would be the owner's alone.
fn readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}

/// Flushes a writer to its file.
fn flush(mut writer: BufWriter<File>) -> io::Result<File> {
    writer.flush()?;
    writer.into_inner().map_err(|error| error.into_error())
}

/// An embedding of each row.
fn split(embeddings: &[f32], width: usize) -> impl Iterator<Item = &[f32]> {
    embeddings.chunks(width.max(1))
}
