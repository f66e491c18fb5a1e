//! The models that the server was given, whether their towers are loaded now or not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use siglip::engine::{Engine, EngineInfo, Tower};
use siglip::image::ImageProcessor;

use crate::batcher::{Batcher, BatcherOptions};
use crate::cache::EmbeddingCache;
use crate::error::{LoadError, ServeError};
use crate::labels::LabelCache;
use crate::options::ServerOptions;
use crate::prepare::PreparationPool;
use crate::served::{BuildEngines, ServedModel, ServedText, ServedVision, Similarity};
use crate::tokenize::Tokenize;

/// The names by which `embed_model` means the first model that has what is needed: those of the original deployment. One
/// that a model is called by means that model instead.
const DEFAULT_NAMES: [&str; 3] = ["siglip", "siglip_text", "siglip_vision"];

/// The models in the order in which they were given; the first is the default.
pub(crate) struct Catalogue {
    pub(crate) models: Vec<CatalogueModel>,
}

/// Embeddings by their token ids.
type ResultCache = EmbeddingCache<Box<[u32]>>;

/// A model.
pub(crate) struct CatalogueModel {
    /// Its own name, and the short one if that has a part before a slash.
    pub(crate) names: Arc<[String]>,
    text: Option<TextLine>,
    vision: Option<VisionLine>,
    similarity: Option<Similarity>,
    labels: Arc<LabelCache>,
}

struct TextLine {
    line: Line,
    cache: Option<Arc<ResultCache>>,
    tokenizer: Option<Arc<dyn Tokenize>>,
    pool: Arc<PreparationPool>,
}

struct VisionLine {
    line: Line,
    dims: [usize; 3],
    processor: Option<Arc<ImageProcessor>>,
    pool: Arc<PreparationPool>,
}

/// A text tower that is loaded, and what texts need to get there.
#[derive(Clone)]
pub(crate) struct TextTower {
    pub(crate) batcher: Arc<Batcher>,
    /// What was computed before, if it is kept.
    pub(crate) cache: Option<Arc<ResultCache>>,
    pub(crate) tokenizer: Option<Arc<dyn Tokenize>>,
    pub(crate) pool: Arc<PreparationPool>,
}

/// An image tower that is loaded, and what images need to get there.
#[derive(Clone)]
pub(crate) struct VisionTower {
    pub(crate) batcher: Arc<Batcher>,
    pub(crate) dims: [usize; 3],
    pub(crate) processor: Option<Arc<ImageProcessor>>,
    pub(crate) pool: Arc<PreparationPool>,
}

impl Catalogue {
    /// Takes the models in and starts their batchers.
    pub(crate) fn build(models: Vec<ServedModel>, options: &ServerOptions) -> Result<Self, ServeError> {
        let pool = PreparationPool::start(options.preparation_threads).map_err(ServeError::Thread)?;
        let pool = Arc::new(pool);
        let mut catalogue = Catalogue { models: Vec::with_capacity(models.len()) };
        for model in models {
            let model = CatalogueModel::build(model, &pool, options)?;
            if let Some(name) = model.names.iter().find(|name| catalogue.has_name(name)) {
                return Err(ServeError::DuplicateModel(name.clone()));
            }
            catalogue.models.push(model);
        }
        Ok(catalogue)
    }

    /// The names that mean whichever model is the first to have what is needed.
    pub(crate) fn default_names(&self) -> impl Iterator<Item = &'static str> {
        DEFAULT_NAMES.into_iter().filter(|name| !self.has_name(name))
    }

    fn has_name(&self, name: &str) -> bool {
        self.models.iter().any(|model| model.names.iter().any(|own| own == name))
    }

    /// The batchers of the towers that are loaded, each with its model's name.
    pub(crate) fn batchers(&self) -> impl Iterator<Item = (&str, Arc<Batcher>)> {
        self.models.iter().flat_map(|model| {
            let lines = [
                model.text.as_ref().map(|text| &text.line),
                model.vision.as_ref().map(|vision| &vision.line),
            ];
            let loaded = lines.into_iter().flatten().filter_map(Line::loaded);
            loaded.map(|batcher| (model.name(), batcher))
        })
    }
}

impl CatalogueModel {
    fn build(
        model: ServedModel,
        pool: &Arc<PreparationPool>,
        options: &ServerOptions,
    ) -> Result<Self, ServeError> {
        let ServedModel { name, text, vision, similarity } = model;
        let text = match text {
            None => None,
            Some(ServedText { engines, rebuild, peak_flops, tokenizer }) => {
                check_engines(&engines, Tower::Text, &name, None)?;
                let line = Line::start(engines, (rebuild, peak_flops), options)?;
                let cache = (options.cache_bytes > 0)
                    .then(|| Arc::new(ResultCache::new(options.cache_bytes, |ids| ids.len() * 4)));
                Some(TextLine { line, cache, tokenizer, pool: pool.clone() })
            }
        };
        let vision = match vision {
            None => None,
            Some(ServedVision { engines, rebuild, peak_flops, dims, processor }) => {
                check_engines(&engines, Tower::Vision, &name, Some(dims))?;
                if let Some(processor) = &processor {
                    check_processor(processor, dims, &name)?;
                }
                let line = Line::start(engines, (rebuild, peak_flops), options)?;
                Some(VisionLine { line, dims, processor: processor.map(Arc::new), pool: pool.clone() })
            }
        };
        let short = name.rsplit_once('/').map(|(_, short)| short.to_owned());
        let names = std::iter::once(name).chain(short).collect();
        let labels = Arc::new(LabelCache::new(options.max_queue_size));
        Ok(CatalogueModel { names, text, vision, similarity, labels })
    }

    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    pub(crate) fn has(&self, tower: Tower) -> bool {
        match tower {
            Tower::Text => self.text.is_some(),
            Tower::Vision => self.vision.is_some(),
        }
    }

