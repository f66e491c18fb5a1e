//! Models from the Hugging Face Hub, in the cache folder that Python's tools share.
//!
//! [`Hub::get`] is the folder of a model: from the cache without a connection where it is there, or else fetched.
//! [`Hub::fetch`] asks the Hub for the newest state first. [`Fetched::open`] then opens it as any other
//! ([`Model::open`]).
//!
//! Written here over a plain HTTP client, because `hf-hub` 1.0 lacks most of what a fetch of gigabytes needs: it starts
//! a cut download again from its first byte, takes one connection a file, has no offline mode, does not check what
//! came, and brings an asynchronous runtime and nearly 300 crates. The layout of the cache is that of the Python
//! package `huggingface_hub`, which can go on with what is fetched here, and the other way round:
//!
//! ```text
//! models--google--siglip-base-patch16-224/
//!     blobs/{etag}                       a file's bytes
//!     refs/main                          the commit that a branch stood at
//!     snapshots/{commit}/config.json     → ../../blobs/{etag}
//!     siglip/refs/main                   ours, of the tower folders below
//!     siglip/{commit}/text/              ours: one tower, in a smaller model.safetensors
//! ```

mod cache;
mod client;
mod download;
mod error;
mod files;
mod journal;
mod repo;
mod settings;
mod tower;

use std::path::PathBuf;

use cache::RepoCache;
use client::Client;
use files::Plan;

pub use error::HubError;
pub use repo::Repo;
pub use settings::{Patience, Settings, Token};

use crate::engine::Tower;
use crate::model::{Model, ModelError};

/// The Hub, as the settings reach it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// A model's folder in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The folder.
    pub folder: PathBuf,
    /// The only tower that it holds, if it does not hold the whole model.
    pub only: Option<Tower>,
    /// The folder of the other tower, if that was fetched by itself, too.
    pub other: Option<PathBuf>,
}

impl Fetched {
    /// A folder that holds all of a model that there is.
    fn whole(folder: PathBuf) -> Fetched {
        Fetched { folder, only: None, other: None }
    }

    /// The towers that were fetched by themselves; none, if none was.
    fn towers(towers: Vec<(Tower, PathBuf)>) -> Option<Fetched> {
        let mut towers = towers.into_iter();
        let (tower, folder) = towers.next()?;
        let other = towers.next().map(|(_, folder)| folder);
        Some(Fetched { folder, only: other.is_none().then_some(tower), other })
    }

    /// Opens the model.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub fn open(&self) -> Result<Model, ModelError> {
        Model::open_parts(&self.folder, self.other.as_slice())
    }
}

/// Is told how a fetch goes on, from several threads at once.
pub trait Progress: Sync {
    /// A file of `bytes` bytes is fetched, of which `done` were there from an earlier attempt.
    fn start(&self, file: &str, bytes: u64, done: u64);
    /// So many more bytes of a file that was started have come.
    fn advance(&self, bytes: u64);
    /// The file that was started last is whole.
    fn finish(&self);
    /// Something else that a user wants to know, one sentence.
    fn note(&self, sentence: &str);
}

impl Hub {
    /// The Hub behind `settings`. Nothing is opened before it is asked for.
    pub fn new(settings: Settings) -> Hub {
        Hub { client: Client::new(&settings), settings }
    }

    /// The model's folder: from the cache, without a connection, if everything is there; or else fetched.
    ///
    /// The cache may hold towers only that [`Hub::fetch`] fetched by themselves: then those are it. A branch is not looked up
    /// again while the cache knows it; [`Hub::fetch`] does that.
    ///
    /// # Errors
    ///
    /// As [`Hub::fetch`].
    pub fn get(&self, repo: &Repo, progress: &dyn Progress) -> Result<Fetched, HubError> {
        let cache = RepoCache::new(&self.settings.cache, repo);
        let cached = cache.snapshot(repo);
        if let Some(snapshot) = &cached
            && snapshot.lacks.is_empty()
        {
            return Ok(Fetched::whole(snapshot.folder.clone()));
        }
        if let Some(towers) = Fetched::towers(cache.towers(repo)) {
            return Ok(towers);
        }
        match self.fetch(repo, None, progress) {
            // The Hub cannot be asked whether the model has more than what the cache holds, but that can be used.
            Err(HubError::Unreachable { .. }) if cached.as_ref().is_some_and(|cached| cached.usable) => {
                progress.note(&format!("The Hub cannot be reached; the cache's copy of {repo} is used."));
                Ok(Fetched::whole(cached.map(|cached| cached.folder).unwrap_or_default()))
            }
            fetched => fetched,
        }
    }

    /// Fetches what the cache lacks of the model's newest state, and is its folder. With `tower`, only the tensors of
    /// that tower are fetched, into a folder beside the snapshots.
    ///
    /// Offline, it is what the cache holds.
    ///
    /// # Errors
    ///
    /// [`HubError`]; what has come until then stays for the next attempt.
    pub fn fetch(
        &self,
        repo: &Repo,
        tower: Option<Tower>,
        progress: &dyn Progress,
    ) -> Result<Fetched, HubError> {
        let cache = RepoCache::new(&self.settings.cache, repo);
        if self.settings.offline {
            return self.offline(repo, tower, &cache);
        }
        let listing = self.client.listing(repo)?;
        let plan = Plan::new(repo, &listing, tower)?;
        let job = download::Job { client: &self.client, settings: &self.settings, repo, progress };
        let folder = match tower {
            None => {
                let folder = cache.snapshot_folder(&listing.commit);
                for file in plan.small.iter().chain([&plan.weights]) {
                    job.file(&cache, &listing.commit, file, &folder)?;
                }
                for shard in job.shards(&plan, &folder)? {
                    job.file(&cache, &listing.commit, &shard, &folder)?;
                }
                // Last, so that the name leads to a whole snapshot and never to one that is being fetched.
                cache.point(&cache.refs(), &repo.revision, &listing.commit)?;
                folder
            }
            Some(tower) => {
                let folder = cache.tower_folder(&listing.commit, tower);
                for file in &plan.small {
                    job.file(&cache, &listing.commit, file, &folder)?;
                }
                job.tower(&cache, &listing.commit, &plan, tower, &folder)?;
                cache.point(&cache.tower_refs(), &repo.revision, &listing.commit)?;
                folder
            }
        };
        Ok(Fetched { folder, only: tower, other: None })
    }

    fn offline(&self, repo: &Repo, tower: Option<Tower>, cache: &RepoCache) -> Result<Fetched, HubError> {
        let snapshot = cache.snapshot(repo);
        let missing = match snapshot {
            Some(snapshot) if snapshot.usable => {
                return Ok(Fetched::whole(snapshot.folder));
            }
            Some(snapshot) => snapshot.lacks,
            None => vec![],
        };
        let mut towers = cache.towers(repo);
        towers.retain(|(found, _)| tower.is_none_or(|tower| tower == *found));
        Fetched::towers(towers).ok_or_else(|| {
            let looked = cache.root().to_owned();
            HubError::Offline { repo: repo.to_string(), missing, looked }
        })
    }
}
