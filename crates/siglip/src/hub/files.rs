//! Which files of a repository make a model, in either layout.

use super::client::Listing;
use super::{HubError, Repo};
use crate::engine::Tower;
use crate::model::layout;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// What to fetch.
#[derive(Debug)]
pub(super) struct Plan {
    /// The files beside the weights.
    pub(super) small: Vec<String>,
    /// The weights, or their index.
    pub(super) weights: String,
}

/// What a text tower needs, in both forms, so that Python's tools find theirs too.
const TEXT: &[&str] =
    &[Tokenizer::SPIECE, Tokenizer::JSON, "tokenizer_config.json", "special_tokens_map.json"];

/// What a vision tower needs.
const VISION: &[&str] = &["preprocessor_config.json"];

impl Plan {
    /// What there is of what a model, or one tower of it, needs.
    pub(super) fn new(repo: &Repo, listing: &Listing, tower: Option<Tower>) -> Result<Plan, HubError> {
        let there = |name: &&str| listing.files.iter().any(|file| file == name);
        let missing = |file: &str| HubError::NoFile { repo: repo.to_string(), file: file.to_owned() };
        let layouts = [
            (layout::CONFIG, &[Weights::FILE, Weights::INDEX][..]),
            (layout::OPEN_CLIP_CONFIG, &[Weights::OPEN_CLIP_FILE][..]),
        ];
        let found = layouts.iter().find_map(|(config, weights)| {
            Some((*config, weights.iter().find(|name| there(name)).filter(|_| there(config))?))
        });
        let Some((config, weights)) = found else {
            let has_config = layouts.iter().any(|(config, _)| there(config));
            return Err(missing(if has_config { Weights::FILE } else { layout::CONFIG }));
        };
        let mut small = vec![config];
        small.extend(TEXT.iter().filter(|name| tower != Some(Tower::Vision) && there(name)));
        small.extend(VISION.iter().filter(|name| tower != Some(Tower::Text) && there(name)));
        let small = small.into_iter().map(str::to_owned).collect();
        Ok(Plan { small, weights: (*weights).to_owned() })
    }

    /// Whether the weights are in several files.
    pub(super) fn is_sharded(&self) -> bool {
        self.weights == Weights::INDEX
    }
}
