//! Batches in, embeddings out: staging, copies beside computation, graphs.
//!
//! A tower on a card has two [slots](Slot), each with pinned memory, memory on the card and graphs of its own, and streams
//! for its copies. All computation is in one stream, which uses one scratch memory; so while the card computes for one
//! slot, the other one's input is copied there, its computation queued, or its results copied back. An engine with both
//! slots lets them take turns at the passes of a batch; of two engines with one slot each, two threads compute two batches.
//!
//! A batch is computed in passes of at most `items_at_once` items. A pass's size is padded to the next bucket, for each of
//! which the whole pass was recorded as a graph when the engine was built.
//!
//! A product's last blocks rarely fill a card, and what comes next waits for them. So a bucket is recorded also as two
//! halves that know nothing of each other, in which one's layer norm and attention, and its first blocks, run where the
//! other's last ones leave room; whichever is faster is kept.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siglip::engine::{Engine, EngineError, EngineInfo, Input, Tower};
use siglip::profile::Profile;

use crate::clock::Clock;
use crate::encoder::{LEAST_ROWS, Launcher, Mode, Scratch};
use crate::error::CudaError;
use crate::gpu::Gpu;
use crate::kernels::Kernels;
use crate::memory::{DeviceBuffer, PinnedBuffer, View};
use crate::plan::Plan;
use crate::random::Random;
use crate::stream::{Event, Graph, Stream};

/// One tower's forward pass.
pub(crate) trait TowerPass: Send {
    /// Bytes of its weights on the card.
    fn weights_bytes(&self) -> usize;

    /// Launches the pass of `items` items: token ids (u32) or pixels (f32) in, `[max(items, 16), embedding_size]` f32 out.
    fn launch(
        &self,
        to: &Launcher<'_>,
        items: usize,
        input: View<'_>,
        output: View<'_>,
    ) -> Result<(), CudaError>;
}

/// Runs of a graph that are timed.
const TIMED_RUNS: usize = 3;

/// Slots of a tower.
const SLOTS: usize = 2;

/// A tower on a card, with all that computes a batch.
///
/// Fields are dropped in their order, and streams wait for their work before anything that it uses goes.
pub(crate) struct CudaEngine {
    slots: Vec<Slot>,
    /// f32, `[max_batch_size, embedding_size]`.
    embeddings: PinnedBuffer,
    tower: Arc<CardTower>,
}

/// What the engines of a tower share.
struct CardTower {
    /// Locked while a pass is put into it, so that passes lie there one after the other.
    compute: Mutex<Compute>,
    /// Sizes of passes, ascending; the last one is `items_at_once`.
    buckets: Vec<usize>,
    items_at_once: usize,
    info: EngineInfo,
    gpu: Arc<Gpu>,
}

/// Where all passes are computed, one after the other.
///
/// What the graphs refer to is kept here.
pub(crate) struct Compute {
    stream: Stream,
    /// For the second half of a pass while it is recorded.
    beside: Stream,
    pass: Box<dyn TowerPass>,
    kernels: Kernels,
    scratch: Scratch,
    plan: Plan,
    profile: Option<Arc<Profile>>,
    gpu: Arc<Gpu>,
}

/// How the pass of a bucket is recorded. The bits of its rows are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Halves,
}

/// Where a pass's input and output are.
struct Slot {
    uploads: Stream,
    downloads: Stream,
    /// One for each bucket.
    graphs: Vec<Graph>,
    pinned: PinnedBuffer,
    input: DeviceBuffer,
    /// f32, `[max(items_at_once, 16), embedding_size]`.
    output: DeviceBuffer,
    /// Of one item.
    input_bytes: usize,
    output_bytes: usize,
    /// The input is on the card.
    copied: Event,
    /// The output is on the card.
    computed: Event,
    /// The output is on the host: the slot is free.
    fetched: Event,
}

