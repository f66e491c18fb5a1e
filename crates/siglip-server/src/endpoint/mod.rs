//! What the server does for each name that it is asked under.
//!
//! An endpoint is a name with its statistics. Behind it stands a [`Variant`] for each model that has what it takes; the
//! parameter `embed_model` picks one, and without it the first is meant. A variant takes one or two [`Form`]s of input:
//! `siglip_text` takes token ids or texts, and the name of the tensor tells which.

mod cached;
mod image;
mod kinds;
mod text;
mod zero_shot;

use std::sync::Arc;
use std::time::{Duration, Instant};

use siglip_protocol::{InferRequest, ModelSpec, OutputData, ParameterValue, TensorSpec};

use crate::batcher::{self, Admission, BatchError, Batcher, Rows};
use crate::catalogue::{TextTower, VisionTower};
use crate::error::InferError;
use crate::prepare::PreparationError;
use crate::statistics::{Answered, ModelCounters, StepTimes, Timing};
pub(crate) use kinds::{KINDS, Kind};
use zero_shot::ZeroShot;

/// A name that the server is asked under.
pub(crate) struct Endpoint {
    default: Variant,
    others: Vec<Variant>,
    counters: Arc<ModelCounters>,
}

/// An endpoint's way to one model.
pub(crate) struct Variant {
    /// The names that mean it, those for messages first.
    names: Vec<String>,
    /// The form that metadata shows.
    form: Form,
    other_form: Option<Form>,
}

/// A set of tensors, and what is done with them.
struct Form {
    spec: ModelSpec,
    task: Task,
}

/// What is done with a request's tensors.
enum Task {
    /// Token ids are embedded.
    EmbedIds(TextTower),
    /// Texts are embedded.
    EmbedTexts(TextTower),
    /// Texts become token ids.
    Tokenize(TextTower),
    /// Pixel values are embedded.
    EmbedPixels(VisionTower),
    /// Image files are embedded.
    EmbedImages(VisionTower),
    /// Image files become pixel values.
    Process(VisionTower),
    /// Image files are held against labels.
    ZeroShot(ZeroShot),
}

/// An answer, and how it came about.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The output's name.
    pub(crate) output: &'static str,
    /// Its dimensions, the batch's first.
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values,
    /// The rows of the batch that completed the request; 0 if it needed none.
    pub(crate) batch_rows: usize,
    /// When it was computed, if it was.
    pub(crate) timing: Option<Timing>,
}

impl Outcome {
    /// From admission to the first batch.
    pub(crate) fn queue(&self) -> Duration {
        self.timing.map_or(Duration::ZERO, |timing| timing.queue)
    }

    /// Over all batches that the request was part of.
    pub(crate) fn compute(&self) -> Duration {
        self.timing.map_or(Duration::ZERO, |timing| timing.steps.total())
    }
}

/// The elements of an output.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    Fp32(Vec<f32>),
    Int64(Vec<i64>),
}

impl Values {
    pub(crate) fn as_data(&self) -> OutputData<'_> {
        match self {
            Values::Fp32(values) => OutputData::Fp32(values),
            Values::Int64(values) => OutputData::Int64(values),
        }
    }
}

impl Endpoint {
    /// An endpoint of one variant or several, of which the first is the default; none of none.
    pub(crate) fn new(variants: Vec<Variant>) -> Option<Self> {
        let mut variants = variants.into_iter();
        let default = variants.next()?;
        Some(Endpoint { default, others: variants.collect(), counters: Arc::new(ModelCounters::new()) })
    }