    /// Whether texts can be embedded, and not just token ids.
    pub(crate) fn has_tokenizer(&self) -> bool {
        self.text.as_ref().is_some_and(|text| text.tokenizer.is_some())
    }

    /// Whether image files can be embedded, and not just pixel values.
    pub(crate) fn has_processor(&self) -> bool {
        self.vision.as_ref().is_some_and(|vision| vision.processor.is_some())
    }

    /// What makes scores of cosines.
    pub(crate) fn similarity(&self) -> Option<Similarity> {
        self.similarity
    }

    pub(crate) fn labels(&self) -> Arc<LabelCache> {
        self.labels.clone()
    }

    /// The text tower, loaded if it is not.
    pub(crate) fn text(&self) -> Result<TextTower, LoadError> {
        let TextLine { line, cache, tokenizer, pool } =
            self.text.as_ref().ok_or(LoadError::NoTower(Tower::Text))?;
        let (cache, tokenizer, pool) = (cache.clone(), tokenizer.clone(), pool.clone());
        Ok(TextTower { batcher: line.load()?, cache, tokenizer, pool })
    }

    /// The image tower, loaded if it is not.
    pub(crate) fn vision(&self) -> Result<VisionTower, LoadError> {
        let VisionLine { line, dims, processor, pool } =
            self.vision.as_ref().ok_or(LoadError::NoTower(Tower::Vision))?;
        Ok(VisionTower {
            batcher: line.load()?,
            dims: *dims,
            processor: processor.clone(),
            pool: pool.clone(),
        })
    }
}

/// A tower's batcher, for as long as an endpoint uses it. If there is a way to get it back, memory is freed when the
/// last one is unloaded.
struct Line {
    /// Locked to look and to put something else there, and never while an engine is built: whoever asks how the server
    /// fares looks, too.
    batcher: Mutex<Kept>,
    /// Held while an engine is built: whoever else wants it waits, and does not build a second one.
    building: Mutex<()>,
    rebuild: Option<BuildEngines>,
    options: BatcherOptions,
}

/// A batcher that is kept by this line, or by the endpoints that use it.
enum Kept {
    Here(Arc<Batcher>),
    ByEndpoints(Weak<Batcher>),
}

impl Line {
    fn start(
        engines: Vec<Box<dyn Engine>>,
        (rebuild, peak_flops): (Option<BuildEngines>, f64),
        options: &ServerOptions,
    ) -> Result<Self, ServeError> {
        let options = BatcherOptions {
            max_queue_delay: options.max_queue_delay,
            max_queue_size: options.max_queue_size,
            policy: options.queue_policy,
            canary_interval: options.canary_interval,
            peak_flops,
        };
        let batcher = Batcher::start(engines, options).map_err(ServeError::Thread)?;
        // Until the endpoints are there, and for good if it could not be built again.
        let batcher = Mutex::new(Kept::Here(Arc::new(batcher)));
        Ok(Line { batcher, building: Mutex::default(), rebuild, options })
    }

    fn loaded(&self) -> Option<Arc<Batcher>> {
        match &*self.kept() {
            Kept::Here(batcher) => Some(batcher.clone()),
            Kept::ByEndpoints(batcher) => batcher.upgrade(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batcher, for an endpoint to keep.
    fn load(&self) -> Result<Arc<Batcher>, LoadError> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let batcher = match (self.loaded(), &self.rebuild) {
            (Some(batcher), _) => batcher,
            (None, Some(rebuild)) => {
                let engines = rebuild().map_err(LoadError::Engine)?;
                Arc::new(Batcher::start(engines, self.options).map_err(LoadError::Thread)?)
            }
            (None, None) => return Err(LoadError::Engine("there is no way to build it again".to_owned())),
        };
        if self.rebuild.is_some() {
            *self.kept() = Kept::ByEndpoints(Arc::downgrade(&batcher));
        }
        Ok(batcher)
    }
}

/// Refuses engines whose sizes make no sense, so that nothing behind this has to doubt them.
fn check_engines(
    engines: &[Box<dyn Engine>],
    tower: Tower,
    model: &str,
    dims: Option<[usize; 3]>,
) -> Result<(), ServeError> {
    let fail = |reason: String| Err(ServeError::Engine { tower, model: model.to_owned(), reason });
    let Some((first, others)) = engines.split_first() else { return fail("there is none".to_owned()) };
    let info = first.info();
    if others.iter().any(|other| sizes(other.info()) != sizes(info)) {
        return fail("several are given, and their sizes differ".to_owned());
    }
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

/// What engines behind one queue have in common.
fn sizes(info: &EngineInfo) -> (Tower, [usize; 4]) {
    (info.tower, [info.max_batch_size, info.input_len, info.vocab_size, info.embedding_size])
}

fn check_processor(processor: &ImageProcessor, dims: [usize; 3], model: &str) -> Result<(), ServeError> {
    let (height, width) = processor.output_size();
    if [3, height, width] == dims {
        return Ok(());
    }
    let reason = format!("images are prepared as {:?} and it takes {dims:?}", [3, height, width]);
    Err(ServeError::Engine { tower: Tower::Vision, model: model.to_owned(), reason })
}