impl CudaEngine {
    /// Plans and records the passes of a tower, and returns `engines` engines, at most [`SLOTS`], that may be used at
    /// once. `info` is complete but for what is known only now.
    pub(crate) fn new(
        mut compute: Compute,
        (items_at_once, engines): (usize, usize),
        mut info: EngineInfo,
    ) -> Result<Vec<CudaEngine>, CudaError> {
        let gpu = Arc::clone(&compute.gpu);
        let mut slots = Vec::new();
        for _ in 0..SLOTS {
            slots.push(Slot::new(&gpu, &compute.stream, items_at_once, &info)?);
        }
        compute.stream.wait()?;

        let list = |items| {
            let products = RefCell::new(Vec::new());
            compute.launch(Mode::List(&products), items, &slots[0])?;
            Ok::<_, CudaError>(products.into_inner())
        };
        let products =
            bucket_sizes(items_at_once).into_iter().map(list).collect::<Result<Vec<_>, CudaError>>()?;
        gpu.check_memory(
            "choosing the algorithms of matrix products",
            Plan::probe_bytes(&products.concat()),
        )?;
        compute.plan =
            Plan::new(&gpu, &compute.stream, compute.scratch.whole().workspace, &products.concat())?;

        let (mut buckets, mut times) = (Vec::new(), Vec::new());
        for (items, products) in bucket_sizes(items_at_once).into_iter().zip(&products) {
            // The largest is always covered: its choices are what the others are held to.
            if items != items_at_once && !compute.plan.covers(products) {
                tracing::info!("{} tower: batches of {items} are padded to the next size", info.tower);
                continue;
            }
            let (form, milliseconds) = compute.faster_form(items, has_halves(items, &buckets), &slots[0])?;
            tracing::debug!("{} tower: {items} items take {milliseconds} ms, {form:?}", info.tower);
            buckets.push(items);
            times.push(milliseconds);
            for slot in &mut slots {
                let graph = compute.record(form, items, slot)?;
                slot.graphs.push(graph);
            }
        }
        let mut kept = faster_than_all_larger(&times);
        for ((items, kept), equal) in
            buckets.iter().zip(&mut kept).zip(compute.equal_bits(&buckets, &slots[0], &info)?)
        {
            if equal {
                continue;
            }
            if *items == items_at_once {
                // There is no other.
                tracing::warn!("{} tower: here bits depend on the place in a batch of {items}", info.tower);
            } else {
                tracing::warn!("{} tower: batches of {items}, whose bits differ, are padded", info.tower);
                *kept = false;
            }
        }
        retain(&mut buckets, &kept);
        slots.iter_mut().for_each(|slot| retain(&mut slot.graphs, &kept));
        info.weights_bytes = compute.pass.weights_bytes();
        info.kernels.clone_from(&compute.kernels.target);
        let tower = Arc::new(CardTower { compute: Mutex::new(compute), buckets, items_at_once, info, gpu });
        let per_engine = SLOTS / engines.clamp(1, SLOTS);
        let mut built = Vec::new();
        while slots.len() >= per_engine {
            built.push(CudaEngine::with(&tower, slots.split_off(slots.len() - per_engine))?);
        }
        Ok(built)
    }

    fn with(tower: &Arc<CardTower>, slots: Vec<Slot>) -> Result<CudaEngine, CudaError> {
        let CardTower { gpu, info, .. } = &**tower;
        let embeddings = PinnedBuffer::new(gpu, info.max_batch_size * info.embedding_size * 4)?;
        Ok(CudaEngine { slots, embeddings, tower: Arc::clone(tower) })
    }

    /// Puts rows of `input`, given as bytes, into the streams.
    pub(crate) fn begin(&mut self, input: &[u8]) -> Result<(), CudaError> {
        let tower = &*self.tower;
        tower.gpu.make_current()?;
        let row_bytes = tower.info.input_len * 4;
        let embedding_bytes = tower.info.embedding_size * 4;
        let mut done = 0;
        let slots = self.slots.len();
        for (pass, input) in input.chunks(tower.items_at_once * row_bytes).enumerate() {
            let items = input.len() / row_bytes;
            let slot = &mut self.slots[pass % slots];
            // An earlier pass may still be in it.
            slot.fetched.wait()?;
            // SAFETY: the copies from it are behind the slot's last batch, which is over.
            let pinned = unsafe { slot.pinned.as_mut_bytes() };
            pinned[..input.len()].copy_from_slice(input);
            slot.pinned.upload(&slot.input, input.len(), &slot.uploads)?;
            slot.copied.record(&slot.uploads)?;
            tower.compute(slot, items)?;
            slot.downloads.wait_for(&slot.computed)?;
            let bytes = items * embedding_bytes;
            self.embeddings.download(done * embedding_bytes, &slot.output, bytes, &slot.downloads)?;
            slot.fetched.record(&slot.downloads)?;
            done += items;
        }
        Ok(())
    }

