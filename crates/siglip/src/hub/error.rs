//! Why a model did not come from the Hub.

use std::io;
use std::path::{Path, PathBuf};

/// Every way in which a fetch can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name is not one of a repository.
    #[error(
        "`{given}` is not the name of a model on the Hub: it must be like `google/siglip-base-patch16-224`, or with a \
         revision `google/siglip-base-patch16-224@main`"
    )]
    Name {
        /// What was given.
        given: String,
    },
    /// Neither a variable nor a home folder says where the cache is.
    #[error("there is no place for the Hub's cache: set HF_HOME or HF_HUB_CACHE, or HOME")]
    NoCache,
    /// The network may not be used, and the cache lacks something.
    #[error(
        "HF_HUB_OFFLINE is set and the cache has {} (looked in {}); unset it, or run `siglip fetch {repo}` where there is \
         a network",
        if missing.is_empty() { format!("nothing of {repo}") } else { format!("no {} of {repo}", missing.join(", no ")) },
        looked.display()
    )]
    Offline {
        /// The model.
        repo: String,
        /// The files that are not there; empty, if none is.
        missing: Vec<String>,
        /// The model's folder in the cache.
        looked: PathBuf,
    },
    /// The Hub does not let this user in.
    #[error(
        "the Hub refuses {repo} (status {status}): {}",
        if *with_token {
            "the token that was sent does not give access; if the model is gated, accept its terms on its page"
        } else {
            "it is gated or private, or there is no such model; set HF_TOKEN to a token that has access"
        }
    )]
    Denied {
        /// The model.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// There is no such model.
    #[error("there is no model {repo} on {endpoint}")]
    NoRepo {
        /// The model.
        repo: String,
        /// Where it was looked for.
        endpoint: String,
    },
    /// The model has no such revision.
    #[error("{id} has no revision `{revision}`")]
    NoRevision {
        /// The model.
        id: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// The model lacks a file that is needed.
    #[error("{repo} has no {file}{}", if file.contains("safetensors") { ", the only form of weights that is read" } else { "" })]
    NoFile {
        /// The model.
        repo: String,
        /// The file.
        file: String,
    },
    /// There is no connection, or it broke too often.
    #[error("{url} cannot be reached after {attempts} attempts: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// How often.
        attempts: u32,
        /// What went wrong at last.
        reason: String,
    },
    /// A transfer broke again and again without getting on.
    #[error(
        "the connection for {file} was cut {attempts} times in a row without a byte more ({reason}); what has come is \
         kept, and the next attempt goes on from there"
    )]
    Cut {
        /// The file.
        file: String,
        /// How often it broke in a row.
        attempts: u32,
        /// How it broke at last.
        reason: String,
    },
    /// The answer is not one that a Hub gives.
    #[error("the answer to {url} is not one of a Hub: {reason}")]
    Reply {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A file does not have the length that the Hub said.
    #[error("{file} has the wrong length: the Hub says {expected} bytes, but {got} were offered")]
    Length {
        /// The file.
        file: String,
        /// As the Hub says.
        expected: u64,
        /// As the server of the bytes says.
        got: u64,
    },
    /// A file's bytes are not those that the Hub means.
    #[error("{file} came damaged: its SHA-256 is {got}, but the Hub says {expected}; it was thrown away")]
    Checksum {
        /// The file.
        file: String,
        /// As the Hub says.
        expected: String,
        /// What came.
        got: String,
    },
    /// The header of the weights cannot be used.
    #[error("{file} of {repo} is not a valid safetensors file: {reason}")]
    Weights {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights hold nothing of the tower that was asked for.
    #[error("{repo} has no {tower} tower")]
    NoTower {
        /// The model.
        repo: String,
        /// The tower.
        tower: crate::engine::Tower,
    },
    /// The disk is full, or a limit on files is reached.
    #[error("{} needs {needed} bytes, and the disk has no room for them: {error}", path.display())]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
        /// How long it is to be.
        needed: u64,
        /// What the system said.
        error: io::Error,
    },
    /// The cache cannot be written or read.
    #[error("{} cannot be used: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl HubError {
    /// What a failed write of a file of `needed` bytes means.
    pub(super) fn write(path: &Path, needed: u64, error: io::Error) -> HubError {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let path = path.to_owned();
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => HubError::DiskFull { path, needed, error },
            _ => HubError::Io { path, error },
        }
    }

    /// For `map_err` on what is done with a path.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> HubError {
        let path = path.to_owned();
        move |error| HubError::Io { path, error }
    }
}
