//! From ranges of files on the Hub to one whole file on disk.
//!
//! The bytes come in parts, several at a time, into a file under a name of its own beside the target, with a
//! [`Journal`] of the parts that are there. Where a connection breaks, the next request asks for what is left of the
//! part; where the process ends, the next one asks for the parts that are left. Only when all is there and, where the
//! Hub names it, the SHA-256 is right, the file takes its target's name.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::cache::{RepoCache, create_dir};
use super::client::{Client, Failure, FileInfo};
use super::journal::Journal;
use super::{HubError, Progress, Repo, Settings};

/// What all downloads of one fetch have in common.
pub(super) struct Job<'a> {
    pub(super) client: &'a Client,
    pub(super) settings: &'a Settings,
    pub(super) repo: &'a Repo,
    pub(super) progress: &'a dyn Progress,
}

/// A file of the repository that bytes are taken from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) info: FileInfo,
}

/// A run of bytes of a source, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Which source.
    pub(super) source: usize,
    /// Where the run starts there.
    pub(super) from: u64,
    /// Where it starts in the file that is written.
    pub(super) to: u64,
    pub(super) len: u64,
}

/// A file to be put together.
pub(super) struct Download<'a> {
    /// Its name when it is whole.
    pub(super) target: &'a Path,
    /// Its name for the user.
    pub(super) name: &'a str,
    /// Bytes that are known already and stand at its start.
    pub(super) head: &'a [u8],
    pub(super) sources: &'a [Source],
    /// What follows the head, without holes.
    pub(super) runs: &'a [Run],
}

impl Job<'_> {
    /// Fetches a file into the cache, unless it is there, and makes it known under its name in `folder`.
    pub(super) fn file(
        &self,
        cache: &RepoCache,
        commit: &str,
        name: &str,
        folder: &Path,
    ) -> Result<(), HubError> {
        if folder.join(name).is_file() {
            return Ok(());
        }
        let info = self.client.file_info(self.repo, commit, name)?;
        let (etag, size) = (info.etag.clone(), info.size);
        let blob = cache.blob(&etag);
        let is_there = || fs::metadata(&blob).is_ok_and(|found| found.is_file() && found.len() == size);
        if !is_there() {
            let _lock = cache.lock(&etag, name, self.progress)?;
            // Whoever held the lock may have fetched it.
            if !is_there() {
                let sources = [Source { name: name.to_owned(), info }];
                let runs = [Run { source: 0, from: 0, to: 0, len: size }];
                self.download(&Download { target: &blob, name, head: &[], sources: &sources, runs: &runs })?;
            }
        }
        cache.link(&etag, folder, name)
    }

    /// Puts a file together.
    pub(super) fn download(&self, download: &Download<'_>) -> Result<(), HubError> {
        let Download { target, name, head, sources, runs } = *download;
        let length = runs.iter().fold(head.len() as u64, |length, run| length + run.len);
        let parts = parts(runs, self.settings.part);
        if let Some(folder) = target.parent() {
            create_dir(folder)?;
        }
        let unfinished = beside(target, "siglip.incomplete");
        let failed = |error| HubError::write(&unfinished, length, error);

        let etags: Vec<&str> = sources.iter().map(|source| source.info.etag.as_str()).collect();
        let subject = format!("{length} bytes of {} in parts of {}", etags.join(" "), self.settings.part);
        let journal_file = beside(target, "siglip.parts");
        // What the journal notes is true of the file that it was kept beside, and of no other: one that is gone, or has
        // another length, is begun from its first part.
        let kept = fs::metadata(&unfinished).is_ok_and(|found| found.is_file() && found.len() == length);
        let journal = if kept { Journal::open } else { Journal::start };
        let journal = journal(&journal_file, &subject).map_err(|error| {
            let _ = fs::remove_file(&journal_file);
            HubError::write(&unfinished, length, error)
        })?;
        if let Err(error) = reserve(&unfinished, length, head) {
            if journal.is_empty() {
                // Nothing worth keeping has come, and room is short. If this fails, too, the first error is the one
                // that matters.
                let _ = fs::remove_file(&unfinished);
                let _ = journal.remove();
            }
            return Err(failed(error));
        }
        let done =
            parts.iter().enumerate().filter(|(part, _)| journal.has(*part)).map(|(_, run)| run.len).sum();
        self.progress.start(name, length - head.len() as u64, done);
        let journal = Mutex::new(journal);
        self.parts(download, &unfinished, length, &parts, &journal)?;
        let journal = journal.into_inner().unwrap_or_else(PoisonError::into_inner);

        if let [source] = sources
            && head.is_empty()
            && let Err(error) = check_sha256(&unfinished, source)
        {
            let _ = fs::remove_file(&unfinished);
            let _ = journal.remove();
            return Err(error);
        }
        let whole = File::open(&unfinished).and_then(|file| file.sync_all());
        whole.and_then(|()| fs::rename(&unfinished, target)).map_err(failed)?;
        sync_folder(target).map_err(HubError::io(target))?;
        journal.remove().map_err(HubError::io(&journal_file))?;
        self.progress.finish();
        Ok(())
    }

    /// Fetches all parts that the journal does not have, over several connections.
    fn parts(
        &self,
        download: &Download<'_>,
        unfinished: &Path,
        length: u64,
        parts: &[Run],
        journal: &Mutex<Journal>,
    ) -> Result<(), HubError> {
        let todo: Vec<usize> = {
            let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            (0..parts.len()).filter(|part| !journal.has(*part)).collect()
        };
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let work = || -> Result<(), HubError> {
            let failed = |error| HubError::write(unfinished, length, error);
            let mut file = File::options().write(true).open(unfinished).map_err(failed)?;
            while let Some(&part) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Some(run) = parts.get(part) else { break };
                let Some(source) = download.sources.get(run.source) else { break };
                if !self.part(&mut file, unfinished, length, source, run, &stop)? {
                    break;
                }
                file.sync_data().map_err(failed)?;
                journal.lock().unwrap_or_else(PoisonError::into_inner).note(part).map_err(failed)?;
            }
            Ok(())
        };
        let work = || {
            let result = work();
            // The others stop where they are: their parts come with the next attempt.
            stop.fetch_or(result.is_err(), Ordering::Relaxed);
            result
        };
        thread::scope(|scope| {
            let connections = self.settings.connections.clamp(1, todo.len().max(1));
            let others: Vec<_> = (1..connections).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for other in others {
                match other.join() {
                    Ok(theirs) => result = result.and(theirs),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            result
        })
    }

    /// Fetches one part; false if it was told to stop.
    fn part(
        &self,
        file: &mut File,
        unfinished: &Path,
        length: u64,
        source: &Source,
        run: &Run,
        stop: &AtomicBool,
    ) -> Result<bool, HubError> {
        let mut got = 0;
        let mut failed = 0;
        let mut buffer = vec![0; 128 << 10];
        while got < run.len {
            let range = (run.from + got, run.from + run.len);
            let before = got;
            let reason = match self.client.range(self.repo, &source.name, &source.info, range) {
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(reason)) => reason,
                Ok(mut body) => {
                    file.seek(SeekFrom::Start(run.to + got)).map_err(HubError::io(unfinished))?;
                    loop {
                        if stop.load(Ordering::Relaxed) {
                            return Ok(false);
                        }
                        match body.read(&mut buffer) {
                            Ok(0) => break "it ended too early".to_owned(),
                            Ok(read) => {
                                let bytes = buffer.get(..read).unwrap_or_default();
                                let written = file.write_all(bytes);
                                written.map_err(|error| HubError::write(unfinished, length, error))?;
                                got += read as u64;
                                self.progress.advance(read as u64);
                            }
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                            Err(error) => break error.to_string(),
                        }
                    }
                }
            };
            if got == run.len {
                break;
            }
            failed = if got > before { 1 } else { failed + 1 };
            if failed >= self.client.attempts() {
                return Err(HubError::Cut { file: source.name.clone(), attempts: failed, reason });
            }
            self.client.pause(failed);
        }
        Ok(true)
    }
}

