//! `siglip fetch`, and models that are named by their place on the Hub.

use std::io::Write;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use siglip::engine::Tower;
use siglip::hub::{Hub, Progress, Repo, Settings};
use siglip::model::Model;

use crate::args::{FetchArgs, FetchTower};
use crate::failure::Failure;

/// Fetches a model and prints its folder.
pub(crate) fn run(args: &FetchArgs) -> Result<(), Failure> {
    // Read as `--model` reads it, so that `name@revision` works here, too.
    let mut repo: Repo = args.id.parse()?;
    if args.revision != Repo::MAIN {
        repo = Repo::new(&repo.id, &args.revision)?;
    }
    let mut settings = Settings::from_env()?;
    if let Some(endpoint) = &args.endpoint {
        settings.endpoint = endpoint.trim_end_matches('/').to_owned();
    }
    let tower = match args.tower {
        FetchTower::Both => None,
        FetchTower::Text => Some(Tower::Text),
        FetchTower::Vision => Some(Tower::Vision),
    };
    let fetched = Hub::new(settings).fetch(&repo, tower, &Bar::default())?;
    let mut folders = std::iter::once(&fetched.folder).chain(&fetched.other);
    folders
        .try_for_each(|folder| writeln!(std::io::stdout(), "{}", folder.display()))
        .map_err(Failure::Stdout)
}

/// Opens a model of the Hub, fetched if the cache lacks it.
pub(crate) fn model(repo: &Repo) -> Result<Model, Failure> {
    let fetched = Hub::new(Settings::from_env()?).get(repo, &Bar::default())?;
    if let Some(tower) = fetched.only {
        tracing::info!(
            "The cache holds the {tower} tower only of {repo}; `siglip fetch {repo}` gets the whole model."
        );
    }
    let mut model = fetched.open()?;
    // The folder is called after the commit or the tower.
    model.name = repo.name().to_owned();
    Ok(model)
}

/// The progress of one file at a time: a bar on a terminal, lines in the log elsewhere.
#[derive(Default)]
struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn start(&self, file: &str, bytes: u64, done: u64) {
        let shown = indicatif::HumanBytes(bytes);
        match done {
            0 => tracing::info!("fetching {file}, {shown}"),
            _ => tracing::info!(
                "fetching the rest of {file}: {} of {shown} are there",
                indicatif::HumanBytes(done)
            ),
        }
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(file.to_owned());
        bar.set_position(done);
        bar.reset_eta();
        self.with(|current| *current = Some(bar));
    }

    fn advance(&self, bytes: u64) {
        self.with(|current| {
            if let Some(bar) = current {
                bar.inc(bytes);
            }
        });
    }

    fn finish(&self) {
        self.with(|current| {
            if let Some(bar) = current.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn note(&self, sentence: &str) {
        tracing::info!("{sentence}");
    }
}
