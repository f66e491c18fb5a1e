//! Files of embeddings, written row by row and never visible half done.

mod jsonl;
mod npy;
mod parquet;
mod unfinished;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

pub(crate) use self::unfinished::Unfinished;
use crate::failure::Failure;
use crate::images::ImageMeta;

/// What the rows of a file are about. It decides a file's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Texts,
    Images,
}

/// One row. All rows of a file are of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row<'a> {
    Text {
        text: &'a str,
        embedding: &'a [f32],
    },
    Image {
        path: &'a str,
        /// What the image is and its embedding, or why it has none.
        result: Result<(&'a ImageMeta, &'a [f32]), &'a str>,
    },
}

impl<'a> Row<'a> {
    fn embedding(&self) -> Option<&'a [f32]> {
        match *self {
            Row::Text { embedding, .. } => Some(embedding),
            Row::Image { result, .. } => result.ok().map(|(_, embedding)| embedding),
        }
    }
}

/// A file of embeddings being written under a temporary name beside its place. Dropping it removes what was written;
/// [`Output::finish`] puts it in place.
pub(crate) struct Output {
    path: PathBuf,
    /// The files in the order in which they get their names: what explains the other comes first.
    files: Vec<Unfinished>,
    rows: Box<dyn Rows>,
}

/// A format of rows.
trait Rows {
    fn append(&mut self, row: Row<'_>) -> io::Result<()>;
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
    /// What is wrong with a path for rows of `kind`, as far as that can be known before there are rows.
    pub(crate) fn check(path: &Path, kind: Kind) -> Result<(), Failure> {
        let list = list(path, Format::of(path)?, kind);
        std::iter::once(path).chain(list.as_deref()).try_for_each(check)
    }

    /// Starts a file for rows of `kind` with embeddings of `width` values.
    pub(crate) fn create(path: &Path, kind: Kind, width: usize) -> Result<Output, Failure> {
        let failed = |error| Failure::Write { path: path.to_owned(), error };
        let format = Format::of(path)?;
        let main = Unfinished::beside(path).map_err(failed)?;
        let file = main.writer().map_err(failed)?;
        let mut files = Vec::new();
        let rows: Box<dyn Rows> = match (format, kind) {
            (Format::Npy, kind) => {
                let list = list(path, format, kind).map(|list| Unfinished::beside(&list)).transpose();
                let list = list.map_err(failed)?;
                let writer = list.as_ref().map(Unfinished::writer).transpose().map_err(failed)?;
                files.extend(list);
                Box::new(npy::NpyRows::new(file, writer, width).map_err(failed)?)
            }
            (Format::Parquet, _) => Box::new(parquet::ParquetRows::new(file, kind, width).map_err(failed)?),
            (Format::Jsonl, _) => Box::new(jsonl::JsonRows::new(file)),
        };
        files.push(main);
        Ok(Output { path: path.to_owned(), files, rows })
    }

    /// Appends a row.
    pub(crate) fn append(&mut self, row: Row<'_>) -> Result<(), Failure> {
        self.rows.append(row).map_err(|error| Failure::Write { path: self.path.clone(), error })
    }

    /// Completes the file and gives it its name, in one step that either happens or does not.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Output { path, files, rows } = self;
        let finish = || rows.finish().and_then(|()| files.into_iter().try_for_each(Unfinished::finish));
        finish().map_err(|error| Failure::Write { path, error })
    }
}

/// What is wrong with a path for a file to be written, as far as that can be known before.
pub(crate) fn check(path: &Path) -> Result<(), Failure> {
    Unfinished::check(path).map_err(|error| Failure::Write { path: path.to_owned(), error })
}

/// The file beside an output that says which row is which image's, where the output itself has no room for it.
fn list(path: &Path, format: Format, kind: Kind) -> Option<PathBuf> {
    (format == Format::Npy && kind == Kind::Images).then(|| path.with_extension("files.jsonl"))
}

/// Flushes a writer to its file.
fn flush(mut writer: BufWriter<File>) -> io::Result<File> {
    writer.flush()?;
    writer.into_inner().map_err(|error| error.into_error())
}