    /// Waits for all rows that were begun, and gives their embeddings.
    pub(crate) fn finish(&self) -> Result<impl Iterator<Item = f32>, CudaError> {
        self.tower.gpu.make_current()?;
        self.slots.iter().try_for_each(|slot| slot.downloads.wait())?;
        // SAFETY: all copies to it are over, and none is begun while this is borrowed.
        let (embeddings, _) = unsafe { self.embeddings.as_bytes() }.as_chunks();
        Ok(embeddings.iter().map(|bytes| f32::from_ne_bytes(*bytes)))
    }

    /// Waits until nothing that was begun can write into memory that the next call uses, after something failed.
    fn calm_down(&self) {
        // It cannot fail better than it did.
        for slot in &self.slots {
            let _ = slot.uploads.wait();
        }
        let _ = self.tower.lock().stream.wait();
        for slot in &self.slots {
            let _ = slot.downloads.wait();
        }
    }

    /// Records the passes of all buckets that can be computed in halves so, whichever is faster, and says how many.
    #[cfg(test)]
    pub(crate) fn use_halves(&mut self) -> usize {
        let compute = self.tower.lock();
        let mut changed = 0;
        for slot in &mut self.slots {
            for (index, items) in self.tower.buckets.iter().enumerate() {
                if has_halves(*items, &self.tower.buckets) {
                    slot.graphs[index] = compute.record(Form::Halves, *items, slot).unwrap();
                    changed += 1;
                }
            }
        }
        changed
    }
}

impl CardTower {
    /// Puts a pass over the input of a slot into the stream.
    fn compute(&self, slot: &Slot, items: usize) -> Result<(), CudaError> {
        let bucket = self.buckets.iter().position(|bucket| *bucket >= items);
        let graph = bucket.and_then(|bucket| Some((self.buckets.get(bucket)?, slot.graphs.get(bucket)?)));
        let (items, graph) = graph.expect("the largest bucket holds the largest pass");
        let compute = self.lock();
        compute.stream.wait_for(&slot.copied)?;
        match &compute.profile {
            None => graph.launch(&compute.stream)?,
            Some(profile) => compute.measure(*items, slot, profile)?,
        }
        slot.computed.record(&compute.stream)
    }

    fn lock(&self) -> MutexGuard<'_, Compute> {
        self.compute.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compute {
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        kernels: Kernels,
        pass: Box<dyn TowerPass>,
        scratch: Scratch,
        stream: Stream,
        profile: Option<Arc<Profile>>,
    ) -> Result<Compute, CudaError> {
        let (beside, plan) = (Stream::new(gpu)?, Plan::default());
        Ok(Compute { stream, beside, pass, kernels, scratch, plan, profile, gpu: Arc::clone(gpu) })
    }

    fn launch(&self, mode: Mode<'_>, items: usize, slot: &Slot) -> Result<(), CudaError> {
        let Compute { stream, kernels, scratch, gpu, .. } = self;
        let to = Launcher { gpu, kernels, stream, room: scratch.whole(), mode };
        self.pass.launch(&to, items, slot.input.view(), slot.output.view())
    }

    /// Launches the first or the second half of twice as many items.
    fn launch_half(&self, half: usize, items: usize, slot: &Slot) -> Result<(), CudaError> {
        let Compute { kernels, scratch, gpu, plan, .. } = self;
        let stream = [&self.stream, &self.beside][half];
        let to = Launcher { gpu, kernels, stream, room: scratch.half(half, items), mode: Mode::Run(plan) };
        let input = slot.input.view().part(half, items * slot.input_bytes);
        let output = slot.output.view().part(half, items * slot.output_bytes);
        self.pass.launch(&to, items, input, output)
    }