    /// What it takes and gives, as metadata shows it.
    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.default.form.spec
    }

    /// The tensor of that name, of either form.
    pub(crate) fn input(&self, name: &str) -> Option<&TensorSpec> {
        let forms = std::iter::once(&self.default.form).chain(&self.default.other_form);
        forms.flat_map(|form| &form.spec.inputs).find(|input| input.name == name)
    }

    pub(crate) fn counters(&self) -> &ModelCounters {
        &self.counters
    }

    /// The default model's batcher, if it takes one to answer.
    pub(crate) fn batcher(&self) -> Option<&Batcher> {
        self.default.form.batchers().next()
    }

    /// What is wrong with an engine that it needs, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        self.variants().find_map(|variant| variant.form.fault())
    }

    /// Whether the model takes a request, as far as can be told without what is in shared memory.
    pub(crate) fn takes(&self, request: &InferRequest) -> bool {
        let check = |variant: &Variant| variant.form(request).spec.check(&mut request.clone()).is_ok();
        self.variant(request).is_ok_and(check)
    }

    /// Checks, prepares and computes a request that was received at `received`.
    pub(crate) async fn infer(
        &self,
        request: &mut InferRequest,
        received: Instant,
    ) -> Result<Outcome, InferError> {
        let form = self.variant(request)?.form(request);
        if let Some(fault) = form.fault() {
            return Err(InferError::NotReady(fault));
        }
        let (count, inputs) = form.spec.check(request)?;
        match &form.task {
            Task::EmbedIds(tower) => {
                let ids = text::read_ids(tower.batcher.info(), inputs)?;
                self.embed_ids(tower, (count, ids), request, received).await
            }
            Task::EmbedTexts(tower) => {
                // With a cache, only the ids tell whether the queue is needed at all.
                if tower.cache.is_none() {
                    self.check_room(&tower.batcher, count, request, received)?;
                }
                let ids = text::token_ids(tower, inputs, request).await?;
                self.embed_ids(tower, (count, ids), request, received).await
            }
            Task::EmbedPixels(tower) => {
                let rows = image::read_pixels(count, inputs);
                self.embed(&tower.batcher, rows, request, received).await
            }
            Task::EmbedImages(tower) => {
                self.check_room(&tower.batcher, count, request, received)?;
                let images = image::pixel_values(tower, inputs.into_iter().next(), request).await?;
                self.embed(&tower.batcher, Rows::pixel_rows(images), request, received).await
            }
            Task::Tokenize(tower) => {
                let ids = text::token_ids(tower, inputs, request).await?;
                let values = Values::Int64(ids.into_iter().map(i64::from).collect());
                Ok(self.prepared(
                    kinds::INPUT_IDS,
                    vec![count, tower.batcher.info().input_len],
                    values,
                    received,
                ))
            }
            Task::Process(tower) => {
                let images = image::pixel_values(tower, inputs.into_iter().next(), request).await?;
                let shape = std::iter::once(count).chain(tower.dims).collect();
                Ok(self.prepared(kinds::PIXEL_VALUES, shape, Values::Fp32(images.concat()), received))
            }
            Task::ZeroShot(zero_shot) => {
                let labels = zero_shot.read(count, inputs, request)?;
                self.check_room(&zero_shot.vision.batcher, count, request, received)?;
                zero_shot.score(labels, request, &self.counters, received).await
            }
        }
    }

    /// Refuses a request that the queue has no room for, before its texts or images are prepared.
    fn check_room(
        &self,
        batcher: &Batcher,
        rows: usize,
        request: &InferRequest,
        received: Instant,
    ) -> Result<(), InferError> {
        batcher.check_room(rows, &self.counters, received).map_err(|error| refused(request, error))
    }

    fn variants(&self) -> impl Iterator<Item = &Variant> {
        std::iter::once(&self.default).chain(&self.others)
    }

    /// The variant that `embed_model` names.
    fn variant(&self, request: &InferRequest) -> Result<&Variant, InferError> {
        let name = match request.parameter("embed_model") {
            None => return Ok(&self.default),
            Some(ParameterValue::String(name)) => name,
            Some(_) => return Err(InferError::ParameterType { name: "embed_model", expected: "a string" }),
        };
        self.variants().find(|variant| variant.names.contains(name)).ok_or_else(|| {
            let served = self.variants().flat_map(|variant| variant.names.clone()).collect();
            InferError::EmbedModel { got: name.clone(), served }
        })
    }

    /// Waits for the embeddings of rows that are ready.
    async fn embed(
        &self,
        batcher: &Batcher,
        rows: Rows,
        request: &InferRequest,
        received: Instant,
    ) -> Result<Outcome, InferError> {
        let count = rows.count();
        let answer = batcher.embed(rows, admission(&self.counters, request, received)).await;
        let batcher::Answer { embeddings, batch_rows, timing } =
            answer.map_err(|error| refused(request, error))?;
        let shape = vec![count, batcher.info().embedding_size];
        let values = Values::Fp32(embeddings);
        Ok(Outcome { output: kinds::EMBEDDING, shape, values, batch_rows, timing: Some(timing) })
    }

    /// An answer that took no engine, counted as one that did.
    fn prepared(
        &self,
        output: &'static str,
        shape: Vec<usize>,
        values: Values,
        received: Instant,
    ) -> Outcome {
        let count = shape.first().copied().unwrap_or(0);
        let compute = received.elapsed();
        let steps = StepTimes { infer: compute, ..StepTimes::default() };
        let answered = Answered { rows: count, total: compute, queue: Duration::ZERO, steps };
        self.counters.record_batch(count, steps, &[answered]);
        let timing = Timing { queued: received, queue: Duration::ZERO, steps };
        Outcome { output, shape, values, batch_rows: 0, timing: Some(timing) }
    }
}

