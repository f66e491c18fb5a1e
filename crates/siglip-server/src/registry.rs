//! What is served, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use siglip::engine::{Engine, EngineInfo, Tower};

use crate::batcher::{Batcher, BatcherOptions};
use crate::endpoint::{Endpoint, Texts};
use crate::error::{LookupError, ServeError};
use crate::options::ServerOptions;
use crate::prepare::PreparationPool;
use crate::tokenize::Tokenize;

/// The one version of every model.
pub(crate) const VERSION: &str = "1";

/// A model to serve: one tower, or both.
pub struct ServedModel {
    /// Its own name, e.g. `google/siglip-so400m-patch14-384`.
    pub name: String,
    /// Its text tower.
    pub text: Option<ServedText>,
    /// Its image tower.
    pub vision: Option<ServedVision>,
}

/// A text tower to serve.
pub struct ServedText {
    /// What computes it.
    pub engine: Box<dyn Engine>,
    /// What makes token ids of texts; without it, clients have to.
    pub tokenizer: Option<Arc<dyn Tokenize>>,
}

/// An image tower to serve.
pub struct ServedVision {
    /// What computes it.
    pub engine: Box<dyn Engine>,
    /// Channels, height and width of an image.
    pub dims: [usize; 3],
}

/// The endpoints by name, and the batchers behind them.
pub(crate) struct Registry {
    endpoints: BTreeMap<String, Endpoint>,
    batchers: Vec<Arc<Batcher>>,
}

impl Registry {
    /// Starts the batchers and names the endpoints.
    pub(crate) fn build(models: Vec<ServedModel>, options: &ServerOptions) -> Result<Self, ServeError> {
        let mut registry = Registry { endpoints: BTreeMap::new(), batchers: Vec::new() };
        let batcher_options = BatcherOptions {
            max_queue_delay: options.max_queue_delay,
            max_queue_size: options.max_queue_size,
        };
        let pool = PreparationPool::start(options.preparation_threads).map_err(ServeError::Thread)?;
        let pool = Arc::new(pool);
        for model in models {
            if let Some(ServedText { engine, tokenizer }) = model.text {
                check_engine(engine.info(), Tower::Text, &model.name, None)?;
                let batcher = registry.start(engine, batcher_options)?;
                let names = Arc::from([String::from("siglip_text"), model.name.clone()]);
                let texts = tokenizer.map(|tokenizer| Texts { tokenizer, pool: pool.clone(), models: names });
                registry.add(Endpoint::token_ids("siglip_text", batcher.clone(), texts.clone()))?;
                if let Some(texts) = texts {
                    registry.add(Endpoint::texts("embed_text", batcher, texts))?;
                }
            }
            if let Some(ServedVision { engine, dims }) = model.vision {
                check_engine(engine.info(), Tower::Vision, &model.name, Some(dims))?;
                let batcher = registry.start(engine, batcher_options)?;
                registry.add(Endpoint::pixels("siglip_vision", batcher, dims))?;
            }
        }
        if registry.endpoints.is_empty() { Err(ServeError::NoModel) } else { Ok(registry) }
    }

    fn start(
        &mut self,
        engine: Box<dyn Engine>,
        options: BatcherOptions,
    ) -> Result<Arc<Batcher>, ServeError> {
        let batcher = Arc::new(Batcher::start(engine, options).map_err(ServeError::Thread)?);
        self.batchers.push(batcher.clone());
        Ok(batcher)
    }

    fn add(&mut self, endpoint: Endpoint) -> Result<(), ServeError> {
        let name = endpoint.spec().name.clone();
        match self.endpoints.insert(name.clone(), endpoint) {
            None => Ok(()),
            Some(_) => Err(ServeError::DuplicateModel(name)),
        }
    }

    /// The endpoint of that name and version; without a version, or with an empty one, the only one.
    pub(crate) fn find(&self, name: &str, version: Option<&str>) -> Result<&Endpoint, LookupError> {
        let version = version.filter(|version| !version.is_empty()).map(parse_version).transpose()?;
        let endpoint = self.endpoints.get(name).ok_or_else(|| LookupError::Model(name.to_owned()))?;
        match version {
            None | Some(1) => Ok(endpoint),
            Some(version) => Err(LookupError::Version { model: name.to_owned(), version }),
        }
    }

    /// All endpoints, by name.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// All batchers.
    pub(crate) fn batchers(&self) -> impl Iterator<Item = &Batcher> {
        self.batchers.iter().map(|batcher| &**batcher)
    }
}

/// A version as a client writes it.
fn parse_version(text: &str) -> Result<i64, LookupError> {
    match text.parse() {
        Ok(version) if version < 0 => Err(LookupError::NegativeVersion(text.to_owned())),
        Ok(version) => Ok(version),
        Err(_) => Err(LookupError::VersionFormat(text.to_owned())),
    }
}

/// Refuses an engine whose sizes make no sense, so that nothing behind this has to doubt them.
fn check_engine(
    info: &EngineInfo,
    tower: Tower,
    model: &str,
    dims: Option<[usize; 3]>,
) -> Result<(), ServeError> {
    let fail = |reason: String| Err(ServeError::Engine { tower, model: model.to_owned(), reason });
    if info.tower != tower {
        return fail(format!("it computes the {} tower", info.tower));
    }
    if info.max_batch_size == 0 || info.input_len == 0 || info.embedding_size == 0 {
        return fail("its batch, input or embedding size is 0".to_owned());
    }
    if let Some(dims) = dims
        && dims.iter().product::<usize>() != info.input_len
    {
        return fail(format!(
            "it takes {} values a row, and an image of {dims:?} has others",
            info.input_len
        ));
    }
    Ok(())
}