    /// The pass of a bucket as a graph.
    fn record(&self, form: Form, items: usize, slot: &Slot) -> Result<Graph, CudaError> {
        match form {
            Form::Whole => self.stream.capture(|| self.launch(Mode::Run(&self.plan), items, slot)),
            Form::Halves => {
                let (begun, ended) = (Event::new(&self.gpu)?, Event::new(&self.gpu)?);
                self.stream.capture(|| {
                    begun.record(&self.stream)?;
                    self.beside.wait_for(&begun)?;
                    self.launch_half(0, items / 2, slot)?;
                    self.launch_half(1, items / 2, slot)?;
                    ended.record(&self.beside)?;
                    self.stream.wait_for(&ended)
                })
            }
        }
    }

    /// Whether each of a slot's passes gives every item the bits that the last and largest one gives it, in whatever place.
    /// The plan has seen to that as far as it can see what an algorithm does; this is the proof. It leaves items in the
    /// slot's input.
    fn equal_bits(&self, buckets: &[usize], slot: &Slot, info: &EngineInfo) -> Result<Vec<bool>, CudaError> {
        slot.input.upload(&probe_items(info, slot.input.bytes()))?;
        let pass = |(items, graph): (&usize, &Graph)| {
            graph.launch(&self.stream)?;
            self.stream.wait()?;
            let mut rows = vec![0; items * slot.output_bytes];
            slot.output.download(0, &mut rows)?;
            Ok::<_, CudaError>(rows)
        };
        let passes = buckets.iter().zip(&slot.graphs).map(pass).collect::<Result<Vec<_>, _>>()?;
        let Some(largest) = passes.last() else { return Ok(Vec::new()) };
        let expected = largest.chunks(slot.output_bytes).take(PROBE_ITEMS).cycle();
        let equal = |pass: &Vec<u8>| {
            pass.chunks(slot.output_bytes).zip(expected.clone()).all(|(row, same)| row == same)
        };
        Ok(passes.iter().map(equal).collect())
    }

    /// The form in which a bucket is computed faster, and the milliseconds it takes.
    fn faster_form(&self, items: usize, has_halves: bool, slot: &Slot) -> Result<(Form, f32), CudaError> {
        let whole = self.time(&self.record(Form::Whole, items, slot)?)?;
        if !has_halves {
            return Ok((Form::Whole, whole));
        }
        let halves = self.time(&self.record(Form::Halves, items, slot)?)?;
        Ok(if halves < whole { (Form::Halves, halves) } else { (Form::Whole, whole) })
    }

    /// Milliseconds of a graph.
    fn time(&self, graph: &Graph) -> Result<f32, CudaError> {
        let (start, end) = (Event::timed(&self.gpu)?, Event::timed(&self.gpu)?);
        // The first run only wakes the card.
        graph.launch(&self.stream)?;
        start.record(&self.stream)?;
        for _ in 0..TIMED_RUNS {
            graph.launch(&self.stream)?;
        }
        end.record(&self.stream)?;
        end.wait()?;
        Ok(end.milliseconds_since(&start)? / TIMED_RUNS as f32)
    }

    /// A pass, operation by operation.
    fn measure(&self, items: usize, slot: &Slot, profile: &Profile) -> Result<(), CudaError> {
        let clock = Clock::new(&self.gpu, &self.stream);
        self.launch(Mode::Time(&self.plan, &clock), items, slot)?;
        clock.add_to(profile)
    }
}

impl Slot {
    fn new(
        gpu: &Arc<Gpu>,
        stream: &Stream,
        items_at_once: usize,
        info: &EngineInfo,
    ) -> Result<Slot, CudaError> {
        let (input_bytes, output_bytes) = (info.input_len * 4, info.embedding_size * 4);
        let zeroed = |what, bytes| {
            let buffer = DeviceBuffer::new(gpu, what, bytes)?;
            // Items that are not there are computed too: their ids must be in the vocabulary.
            buffer.zero(stream)?;
            Ok::<_, CudaError>(buffer)
        };
        Ok(Slot {
            uploads: Stream::new(gpu)?,
            downloads: Stream::new(gpu)?,
            graphs: Vec::new(),
            pinned: PinnedBuffer::new(gpu, items_at_once * input_bytes)?,
            input: zeroed("a batch's input", items_at_once * input_bytes)?,
            output: zeroed("a batch's embeddings", items_at_once.max(LEAST_ROWS) * output_bytes)?,
            input_bytes,
            output_bytes,
            copied: Event::new(gpu)?,
            computed: Event::new(gpu)?,
            fetched: Event::new(gpu)?,
        })
    }
}

