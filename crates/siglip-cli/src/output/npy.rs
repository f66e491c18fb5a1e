//! NumPy's array file, version 1.0 (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! An array has no room for names or errors. A text's row is the number of its line; for images a list beside the array
//! says for each file, in order, which row is its own: `{"path", "width", "height", "format", "row", "error"}` a line.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use serde::Serialize;

use super::{Row, Rows, flush};

/// One f32 array of shape `[rows, width]`.
pub(super) struct NpyRows {
    writer: BufWriter<File>,
    /// The list of files.
    list: Option<BufWriter<File>>,
    width: usize,
    rows: u64,
}

/// A line of the list.
#[derive(Serialize)]
struct Listed<'a> {
    path: &'a str,
    width: Option<usize>,
    height: Option<usize>,
    format: Option<&'a str>,
    row: Option<u64>,
    error: Option<&'a str>,
}

/// Magic, version and header together: a multiple of 64 with room for any number of rows.
const HEADER: usize = 128;

impl NpyRows {
    pub(super) fn new(
        mut writer: BufWriter<File>,
        list: Option<BufWriter<File>>,
        width: usize,
    ) -> io::Result<Self> {
        // The number of rows is known at the end; until then the header says none.
        writer.write_all(&header(0, width))?;
        Ok(NpyRows { writer, list, width, rows: 0 })
    }
}

impl Rows for NpyRows {
    fn append(&mut self, row: Row<'_>) -> io::Result<()> {
        if let (Row::Image { path, result }, Some(list)) = (row, &mut self.list) {
            let image = result.ok().map(|(image, _)| image);
            let line = Listed {
                path,
                width: image.map(|image| image.width),
                height: image.map(|image| image.height),
                format: image.map(|image| image.format.as_str()),
                row: image.map(|_| self.rows),
                error: result.err(),
            };
            serde_json::to_writer(&mut *list, &line)?;
            list.write_all(b"\n")?;
        }
        let Some(embedding) = row.embedding() else { return Ok(()) };
        self.rows += 1;
        embedding.iter().try_for_each(|value| self.writer.write_all(&value.to_le_bytes()))
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.list.map(flush).transpose()?;
        let mut file = flush(self.writer)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header(self.rows, self.width))
    }
}

fn header(rows: u64, width: usize) -> [u8; HEADER] {
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let mut bytes = [b' '; HEADER];
    bytes[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    bytes[8..10].copy_from_slice(&((HEADER - 10) as u16).to_le_bytes());
    bytes[10..10 + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    bytes[HEADER - 1] = b'\n';
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_header_fits() {
        let bytes = header(u64::MAX, 1 << 20);
        assert_eq!(bytes.last(), Some(&b'\n'));
        assert!(String::from_utf8_lossy(&bytes[10..]).contains("18446744073709551615, 1048576), }"));
    }
}
