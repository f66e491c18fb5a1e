//! A file of embeddings that grows while a program runs and survives however it ends.
//!
//! ```text
//! siglip embeddings 1\n  header  record  record …
//! header, record:  length of the payload u32 | its BLAKE3, first 8 bytes | payload
//! header's payload: whose embeddings these are
//! record's payload: length of the entry u32 | the entry as JSON | the embedding as f32
//! ```
//!
//! All numbers are little-endian. Records are only appended. What does not have its length and its hash, as the record
//! that was being written when a disk filled up, ends the file where it begins.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::images::ImageMeta;

const MAGIC: &[u8] = b"siglip embeddings 1\n";
/// More than any record has: a length beyond it is damage, and no memory is taken for it.
const MAX_PAYLOAD: usize = 16 << 20;

/// An open file of embeddings; no other process has it open.
pub(crate) struct Store {
    file: File,
    /// Where the embedding of each key's latest record lies.
    places: HashMap<String, Place>,
    /// The end of the last whole record.
    end: u64,
}

/// What an embedding is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What it is found by: a file's [`crate::images::ImageFile::key`], or a text.
    pub(crate) key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ImageMeta>,
}

/// Where a record's payload lies.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    len: usize,
}

/// Why a file of embeddings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("another run is using it")]
    InUse,
    #[error("it belongs to a run of another model or with other options")]
    Foreign,
    #[error("it is no file of embeddings")]
    NotAStore,
}

impl Store {
    /// Opens the file at `path`, or makes it, for embeddings of `owner`, dropping what was not written whole.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the file is left as it is.
    pub(crate) fn open(path: &Path, owner: &str) -> Result<Store, StoreError> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let len = file.metadata()?.len();
        let mut store = Store { places: HashMap::new(), end: 0, file: file.try_clone()? };
        let mut reader = BufReader::with_capacity(1 << 20, &mut file);

        let mut magic = Vec::new();
        reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if !MAGIC.starts_with(&magic) {
            return Err(StoreError::NotAStore);
        }
        let mut payload = Vec::new();
        store.end = MAGIC.len() as u64;
        if magic.len() < MAGIC.len() || !store.read_next(&mut reader, &mut payload)? {
            // New, or cut off before anything of worth was in it.
            if len > MAGIC.len() as u64 + 12 + 4 * owner.len() as u64 {
                return Err(StoreError::NotAStore);
            }
            store.begin(owner)?;
            return Ok(store);
        }
        if payload != owner.as_bytes() {
            if store.end < len {
                return Err(StoreError::Foreign);
            }
            // Another's, who ended before anything was in it.
            store.begin(owner)?;
            return Ok(store);
        }
        loop {
            let at = store.end;
            if !store.read_next(&mut reader, &mut payload)? {
                break;
            }
            let Some((entry, _)) = parse(&payload) else {
                store.end = at;
                break;
            };
            store.places.insert(entry.key, Place { at: at + 12, len: payload.len() });
        }
        if store.end < len {
            tracing::warn!(
                "{}: dropped {} bytes at its end that are not whole",
                path.display(),
                len - store.end
            );
            store.file.set_len(store.end)?;
        }
        Ok(store)
    }

    /// How many embeddings there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is an embedding under a key.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Reads an embedding into `embedding`, and returns what it is of. None if there is none, none of this width, or
    /// what was there has changed on disk since the file was opened.
    pub(crate) fn get(&self, key: &str, embedding: &mut [f32]) -> io::Result<Option<Entry>> {
        let Some(place) = self.places.get(key) else { return Ok(None) };
        let mut record = vec![0; 12 + place.len];
        self.file.read_exact_at(&mut record, place.at - 12)?;
        let (head, payload) = record.split_at(12);
        if head[4..] != hash(payload) {
            return Ok(None);
        }
        Ok(parse(payload).filter(|(_, values)| values.len() == 4 * embedding.len()).map(|(entry, values)| {
            for (value, bytes) in embedding.iter_mut().zip(values.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
            entry
        }))
    }

    /// Adds an embedding. After an error the store still holds what it held before.
    pub(crate) fn append(&mut self, entry: Entry, embedding: &[f32]) -> io::Result<()> {
        let text = serde_json::to_vec(&entry)?;
        let mut payload = Vec::with_capacity(4 + text.len() + 4 * embedding.len());
        payload.extend_from_slice(&(text.len() as u32).to_le_bytes());
        payload.extend_from_slice(&text);
        embedding.iter().for_each(|value| payload.extend_from_slice(&value.to_le_bytes()));
        let at = self.end;
        self.write(&payload)?;
        self.places.insert(entry.key, Place { at: at + 12, len: payload.len() });
        Ok(())
    }

    fn begin(&mut self, owner: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(MAGIC, 0)?;
        self.end = MAGIC.len() as u64;
        self.write(owner.as_bytes())
    }

    fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(12 + payload.len());
        record.write_all(&(payload.len() as u32).to_le_bytes())?;
        record.write_all(&hash(payload))?;
        record.write_all(payload)?;
        self.file.write_all_at(&record, self.end)?;
        self.end += record.len() as u64;
        Ok(())
    }

    /// Reads the payload of the record at `self.end` and moves past it. False if no whole record is there.
    fn read_next(&mut self, reader: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<bool> {
        let mut head = [0; 12];
        payload.clear();
        reader.take(12).read_to_end(payload)?;
        if payload.len() < head.len() {
            return Ok(false);
        }
        head.copy_from_slice(payload);
        let [a, b, c, d, expected @ ..] = head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        payload.clear();
        if len > MAX_PAYLOAD {
            return Ok(false);
        }
        reader.take(len as u64).read_to_end(payload)?;
        if payload.len() < len || hash(payload) != expected {
            return Ok(false);
        }
        self.end += (head.len() + len) as u64;
        Ok(true)
    }
}

