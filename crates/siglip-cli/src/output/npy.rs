//! NumPy's array file, version 1.0 (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use super::{Rows, flush};

/// One f32 array of shape `[rows, width]`.
pub(super) struct NpyRows {
    writer: BufWriter<File>,
    width: usize,
    rows: u64,
}

/// Magic, version and header together: a multiple of 64 with room for any number of rows.
const HEADER: usize = 128;

impl NpyRows {
    pub(super) fn new(mut writer: BufWriter<File>, width: usize) -> io::Result<Self> {
        // The number of rows is known at the end; until then the header says none.
        writer.write_all(&header(0, width))?;
        Ok(NpyRows { writer, width, rows: 0 })
    }
}

impl Rows for NpyRows {
    fn append(&mut self, texts: &[String], embeddings: &[f32]) -> io::Result<()> {
        self.rows += texts.len() as u64;
        embeddings.iter().try_for_each(|value| self.writer.write_all(&value.to_le_bytes()))
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
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
