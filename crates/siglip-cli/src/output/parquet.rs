//! Apache Parquet. Texts have the columns `text` and `embedding`, a list of floats; images have `path`, `width`,
//! `height`, `format`, `embedding` and `error`, of which all but `path` may be null.

use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::{Kind, Row, Rows};

/// Rows are gathered into groups of about this many values, so that readers can work on one group at a time.
const VALUES_PER_GROUP: usize = 4 << 20;

const TEXTS: &str = "message embeddings {
    required binary text (STRING);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

const IMAGES: &str = "message embeddings {
    required binary path (STRING);
    optional int32 width;
    optional int32 height;
    optional binary format (STRING);
    optional group embedding (LIST) { repeated group list { required float element; } }
    optional binary error (STRING);
}";

pub(super) struct ParquetRows {
    writer: SerializedFileWriter<BufWriter<File>>,
    kind: Kind,
    /// Rows of a group.
    group: usize,
    /// `text` or `path`.
    names: Column<ByteArrayType>,
    widths: Column<Int32Type>,
    heights: Column<Int32Type>,
    formats: Column<ByteArrayType>,
    embeddings: Column<FloatType>,
    errors: Column<ByteArrayType>,
}

impl ParquetRows {
    pub(super) fn new(file: BufWriter<File>, kind: Kind, width: usize) -> io::Result<Self> {
        let schema = match kind {
            Kind::Texts => TEXTS,
            Kind::Images => IMAGES,
        };
        let schema = Arc::new(parse_message_type(schema).map_err(other)?);
        // Embeddings are noise to a dictionary and to a compressor.
        let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(other)?;
        Ok(ParquetRows {
            writer,
            kind,
            group: (VALUES_PER_GROUP / width.max(1)).max(1),
            names: Column::default(),
            widths: Column::default(),
            heights: Column::default(),
            formats: Column::default(),
            embeddings: Column::default(),
            errors: Column::default(),
        })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        self.names.write(&mut group)?;
        if self.kind == Kind::Images {
            self.widths.write(&mut group)?;
            self.heights.write(&mut group)?;
            self.formats.write(&mut group)?;
        }
        self.embeddings.write(&mut group)?;
        if self.kind == Kind::Images {
            self.errors.write(&mut group)?;
        }
        group.close().map(drop)
    }
}

impl Rows for ParquetRows {
    fn append(&mut self, row: Row<'_>) -> io::Result<()> {
        match row {
            Row::Text { text, embedding } => {
                self.names.values.push(text.into());
                self.embeddings.push_list(Some(embedding), 1);
            }
            Row::Image { path, result } => {
                let (image, embedding) = result.ok().unzip();
                let side = |side: usize| i32::try_from(side).ok();
                self.names.values.push(path.into());
                self.widths.push(image.and_then(|image| side(image.width)));
                self.heights.push(image.and_then(|image| side(image.height)));
                self.formats.push(image.map(|image| image.format.as_str().into()));
                self.embeddings.push_list(embedding, 2);
                self.errors.push(result.err().map(ByteArray::from));
            }
        }
        if self.names.values.len() >= self.group {
            self.write_group().map_err(other)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.names.values.is_empty() {
            self.write_group().map_err(other)?;
        }
        self.writer.into_inner().map_err(other).and_then(super::flush).map(drop)
    }
}

/// The values of a column in one group of rows, with Dremel's levels: how much of the path to a value is there, and
/// whether it begins a row (0) or continues the list before it (1). A column that is required has neither, one without
/// lists only the former.
struct Column<T: DataType> {
    values: Vec<T::T>,
    levels: Vec<i16>,
    repetitions: Vec<i16>,
}

impl<T: DataType> Default for Column<T> {
    fn default() -> Self {
        Column { values: Vec::new(), levels: Vec::new(), repetitions: Vec::new() }
    }
}

impl<T: DataType<T: Clone>> Column<T> {
    /// A row's value in a column where it may be null.
    fn push(&mut self, value: Option<T::T>) {
        self.levels.push(i16::from(value.is_some()));
        self.values.extend(value);
    }

    /// A row's list, whose values are at level `present`: 1, and 1 more if the list itself may be null.
    fn push_list(&mut self, list: Option<&[T::T]>, present: i16) {
        match list {
            None => {
                self.levels.push(0);
                self.repetitions.push(0);
            }
            Some(list) => {
                self.values.extend_from_slice(list);
                self.levels.extend(list.iter().map(|_| present));
                self.repetitions.extend((0..list.len()).map(|i| i16::from(i != 0)));
            }
        }
    }

    /// Writes the group's next column and empties this one.
    fn write(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    ) -> Result<(), ParquetError> {
        if let Some(mut column) = group.next_column()? {
            let levels = Some(self.levels.as_slice()).filter(|levels| !levels.is_empty());
            let repetitions = Some(self.repetitions.as_slice()).filter(|levels| !levels.is_empty());
            column.typed::<T>().write_batch(&self.values, levels, repetitions)?;
            column.close()?;
        }
        self.values.clear();
        self.levels.clear();
        self.repetitions.clear();
        Ok(())
    }
}

/// The system's own error where there is one: it says that the disk is full.
fn other(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        error => io::Error::other(error),
    }
}
