//! JSON lines. A row of a text is `{"text", "embedding"}`, of an image `{"path", "width", "height", "format",
//! "embedding", "error"}`, where either `error` or all of the four before it are null.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{Row, Rows, flush};

pub(super) struct JsonRows {
    writer: BufWriter<File>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Text {
        text: &'a str,
        embedding: &'a [f32],
    },
    Image {
        path: &'a str,
        width: Option<usize>,
        height: Option<usize>,
        format: Option<&'a str>,
        embedding: Option<&'a [f32]>,
        error: Option<&'a str>,
    },
}

impl JsonRows {
    pub(super) fn new(writer: BufWriter<File>) -> Self {
        JsonRows { writer }
    }
}

impl Rows for JsonRows {
    fn append(&mut self, row: Row<'_>) -> io::Result<()> {
        let line = match row {
            Row::Text { text, embedding } => Line::Text { text, embedding },
            Row::Image { path, result } => {
                let (image, embedding) = result.ok().unzip();
                Line::Image {
                    path,
                    width: image.map(|image| image.width),
                    height: image.map(|image| image.height),
                    format: image.map(|image| image.format.as_str()),
                    embedding,
                    error: result.err(),
                }
            }
        };
        serde_json::to_writer(&mut self.writer, &line)?;
        self.writer.write_all(b"\n")
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        flush(self.writer).map(drop)
    }
}