/// Runs cut into parts of at most `longest` bytes.
fn parts(runs: &[Run], longest: u64) -> Vec<Run> {
    let longest = longest.max(1);
    let cut = |run: &Run| {
        let Run { source, from, to, len } = *run;
        let starts = (0..len.div_ceil(longest)).map(move |part| part * longest);
        starts.map(move |start| Run {
            source,
            from: from + start,
            to: to + start,
            len: longest.min(len - start),
        })
    };
    runs.iter().flat_map(cut).collect()
}

/// Makes the unfinished file as long as it will be, so that a full disk shows before anything is fetched.
fn reserve(unfinished: &Path, length: u64, head: &[u8]) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(false).write(true).open(unfinished)?;
    file.set_len(length)?;
    #[cfg(target_os = "linux")]
    if length > 0 {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length) {
            // Where a file system cannot do it, the writes show it.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.write_all(head)
}

/// Checks a file whose ETag is the SHA-256 of its bytes, as that of every large file is.
fn check_sha256(unfinished: &Path, source: &Source) -> Result<(), HubError> {
    let expected = &source.info.etag;
    if expected.len() != 64 || !expected.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut hash = Sha256::new();
    let mut file = File::open(unfinished).map_err(HubError::io(unfinished))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(HubError::io(unfinished))?;
        if read == 0 {
            break;
        }
        hash.update(buffer.get(..read).unwrap_or_default());
    }
    let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if got.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(HubError::Checksum { file: source.name.clone(), expected: expected.clone(), got })
}

/// Puts a rename on the disk.
fn sync_folder(file: &Path) -> io::Result<()> {
    match file.parent() {
        // Only on Unix can a folder be opened as a file.
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

fn beside(target: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    target.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_their_runs() {
        let runs = [
            Run { source: 0, from: 100, to: 8, len: 25 },
            Run { source: 1, from: 7, to: 33, len: 10 },
            Run { source: 1, from: 90, to: 43, len: 0 },
        ];
        let parts: Vec<_> =
            parts(&runs, 10).into_iter().map(|run| (run.source, run.from, run.to, run.len)).collect();
        assert_eq!(parts, [(0, 100, 8, 10), (0, 110, 18, 10), (0, 120, 28, 5), (1, 7, 33, 10)]);
    }
}
