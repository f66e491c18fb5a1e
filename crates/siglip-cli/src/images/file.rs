//! One image file: what it is called, what it is known by, and what can be wrong with it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use siglip::image::{ImageError, ImageInfo, Limits};

/// A file that is to be embedded.
#[derive(Clone, Debug)]
pub(crate) struct ImageFile {
    pub(crate) path: PathBuf,
}

/// What an image was, as outputs tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageMeta {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) format: String,
}

/// Why one file has no embedding.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is not a file")]
    NotAFile,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("reading it failed inside this program: please report it")]
    Panic,
}

impl ImageFile {
    /// The path as messages and outputs show it.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// What the file is known by: its absolute path, its size and when it was changed last. None if it is not there.
    pub(crate) fn key(&self) -> Option<String> {
        Some(key(&self.path, &self.path.metadata().ok()?))
    }

    /// The file's bytes, and what the file was known by when they were read.
    pub(crate) fn read(&self) -> Result<(Vec<u8>, String), Problem> {
        // Looked at before it is opened: to open a pipe would wait for its writer.
        if !self.path.metadata()?.is_file() {
            return Err(Problem::NotAFile);
        }
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        let limit = Limits::default().max_bytes;
        if metadata.len() > limit as u64 {
            let found = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
            return Err(ImageError::TooManyBytes { found, allowed: limit }.into());
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.read_to_end(&mut bytes)?;
        Ok((bytes, key(&self.path, &metadata)))
    }
}

impl From<ImageInfo> for ImageMeta {
    fn from(info: ImageInfo) -> ImageMeta {
        ImageMeta { width: info.width, height: info.height, format: info.format.to_string() }
    }
}

fn key(path: &Path, metadata: &Metadata) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{}\n{} {}", text(&absolute), metadata.len(), changed.unwrap_or_default().as_nanos())
}

/// A path as text that no other path has: bytes that are not UTF-8 are written in hexadecimal behind a NUL, which no
/// path holds.
fn text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\0{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn no_two_paths_have_one_text() {
        let text = |name: &[u8]| text(Path::new(OsStr::from_bytes(name)));
        assert_eq!(text("/a/b\nç.png".as_bytes()), "/a/b\nç.png");
        let names: [&[u8]; 6] =
            [b"/\xff", b"/\xfe", b"/\xff\xff", b"/\xf0\x9f\x98", "/\u{fffd}".as_bytes(), b"/\\xff"];
        let texts: std::collections::HashSet<String> = names.into_iter().map(text).collect();
        assert_eq!(texts.len(), names.len(), "{texts:?}");
    }
}
