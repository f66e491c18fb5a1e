//! One model's place in the cache, and what is there.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{HubError, Progress, Repo};
use crate::engine::Tower;
use crate::model::layout;
use crate::tokenizer::Tokenizer;
use crate::weights::{Weights, WeightsIndex};

/// A model's folder in the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

/// A snapshot, whole or not.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) folder: PathBuf,
    /// The files that a model usually has and that are not there.
    pub(super) lacks: Vec<String>,
    /// Whether it can be opened: configuration and weights are there.
    pub(super) usable: bool,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &Repo) -> RepoCache {
        let name = format!("models--{}", repo.id.replace('/', "--"));
        RepoCache { root: cache.join(&name), locks: cache.join(".locks").join(&name) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The snapshot that the cache knows the revision by.
    pub(super) fn snapshot(&self, repo: &Repo) -> Option<Snapshot> {
        let folder = self.snapshot_folder(&commit(&self.refs(), repo)?);
        if !folder.is_dir() {
            return None;
        }
        // `is_file` follows the links, so a link to a blob that is gone does not count.
        let there = |name: &&str| folder.join(name).is_file();
        let mut lacks = Vec::new();
        let open_clip = !there(&layout::CONFIG) && there(&layout::OPEN_CLIP_CONFIG);
        if !open_clip && !there(&layout::CONFIG) {
            lacks.push(layout::CONFIG.to_owned());
        }
        lacks.extend(missing_weights(&folder, open_clip));
        let usable = lacks.is_empty();
        if ![Tokenizer::SPIECE, Tokenizer::JSON].iter().any(there) {
            lacks.push(format!("{} or {}", Tokenizer::SPIECE, Tokenizer::JSON));
        }
        if !open_clip && !there(&layout::PREPROCESSOR) {
            lacks.push(layout::PREPROCESSOR.to_owned());
        }
        Some(Snapshot { folder, lacks, usable })
    }

    /// The towers that the cache holds by themselves for the revision, and their folders.
    pub(super) fn towers(&self, repo: &Repo) -> Vec<(Tower, PathBuf)> {
        let Some(commit) = commit(&self.tower_refs(), repo) else { return vec![] };
        let towers = [Tower::Text, Tower::Vision].map(|tower| (tower, self.tower_folder(&commit, tower)));
        let weights = [Weights::FILE, Weights::OPEN_CLIP_FILE];
        let is_there = |folder: &Path| weights.iter().any(|name| folder.join(name).is_file());
        towers.into_iter().filter(|(_, folder)| is_there(folder)).collect()
    }

    pub(super) fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn tower_folder(&self, commit: &str, tower: Tower) -> PathBuf {
        self.towers_folder(commit).join(tower.to_string())
    }

    pub(super) fn towers_folder(&self, commit: &str) -> PathBuf {
        self.root.join("siglip").join(commit)
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    pub(super) fn tower_refs(&self) -> PathBuf {
        self.root.join("siglip/refs")
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Notes which commit a revision stands at.
    pub(super) fn point(&self, refs: &Path, revision: &str, commit: &str) -> Result<(), HubError> {
        let file = refs.join(revision);
        if revision == commit || fs::read_to_string(&file).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        write_whole(&file, commit.as_bytes())
    }

    /// Makes a blob known under a file's name in `folder`.
    pub(super) fn link(&self, etag: &str, folder: &Path, name: &str) -> Result<(), HubError> {
        create_dir(folder)?;
        let link = folder.join(name);
        let up = folder.strip_prefix(&self.root).unwrap_or(folder).components().count();
        let target: PathBuf = std::iter::repeat_n("..", up).chain(["blobs", etag]).collect();
        if fs::read_link(&link).is_ok_and(|current| current == target) {
            return Ok(());
        }
        let temporary = temporary(&link);
        let made = symlink(&target, &self.blob(etag), &temporary);
        made.and_then(|()| fs::rename(&temporary, &link)).map_err(HubError::io(&link))
    }

    /// Waits until no other process, ours or Python's, fetches the blob, and keeps them out while the result lives.
    pub(super) fn lock(&self, etag: &str, name: &str, progress: &dyn Progress) -> Result<File, HubError> {
        create_dir(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options().create(true).append(true).open(&path).map_err(HubError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!("Another process is fetching {name}; waiting for it."));
                file.lock().map_err(HubError::io(&path))?;
                Ok(file)
            }
            Err(TryLockError::Error(error)) => Err(HubError::Io { path, error }),
        }
    }
}

/// The commit of a revision, as far as the files in `refs` know it.
fn commit(refs: &Path, repo: &Repo) -> Option<String> {
    if repo.is_commit() {
        return Some(repo.revision.clone());
    }
    let commit = fs::read_to_string(refs.join(&repo.revision)).ok()?;
    let commit = commit.trim();
    // What the file says becomes a path.
    super::repo::is_part(commit).then(|| commit.to_owned())
}

fn missing_weights(folder: &Path, open_clip: bool) -> Vec<String> {
    let there = |name: &str| folder.join(name).is_file();
    if open_clip {
        let file = Weights::OPEN_CLIP_FILE;
        return if there(file) { vec![] } else { vec![file.to_owned()] };
    }
    if there(Weights::FILE) {
        return vec![];
    }
    let index = fs::read(folder.join(Weights::INDEX)).ok();
    match index.and_then(|bytes| WeightsIndex::parse(&bytes).ok()) {
        None => vec![Weights::FILE.to_owned()],
        Some(index) => index.files.into_keys().filter(|file| !there(file)).collect(),
    }
}

pub(super) fn create_dir(dir: &Path) -> Result<(), HubError> {
    fs::create_dir_all(dir).map_err(|error| HubError::write(dir, 4096, error))
}

/// Writes a small file so that it is seen whole or not at all.
fn write_whole(file: &Path, bytes: &[u8]) -> Result<(), HubError> {
    if let Some(parent) = file.parent() {
        create_dir(parent)?;
    }
    let temporary = temporary(file);
    let written = File::create(&temporary).and_then(|mut created| {
        created.write_all(bytes)?;
        created.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, file)).map_err(|error| {
        // What is left of it is of no use, and nothing depends on its removal.
        let _ = fs::remove_file(&temporary);
        HubError::write(file, bytes.len() as u64, error)
    })
}

/// A name beside `path` that nobody else uses, in this process or another.
fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{count}.tmp", std::process::id()));
    path.with_file_name(name)
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    // One that a killed process of the same number left behind would be in the way.
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(target, link)
}

/// Windows asks for a privilege to make links; Python's tools copy there, too.
#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    fs::copy(blob, link).map(drop)
}
