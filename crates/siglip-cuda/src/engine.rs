//! Batches in, embeddings out: staging, copies beside computation, graphs.
//!
//! A batch is computed in passes of at most `items_at_once` items. Two slots, each with pinned memory, memory on the card
//! and graphs of its own, take turns: while the card computes one pass, the next one's input is copied, into pinned memory
//! by the host and from there to the card in a stream of its own. A pass's size is padded to the next bucket, for each of
//! which the whole pass was recorded as a graph when the engine was built.

use std::cell::RefCell;
use std::sync::Arc;

use siglip::engine::{Engine, EngineError, EngineInfo, Input, Tower};

use crate::encoder::{LEAST_ROWS, Launcher, Mode, Scratch};
use crate::error::CudaError;
use crate::gpu::Gpu;
use crate::kernels::Kernels;
use crate::memory::{DeviceBuffer, PinnedBuffer, View};
use crate::plan::Plan;
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

/// A tower on a card.
///
/// Fields are dropped in their order, and streams wait for their work before anything that it uses goes.
pub(crate) struct CudaEngine {
    compute: Stream,
    copies: Stream,
    /// Ascending; the last one holds `items_at_once`.
    buckets: Vec<Bucket>,
    items_at_once: usize,
    slots: [Slot; 2],
    /// f32, `[max(items_at_once, 16), embedding_size]`.
    output: DeviceBuffer,
    /// f32, `[max_batch_size, embedding_size]`.
    embeddings: PinnedBuffer,
    info: EngineInfo,
    gpu: Arc<Gpu>,
    /// What the graphs refer to.
    _kept: (Box<dyn TowerPass>, Kernels, Scratch),
}

/// A pass's size, and a graph for each slot.
struct Bucket {
    items: usize,
    graphs: [Graph; 2],
}

/// Where a pass's input is.
struct Slot {
    pinned: PinnedBuffer,
    device: DeviceBuffer,
    /// The input is on the card.
    copied: Event,
    /// The input is needed no more.
    computed: Event,
}

impl CudaEngine {
    /// Plans and records the passes of a tower. `info` is complete but for what is known only now.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        kernels: Kernels,
        pass: Box<dyn TowerPass>,
        scratch: Scratch,
        compute: Stream,
        items_at_once: usize,
        mut info: EngineInfo,
    ) -> Result<CudaEngine, CudaError> {
        let row_bytes = info.input_len * 4;
        let slot = || -> Result<Slot, CudaError> {
            let device = DeviceBuffer::new(gpu, "a batch's input", items_at_once * row_bytes)?;
            // Items that are not there are computed too: their ids must be in the vocabulary.
            device.zero(&compute)?;
            Ok(Slot {
                pinned: PinnedBuffer::new(gpu, items_at_once * row_bytes)?,
                device,
                copied: Event::new(gpu)?,
                computed: Event::new(gpu)?,
            })
        };
        let slots = [slot()?, slot()?];
        let output_bytes = items_at_once.max(LEAST_ROWS) * info.embedding_size * 4;
        let output = DeviceBuffer::new(gpu, "a batch's embeddings", output_bytes)?;
        output.zero(&compute)?;
        compute.wait()?;

        let launch = |mode: Mode<'_>, items: usize, slot: &Slot| {
            let to = Launcher { gpu, kernels: &kernels, stream: &compute, scratch: &scratch, mode };
            pass.launch(&to, items, slot.device.view(), output.view())
        };
        let list = |items| {
            let products = RefCell::new(Vec::new());
            launch(Mode::List(&products), items, &slots[0])?;
            Ok::<_, CudaError>(products.into_inner())
        };
        let products =
            bucket_sizes(items_at_once).into_iter().map(list).collect::<Result<Vec<_>, CudaError>>()?;
        gpu.check_memory(
            "choosing the algorithms of matrix products",
            Plan::probe_bytes(&products.concat()),
        )?;
        let plan = Plan::new(gpu, &compute, &scratch.workspace, &products.concat())?;

        let mut buckets = Vec::new();
        for (items, products) in bucket_sizes(items_at_once).into_iter().zip(&products) {
            // The largest is always covered: its choices are what the others are held to.
            if items != items_at_once && !plan.covers(products) {
                tracing::info!("{} tower: batches of {items} are padded to the next size", info.tower);
                continue;
            }
            let record = |slot| compute.capture(|| launch(Mode::Run(&plan), items, slot));
            buckets.push(Bucket { items, graphs: [record(&slots[0])?, record(&slots[1])?] });
        }
        let embeddings = PinnedBuffer::new(gpu, info.max_batch_size * info.embedding_size * 4)?;
        info.weights_bytes = pass.weights_bytes();
        info.kernels.clone_from(&kernels.target);
        Ok(CudaEngine {
            copies: Stream::new(gpu)?,
            compute,
            buckets,
            items_at_once,
            slots,
            output,
            embeddings,
            info,
            gpu: Arc::clone(gpu),
            _kept: (pass, kernels, scratch),
        })
    }

    /// Computes rows of `input`, given as bytes, into `embeddings`.
    fn passes(&mut self, input: &[u8]) -> Result<(), CudaError> {
        self.gpu.make_current()?;
        let row_bytes = self.info.input_len * 4;
        let embedding_bytes = self.info.embedding_size * 4;
        let items_at_once = self.items_at_once;
        let mut done = 0;
        for (pass, input) in input.chunks(items_at_once * row_bytes).enumerate() {
            let items = input.len() / row_bytes;
            let bucket = self.buckets.iter().find(|bucket| bucket.items >= items);
            let bucket = bucket.expect("the largest bucket holds the largest pass");
            let (slot, graph) = (&mut self.slots[pass % 2], &bucket.graphs[pass % 2]);
            // The pass before the last one may still be reading this slot.
            slot.computed.wait()?;
            slot.pinned.as_mut_bytes()[..input.len()].copy_from_slice(input);
            slot.pinned.upload(&slot.device, input.len(), &self.copies)?;
            slot.copied.record(&self.copies)?;
            self.compute.wait_for(&slot.copied)?;
            graph.launch(&self.compute)?;
            slot.computed.record(&self.compute)?;
            let bytes = items * embedding_bytes;
            self.embeddings.download(done * embedding_bytes, &self.output, bytes, &self.compute)?;
            done += items;
        }
        self.compute.wait()
    }
}

