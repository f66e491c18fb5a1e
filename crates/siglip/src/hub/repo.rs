//! A model's name on the Hub.

use std::fmt;
use std::str::FromStr;

use super::HubError;

/// A repository and a revision of it: `google/siglip-base-patch16-224`, or with `@` and a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// `organisation/name`.
    pub id: String,
    /// A branch, a tag or a commit; `main` by default.
    pub revision: String,
}

impl Repo {
    /// The branch that is meant when none is named.
    pub const MAIN: &'static str = "main";

    /// The repository of this id at this revision.
    ///
    /// # Errors
    ///
    /// [`HubError::Name`], if one is not as the Hub allows it.
    pub fn new(id: &str, revision: &str) -> Result<Repo, HubError> {
        let whole = Repo { id: id.to_owned(), revision: revision.to_owned() };
        let is_id = id.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name));
        // Its parts become names of files in the cache.
        let is_revision = revision.len() <= 255 && revision.split('/').all(is_part);
        if is_id && is_revision { Ok(whole) } else { Err(HubError::Name { given: whole.to_string() }) }
    }

    /// The name without the organisation.
    pub fn name(&self) -> &str {
        self.id.split_once('/').map_or(self.id.as_str(), |(_, name)| name)
    }

    /// Whether the revision is a whole commit hash, which always means the same files.
    pub(super) fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl FromStr for Repo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Repo, HubError> {
        let (id, revision) = text.split_once('@').unwrap_or((text, Repo::MAIN));
        Repo::new(id, revision)
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            Repo::MAIN => f.write_str(&self.id),
            revision => write!(f, "{}@{revision}", self.id),
        }
    }
}

/// Whether the Hub allows this as one part of a name, which also makes it a safe name of a file.
pub(super) fn is_part(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&part.len())
        && part.bytes().all(allowed)
        && !part.starts_with('.')
        && !part.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let repo: Repo = "google/siglip-so400m-patch14-384".parse().unwrap();
        assert_eq!((repo.name(), repo.revision.as_str()), ("siglip-so400m-patch14-384", "main"));
        assert_eq!(repo.to_string(), "google/siglip-so400m-patch14-384");
        let at: Repo = "a/b@refs/pr/1".parse().unwrap();
        assert_eq!((at.revision.as_str(), at.to_string().as_str()), ("refs/pr/1", "a/b@refs/pr/1"));
    }

    #[test]
    fn what_could_leave_the_cache_is_refused() {
        for name in [
            "", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@x//y", "a b/c", "a/b--c",
            "./m",
        ] {
            assert!(name.parse::<Repo>().is_err(), "{name}");
        }
    }
}