impl Engine for CudaEngine {
    fn info(&self) -> &EngineInfo {
        &self.tower.info
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        let input = match self.info().tower {
            Tower::Text => bytes_of(self.info().token_ids(input, output.len())?),
            Tower::Vision => bytes_of(self.info().pixel_values(input, output.len())?),
        };
        match self.begin(input).and_then(|()| self.finish()) {
            Ok(embeddings) => {
                output.iter_mut().zip(embeddings).for_each(|(value, embedding)| *value = embedding)
            }
            Err(error) => {
                self.calm_down();
                return Err(error.on_card(self.tower.gpu.index));
            }
        }
        self.info().check_finite(output)
    }
}

/// Which sizes of passes, given their times in ascending order, are of use: cuBLASLt has slow algorithms for some numbers of
/// rows. The clock may decide, since a row's bits are the same in all of them.
fn faster_than_all_larger(times: &[f32]) -> Vec<bool> {
    let mut least = f32::INFINITY;
    let mut useful = Vec::new();
    for &time in times.iter().rev() {
        useful.push(time < least);
        least = least.min(time);
    }
    useful.reverse();
    useful
}

/// Items of which [`Compute::equal_bits`] makes a batch; a prime number, so that an item is in many places of it.
const PROBE_ITEMS: usize = 13;

/// `bytes` bytes of [`PROBE_ITEMS`] items, over and over.
fn probe_items(info: &EngineInfo, bytes: usize) -> Vec<u8> {
    let mut random = Random::seeded(0);
    let value = |_| {
        let bits = random.bits();
        match info.tower {
            Tower::Text => ((u64::from(bits) * info.vocab_size as u64) >> 32) as u32,
            Tower::Vision => (bits as f32 / (1_u32 << 31) as f32 - 1.0).to_bits(),
        }
    };
    let items: Vec<u8> = (0..PROBE_ITEMS * info.input_len).map(value).flat_map(u32::to_ne_bytes).collect();
    let mut batch = items.repeat(bytes.div_ceil(items.len().max(1)));
    batch.truncate(bytes);
    batch
}

/// Whether a bucket can be computed in halves: they are a bucket too, and what has a row an item is not padded in them.
fn has_halves(items: usize, buckets: &[usize]) -> bool {
    items.is_multiple_of(2) && items / 2 >= LEAST_ROWS && buckets.contains(&(items / 2))
}

/// Leaves those that are to be kept.
fn retain<T>(of: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    of.retain(|_| kept.next().is_none_or(|kept| *kept));
}

/// Sizes of passes: powers of two, and from 16 on what lies halfway between.
fn bucket_sizes(items_at_once: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut size = 1;
    while size < items_at_once {
        sizes.push(size);
        if size >= 16 && size * 3 / 2 < items_at_once {
            sizes.push(size * 3 / 2);
        }
        size *= 2;
    }
    sizes.push(items_at_once);
    sizes
}

/// A number whose bytes may be read: no padding, any bits.
pub(crate) trait Plain: Copy {}
impl Plain for u32 {}
impl Plain for f32 {}

pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: a `Plain` value is as many initialised bytes as its size.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::{bucket_sizes, faster_than_all_larger, retain};

    #[test]
    fn a_size_that_is_no_faster_than_a_larger_one_goes() {
        let kept = faster_than_all_larger(&[1.7, 1.3, 1.4, 1.4, 2.0]);
        assert_eq!(kept, [false, true, false, true, true]);
        let mut sizes = vec![1, 2, 4, 8, 16];
        retain(&mut sizes, &kept);
        assert_eq!(sizes, [2, 8, 16]);
        assert_eq!(faster_than_all_larger(&[]), [false; 0]);
    }

    #[test]
    fn buckets_end_at_the_largest_pass() {
        assert_eq!(bucket_sizes(1), [1]);
        assert_eq!(bucket_sizes(3), [1, 2, 3]);
        assert_eq!(bucket_sizes(32), [1, 2, 4, 8, 16, 24, 32]);
        assert_eq!(bucket_sizes(512), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]);
    }
}
