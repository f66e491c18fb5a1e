//! Apache Parquet: a column `text` of strings and a column `embedding` of lists of floats.

use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::Rows;

/// Rows are gathered into groups of about this many values, so that readers can work on one group at a time.
const VALUES_PER_GROUP: usize = 4 << 20;

const SCHEMA: &str = "message embeddings {
    required binary text (STRING);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

pub(super) struct ParquetRows {
    writer: SerializedFileWriter<BufWriter<File>>,
    width: usize,
    texts: Vec<ByteArray>,
    values: Vec<f32>,
}

impl ParquetRows {
    pub(super) fn new(file: BufWriter<File>, width: usize) -> io::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(other)?);
        // Embeddings are noise to a dictionary and to a compressor.
        let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(other)?;
        Ok(ParquetRows { writer, width, texts: Vec::new(), values: Vec::new() })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            column.typed::<ByteArrayType>().write_batch(&self.texts, None, None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            // Each value is present, and each but a row's first continues the list before it (Dremel's levels).
            let present = vec![1; self.values.len()];
            let continues: Vec<i16> =
                (0..self.values.len()).map(|i| i16::from(i % self.width != 0)).collect();
            column.typed::<FloatType>().write_batch(&self.values, Some(&present), Some(&continues))?;
            column.close()?;
        }
        group.close()?;
        self.texts.clear();
        self.values.clear();
        Ok(())
    }
}

impl Rows for ParquetRows {
    fn append(&mut self, texts: &[String], embeddings: &[f32]) -> io::Result<()> {
        self.texts.extend(texts.iter().map(|text| ByteArray::from(text.as_str())));
        self.values.extend_from_slice(embeddings);
        if self.values.len() >= VALUES_PER_GROUP {
            self.write_group().map_err(other)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.texts.is_empty() {
            self.write_group().map_err(other)?;
        }
        self.writer.into_inner().map_err(other).and_then(super::flush).map(drop)
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