impl Form {
    /// What is wrong with an engine that it needs, if anything is.
    fn fault(&self) -> Option<String> {
        self.batchers().find_map(|batcher| batcher.gauges().fault())
    }

    /// The batchers that it takes to answer.
    fn batchers(&self) -> impl Iterator<Item = &Batcher> {
        let (first, second): (Option<&Batcher>, Option<&Batcher>) = match &self.task {
            Task::EmbedIds(tower) | Task::EmbedTexts(tower) => (Some(&tower.batcher), None),
            Task::EmbedPixels(tower) | Task::EmbedImages(tower) => (Some(&tower.batcher), None),
            Task::ZeroShot(zero_shot) => (Some(&zero_shot.vision.batcher), Some(&zero_shot.text.batcher)),
            Task::Tokenize(_) | Task::Process(_) => (None, None),
        };
        first.into_iter().chain(second)
    }
}

impl Variant {
    /// The form that a request has, by the name of its first tensor.
    fn form(&self, request: &InferRequest) -> &Form {
        let named = |form: &&Form| {
            let first = request.inputs.first();
            first.is_some_and(|input| form.spec.inputs.iter().any(|spec| spec.name == input.name))
        };
        self.other_form.as_ref().filter(named).unwrap_or(&self.form)
    }
}

fn admission(counters: &Arc<ModelCounters>, request: &InferRequest, received: Instant) -> Admission {
    Admission {
        counters: counters.clone(),
        received,
        priority: request.priority,
        timeout: Duration::from_micros(request.timeout_us),
    }
}

/// The batcher's error as the answer to a request.
fn refused(request: &InferRequest, error: BatchError) -> InferError {
    match error {
        BatchError::QueueFull => InferError::Refused { id: request.id.clone(), error },
        error => InferError::Batch(error),
    }
}

/// The preparation's error as the answer to a request.
fn unprepared(request: &InferRequest, error: PreparationError) -> InferError {
    match error {
        PreparationError::Panicked => InferError::Preparation,
        PreparationError::Full => refused(request, BatchError::QueueFull),
    }
}

/// A parameter that is true or false, false if it is not there.
fn flag(request: &InferRequest, name: &'static str) -> Result<bool, InferError> {
    match request.parameter(name) {
        None => Ok(false),
        Some(ParameterValue::Bool(value)) => Ok(*value),
        Some(_) => Err(InferError::ParameterType { name, expected: "true or false" }),
    }
}
