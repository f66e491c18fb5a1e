//! From the command line's options to a model and its engines.

use std::sync::Arc;

use siglip::engine::{Engine, Tower};
use siglip::hub::Repo;
use siglip::model::Model;
use siglip_cpu::{Pool, available_threads};

use crate::args::{EngineArgs, ModelArgs};
use crate::demo;
use crate::engine_options::EngineOptions;
use crate::failure::Failure;
use crate::fetch;

/// The model that is meant when none is named.
const DEFAULT_MODEL: &str = "google/siglip-so400m-patch14-384";

/// Opens the model that the options name.
pub(crate) fn model(args: &ModelArgs) -> Result<Model, Failure> {
    let model = match &args.model {
        _ if args.demo => Model::from_static(demo::FILES)?,
        Some(dir) if dir.is_dir() => Model::open(dir)?,
        Some(name) => match name.to_str().and_then(|name| name.parse().ok()) {
            Some(repo) => fetch::model(&repo)?,
            None => return Err(Failure::NotAFolder(name.clone())),
        },
        None => {
            let model = DEFAULT_MODEL.parse().map_err(Failure::from).and_then(|repo| fetch::model(&repo));
            model.map_err(|error| Failure::DefaultModel { model: DEFAULT_MODEL, error: Box::new(error) })?
        }
    };
    for missing in &model.missing {
        tracing::info!("{}: {missing}", model.name);
    }
    Ok(model)
}

/// What [`model`] calls the model that the options name.
pub(crate) fn name(args: &ModelArgs) -> String {
    let hub = |name: &str| name.parse::<Repo>().map(|repo| repo.name().to_owned()).ok();
    match &args.model {
        _ if args.demo => demo::FILES.name.to_owned(),
        Some(dir) if dir.is_dir() => Model::name_of(dir),
        Some(name) => name.to_str().and_then(hub).unwrap_or_else(|| name.to_string_lossy().into_owned()),
        None => hub(DEFAULT_MODEL).unwrap_or_default(),
    }
}

/// What engines are built with.
pub(crate) fn options(args: &EngineArgs, max_batch_size: usize) -> Result<EngineOptions, Failure> {
    EngineOptions::new(args, max_batch_size)
}

/// Threads to compute with: those asked for, or those that the process may use.
pub(crate) fn pool(threads: Option<u16>) -> Result<Arc<Pool>, Failure> {
    let threads = threads.map_or_else(available_threads, usize::from);
    let pool = Pool::new(threads).map_err(|error| Failure::System { what: "a thread", error })?;
    Ok(Arc::new(pool))
}

/// Builds the engine of a tower that the model must have, on one device.
pub(crate) fn engine(
    model: &Model,
    tower: Tower,
    options: &EngineOptions,
) -> Result<Box<dyn Engine>, Failure> {
    match options {
        EngineOptions::Cpu(options) => cpu_engine(model, tower, options),
        EngineOptions::Cuda(cards) => match cards.cards.as_slice() {
            [card] => {
                card_engines(model, tower, &cards.on(*card, 1))?.pop().ok_or_else(|| no_tower(model, tower))
            }
            _ => Err(Failure::Usage(ONE_CARD)),
        },
    }
}

/// Builds the engines of a tower that the model must have: all that can compute at once on all devices.
pub(crate) fn engines(
    model: &Model,
    tower: Tower,
    options: &EngineOptions,
) -> Result<Vec<Box<dyn Engine>>, Failure> {
    match options {
        EngineOptions::Cpu(options) => Ok(vec![cpu_engine(model, tower, options)?]),
        EngineOptions::Cuda(cards) => {
            let mut engines = Vec::new();
            for &card in &cards.cards {
                engines.extend(card_engines(model, tower, &cards.on(card, ENGINES_OF_A_CARD))?);
            }
            Ok(engines)
        }
    }
}

/// One batch computes, and one is copied and queued behind it.
const ENGINES_OF_A_CARD: usize = 2;

const ONE_CARD: &str =
    "only `serve` and `bench --all-engines` compute on several cards: name one here, e.g. --device cuda:0";

fn cpu_engine(
    model: &Model,
    tower: Tower,
    options: &siglip_cpu::Options,
) -> Result<Box<dyn Engine>, Failure> {
    match (tower, &model.text, &model.vision) {
        (Tower::Text, Some(weights), _) => Ok(siglip_cpu::text_engine(weights, options)?),
        (Tower::Vision, _, Some(weights)) => Ok(siglip_cpu::vision_engine(weights, options)?),
        _ => Err(no_tower(model, tower)),
    }
}

fn card_engines(
    model: &Model,
    tower: Tower,
    options: &siglip_cuda::Options,
) -> Result<Vec<Box<dyn Engine>>, Failure> {
    let engines = match (tower, &model.text, &model.vision) {
        (Tower::Text, Some(weights), _) => siglip_cuda::text_engines(weights, options),
        (Tower::Vision, _, Some(weights)) => siglip_cuda::vision_engines(weights, options),
        _ => return Err(no_tower(model, tower)),
    };
    engines.map_err(|error| Failure::Card { card: options.card, error })
}

/// The model lacks the tower.
pub(crate) fn no_tower(model: &Model, tower: Tower) -> Failure {
    Failure::NoTower { model: model.name.clone(), tower, missing: model.missing.join(" ") }
}