fn hash(payload: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    first
}

/// The entry of a record, and its embedding's bytes.
fn parse(payload: &[u8]) -> Option<(Entry, &[u8])> {
    let (len, rest) = payload.split_first_chunk::<4>()?;
    let (text, values) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((serde_json::from_slice(text).ok()?, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entry(key: &str) -> Entry {
        Entry { key: key.into(), image: None }
    }

    fn three(path: &Path) {
        let mut store = Store::open(path, "me").unwrap();
        for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
            store.append(entry(key), &[i as f32, -0.5]).unwrap();
        }
    }

    fn keys(path: &Path) -> Vec<String> {
        let store = Store::open(path, "me").unwrap();
        let mut keys: Vec<String> = store.places.keys().cloned().collect();
        keys.sort();
        keys
    }

    #[test]
    fn embeddings_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        three(&path);
        let mut store = Store::open(&path, "me").unwrap();
        let mut embedding = [0.0; 2];
        assert_eq!(store.get("b", &mut embedding).unwrap(), Some(entry("b")));
        assert_eq!(embedding, [1.0, -0.5]);
        assert_eq!(store.get("x", &mut embedding).unwrap(), None);
        assert_eq!(store.get("b", &mut [0.0; 3]).unwrap(), None, "another width is another embedding");
        let image = Some(ImageMeta { width: 3, height: 4, format: "PNG".into() });
        store.append(Entry { key: "a".into(), image: image.clone() }, &[9.0, 9.0]).unwrap();
        drop(store);
        let store = Store::open(&path, "me").unwrap();
        assert_eq!(store.get("a", &mut embedding).unwrap().unwrap().image, image, "the latest counts");
        assert_eq!((embedding, store.len()), ([9.0, 9.0], 3));
    }

    #[test]
    fn a_file_that_was_cut_anywhere_keeps_what_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        three(&path);
        let whole = fs::read(&path).unwrap();
        let mut kept = Vec::new();
        for len in 0..=whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let found = keys(&path);
            assert_eq!(found, ["a", "b", "c"][..found.len()]);
            kept.push(found.len());
            // It is a good file again.
            Store::open(&path, "me").unwrap().append(entry("z"), &[0.0; 2]).unwrap();
            assert_eq!(keys(&path).len(), found.len() + 1);
        }
        assert!(kept.is_sorted() && kept.contains(&0) && kept.contains(&1) && kept.ends_with(&[3]));
    }

    #[test]
    fn a_changed_byte_is_never_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        three(&path);
        let whole = fs::read(&path).unwrap();
        let header = MAGIC.len() + 12 + 2;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            if at < header {
                assert!(Store::open(&path, "me").is_err(), "byte {at}");
            } else {
                let found = keys(&path);
                assert!(found.len() < 3 && found == ["a", "b", "c"][..found.len()], "byte {at}");
            }
        }
    }

    #[test]
    fn what_is_another_s_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        three(&path);
        assert!(matches!(Store::open(&path, "you"), Err(StoreError::Foreign)));
        let open = Store::open(&path, "me").unwrap();
        assert!(matches!(Store::open(&path, "me"), Err(StoreError::InUse)));
        drop(open);
        assert_eq!(keys(&path).len(), 3);
        let empty = dir.path().join("empty");
        Store::open(&empty, "you").unwrap();
        assert_eq!(Store::open(&empty, "me").unwrap().len(), 0, "nothing of theirs is in it");
        assert_eq!(keys(&empty).len(), 0);
        fs::write(&path, "a diary").unwrap();
        assert!(matches!(Store::open(&path, "me"), Err(StoreError::NotAStore)));
        assert_eq!(fs::read(&path).unwrap(), b"a diary");
    }
}
