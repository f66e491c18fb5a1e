//! Embeddings that are kept between runs: a [`Store`] for each tower of each model, in a folder of the user's.

use std::path::{Path, PathBuf};

use crate::store::{Store, StoreError};

/// Where the cache is by default: `siglip/embeddings` in `$XDG_CACHE_HOME`, or else in `~/.cache`.
pub(crate) fn default_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(caches.join("siglip").join("embeddings"))
}

/// Opens the cache for what `owner` ([`crate::identity::of`]) computes. Nothing depends on it but time: where it cannot
/// be used, that is said and the run does without; a file that is damaged is begun anew.
pub(crate) fn open(folder: &Path, owner: &str) -> Option<Store> {
    let path = folder.join(format!("{owner}.cache"));
    let open = || {
        std::fs::create_dir_all(folder)?;
        match Store::open(&path, owner) {
            Err(error @ (StoreError::NotAStore | StoreError::Foreign)) => {
                tracing::warn!("the cache {} is damaged ({error}): it is made anew", path.display());
                std::fs::remove_file(&path)?;
                Store::open(&path, owner)
            }
            opened => opened,
        }
    };
    open().inspect_err(|error| tracing::warn!("no cache: {}: {error}", path.display())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    #[test]
    fn a_damaged_cache_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        let mut store = open(&below, "me").unwrap();
        store.append(Entry { key: "k".into(), image: None }, &[1.0]).unwrap();
        assert!(open(&below, "me").is_none(), "it is in use");
        drop(store);
        assert_eq!(open(&below, "me").unwrap().len(), 1);
        std::fs::write(below.join("me.cache"), "not what it was").unwrap();
        assert_eq!(open(&below, "me").unwrap().len(), 0);
        std::fs::copy(below.join("me.cache"), below.join("you.cache")).unwrap();
        assert_eq!(open(&below, "you").unwrap().len(), 0, "another's is not believed");
        assert!(open(&below.join("me.cache"), "me").is_none(), "a file is no folder");
    }
}
