//! From the command line's options to a model and its engines.

use std::sync::Arc;

use siglip::engine::{Engine, Tower};
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

/// Builds the engine of a tower that the model must have.
pub(crate) fn engine(
    model: &Model,
    tower: Tower,
    options: &EngineOptions,
) -> Result<Box<dyn Engine>, Failure> {
    let engine = match (tower, &model.text, &model.vision, options) {
        (Tower::Text, Some(weights), _, EngineOptions::Cpu(options)) => {
            siglip_cpu::text_engine(weights, options)?
        }
        (Tower::Vision, _, Some(weights), EngineOptions::Cpu(options)) => {
            siglip_cpu::vision_engine(weights, options)?
        }
        (Tower::Text, Some(weights), _, EngineOptions::Cuda(options)) => {
            siglip_cuda::text_engine(weights, options)?
        }
        (Tower::Vision, _, Some(weights), EngineOptions::Cuda(options)) => {
            siglip_cuda::vision_engine(weights, options)?
        }
        _ => return Err(no_tower(model, tower)),
    };
    Ok(engine)
}

/// The model lacks the tower.
pub(crate) fn no_tower(model: &Model, tower: Tower) -> Failure {
    Failure::NoTower { model: model.name.clone(), tower, missing: model.missing.join(" ") }
}
