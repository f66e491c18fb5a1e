//! Which parts of a file have come, on disk, so that a later process goes on where an earlier one ended.
//!
//! A text file: a first line that says what is being fetched, then the number of one part a line. A part is noted once
//! its bytes are on the disk, so whatever the file says after a power failure is true.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The journal of one file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    done: HashSet<usize>,
}

impl Journal {
    /// Opens the journal at `path`, or starts it anew if it is about something else than `subject`.
    pub(super) fn open(path: &Path, subject: &str) -> io::Result<Journal> {
        let old = fs::read_to_string(path).unwrap_or_default();
        // A last line without its end is one that was being written.
        let mut lines = old.split_inclusive('\n').map_while(|line| line.strip_suffix('\n'));
        let mut done = HashSet::new();
        if lines.next() == Some(subject) {
            done.extend(lines.filter_map(|line| line.parse::<usize>().ok()));
        }
        // Written anew, so that nothing is appended to such a line.
        Self::write(path, subject, done)
    }

    /// Starts the journal at `path` anew, whatever it noted: no part is there.
    pub(super) fn start(path: &Path, subject: &str) -> io::Result<Journal> {
        Self::write(path, subject, HashSet::new())
    }

    fn write(path: &Path, subject: &str, done: HashSet<usize>) -> io::Result<Journal> {
        let mut text = format!("{subject}\n");
        text.extend(done.iter().map(|part| format!("{part}\n")));
        let mut file = File::create(path)?;
        file.write_all(text.as_bytes())?;
        // On the disk before anything is done to the file that it is about: an old one must not come back.
        file.sync_all()?;
        Ok(Journal { file, path: path.to_owned(), done })
    }

    pub(super) fn has(&self, part: usize) -> bool {
        self.done.contains(&part)
    }

    /// Notes a part whose bytes are on the disk.
    pub(super) fn note(&mut self, part: usize) -> io::Result<()> {
        self.done.insert(part);
        self.file.write_all(format!("{part}\n").as_bytes())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// Removes it: the file is whole, or nothing of it can be used.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_whole_lines_of_the_same_subject() {
        let path = std::env::temp_dir().join(format!("siglip-journal-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut journal = Journal::open(&path, "a 10").unwrap();
        journal.note(3).unwrap();
        journal.note(0).unwrap();
        drop(journal);
        File::options().append(true).open(&path).unwrap().write_all(b"1").unwrap();
        let mut again = Journal::open(&path, "a 10").unwrap();
        assert!(again.has(3) && again.has(0) && !again.has(1));
        again.note(2).unwrap();
        drop(again);
        let third = Journal::open(&path, "a 10").unwrap();
        assert!(third.has(2) && third.has(3));
        assert!(Journal::open(&path, "b 10").unwrap().is_empty());
        third.remove().unwrap();
    }
}
