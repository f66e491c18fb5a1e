//! What `siglip doctor` says of NVIDIA cards.

use serde::Serialize;
use siglip_cuda::probe;

use crate::args::CudaArgs;
use crate::engine_options::library_path;

/// Cards and the libraries that they are used with.
#[derive(Debug, Serialize)]
pub(crate) struct Gpu {
    /// Whether `--device auto` computes on a card.
    usable: bool,
    cards: Vec<Card>,
    /// Why no card is seen, if none is.
    no_cards: Option<String>,
    libraries: Vec<Library>,
}

#[derive(Debug, Serialize)]
struct Card {
    name: String,
    compute_capability: String,
    memory_mb: f64,
    /// Whether its generation is new enough.
    supported: bool,
    /// Whether its tensor cores multiply fp8.
    fp8: bool,
}

#[derive(Debug, Serialize)]
struct Library {
    name: String,
    path: Option<String>,
    version: Option<String>,
    /// What is wrong, and how the library is usually had.
    problem: Option<String>,
}

impl Gpu {
    pub(crate) fn examine(args: &CudaArgs) -> Gpu {
        let probe = probe(&library_path(args));
        let usable = probe.usable();
        let libraries = probe.libraries.into_iter().map(|(library, found)| {
            let (found, problem) = match found {
                Ok(found) => (Some(found), None),
                Err(error) => (None, Some(error.to_string())),
            };
            let (path, version) = found.map(|found| (found.path, found.version)).unzip();
            Library { name: library.to_string(), path, version, problem }
        });
        let (cards, no_cards) = match probe.cards {
            Ok(cards) => (cards, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let card = |card: &probe::Card| Card {
            name: card.name.clone(),
            compute_capability: format!("{}.{}", card.capability.0, card.capability.1),
            memory_mb: card.memory as f64 / 1e6,
            supported: card.is_supported(),
            fp8: card.has_fp8(),
        };
        Gpu { usable, cards: cards.iter().map(card).collect(), no_cards, libraries: libraries.collect() }
    }

    /// One line.
    pub(crate) fn summary(&self) -> String {
        if self.usable {
            let several = match self.cards.iter().filter(|card| card.supported).count() {
                0 | 1 => String::new(),
                count => format!("; serve --device cuda:all uses {count} cards"),
            };
            return format!("used by --device auto{several}");
        }
        let why = if self.cards.is_empty() { "no card is seen" } else { "a card is there, see below" };
        format!("not used: {why}")
    }

    /// Cards and libraries, a line each.
    pub(crate) fn table(&self) -> String {
        let mut text = "\nNVIDIA\n".to_owned();
        for (index, card) in self.cards.iter().enumerate() {
            let supported = match (card.supported, card.fp8) {
                (false, _) => "; too old: 8.0 (Ampere) or later is needed",
                (true, false) => "",
                (true, true) => ", with fp8",
            };
            text += &format!(
                "cuda:{index}        {}, compute capability {}, {:.0} MB{supported}\n",
                card.name, card.compute_capability, card.memory_mb
            );
        }
        for library in &self.libraries {
            text += &match (&library.version, &library.path, &library.problem) {
                (Some(version), Some(path), _) => format!("{}: {version} ({path})\n", library.name),
                (_, _, Some(problem)) => format!("{problem}\n"),
                _ => continue,
            };
        }
        text
    }
}
