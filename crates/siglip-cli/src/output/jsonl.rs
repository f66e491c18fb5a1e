//! JSON lines: `{"text": …, "embedding": […]}` a row.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{Rows, flush, split};

pub(super) struct JsonRows {
    writer: BufWriter<File>,
    width: usize,
}

#[derive(Serialize)]
struct Row<'a> {
    text: &'a str,
    embedding: &'a [f32],
}

impl JsonRows {
    pub(super) fn new(writer: BufWriter<File>, width: usize) -> Self {
        JsonRows { writer, width }
    }
}

impl Rows for JsonRows {
    fn append(&mut self, texts: &[String], embeddings: &[f32]) -> io::Result<()> {
        for (text, embedding) in texts.iter().zip(split(embeddings, self.width)) {
            serde_json::to_writer(&mut self.writer, &Row { text, embedding })?;
            self.writer.write_all(b"\n")?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        flush(self.writer).map(drop)
    }
}