impl Engine for CudaEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
        check(&self.info, &input, output.len())?;
        let bytes = match input {
            Input::TokenIds(ids) => bytes_of(ids),
            Input::PixelValues(pixels) => bytes_of(pixels),
        };
        if let Err(error) = self.passes(bytes) {
            // What was begun must not write into memory that the next call uses. It cannot fail better than it did.
            let _ = self.copies.wait();
            let _ = self.compute.wait();
            return Err(error.into());
        }
        let (embeddings, _) = self.embeddings.as_bytes().as_chunks();
        for (value, bytes) in output.iter_mut().zip(embeddings) {
            *value = f32::from_ne_bytes(*bytes);
        }
        match output.chunks(self.info.embedding_size).position(|row| !row.iter().all(|x| x.is_finite())) {
            Some(row) => Err(EngineError::NotFinite { row }),
            None => Ok(()),
        }
    }
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

/// Whether a call can be computed: the right tower, whole rows, not too many, ids in the vocabulary.
fn check(info: &EngineInfo, input: &Input<'_>, output_len: usize) -> Result<(), EngineError> {
    let wrong = |expected: String, got: String| EngineError::WrongInput { tower: info.tower, expected, got };
    if input.tower() != info.tower {
        let kind = |tower| match tower {
            Tower::Text => "token ids",
            Tower::Vision => "pixel values",
        };
        return Err(wrong(kind(info.tower).into(), kind(input.tower()).into()));
    }
    if !input.len().is_multiple_of(info.input_len) {
        return Err(wrong(format!("rows of {} values", info.input_len), format!("{} values", input.len())));
    }
    let items = input.len() / info.input_len;
    if items == 0 || items > info.max_batch_size {
        return Err(EngineError::BatchSize { got: items, max: info.max_batch_size });
    }
    if output_len != items * info.embedding_size {
        let expected = format!("room for {} values of output", items * info.embedding_size);
        return Err(wrong(expected, format!("room for {output_len}")));
    }
    if let Input::TokenIds(ids) = input
        && let Some(at) = ids.iter().position(|id| *id as usize >= info.vocab_size)
    {
        return Err(EngineError::TokenId {
            id: ids[at],
            row: at / info.input_len,
            position: at % info.input_len,
            vocab_size: info.vocab_size,
        });
    }
    Ok(())
}

/// A number whose bytes may be read: no padding, any bits.
trait Plain: Copy {}
impl Plain for u32 {}
impl Plain for f32 {}

fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: a `Plain` value is as many initialised bytes as its size.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::bucket_sizes;

    #[test]
    fn buckets_end_at_the_largest_pass() {
        assert_eq!(bucket_sizes(1), [1]);
        assert_eq!(bucket_sizes(3), [1, 2, 3]);
        assert_eq!(bucket_sizes(32), [1, 2, 4, 8, 16, 24, 32]);
        assert_eq!(bucket_sizes(512), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]);
    }
}
