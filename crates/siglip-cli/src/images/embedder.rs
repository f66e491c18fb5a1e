//! Files → embeddings: decoding and resizing run ahead of the engine, so that it never waits for a file.

use std::panic::{AssertUnwindSafe, catch_unwind};

use siglip::engine::{Engine, Input};
use siglip::image::ImageProcessor;
use siglip_cpu::available_threads;

use super::{ImageFile, ImageMeta, Problem, thumbnail};
use crate::ahead::Ahead;
use crate::failure::Failure;
use crate::interrupt;

/// A vision tower with what prepares its input.
pub(crate) struct Embedder {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) processor: ImageProcessor,
    /// The longest side of the small pictures that are made along the way, if they are wanted.
    pub(crate) thumbnails: Option<usize>,
}

/// What became of one file.
pub(crate) enum Outcome<'a> {
    Embedded {
        /// What the file is known by.
        key: &'a str,
        image: &'a ImageMeta,
        embedding: &'a [f32],
        /// A JPEG file.
        thumbnail: Option<&'a [u8]>,
    },
    Failed(&'a Problem),
}

impl Embedder {
    /// Embeds files in batches and tells `each` what became of file `index`; files that failed may be told before those
    /// of the batch before them. Stops early, without an error, when a signal asks for it: [`interrupt::requested`].
    ///
    /// # Errors
    ///
    /// What the engine or `each` says. A file that cannot be embedded is an [`Outcome`].
    pub(crate) fn run(
        &mut self,
        files: &[ImageFile],
        mut each: impl FnMut(usize, Outcome<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let info = self.engine.info();
        let (width, batch_size) = (info.embedding_size, info.max_batch_size);
        let mut pixels = Vec::with_capacity(batch_size * info.input_len);
        let mut embeddings = vec![0.0; batch_size * width];
        let mut batch = Vec::with_capacity(batch_size);

        let mut prepared = self.prepare(files, batch_size)?.enumerate();
        loop {
            while batch.len() < batch_size
                && let Some((index, file)) = prepared.next()
            {
                match file {
                    Ok(file) => {
                        pixels.extend_from_slice(&file.pixels);
                        batch.push((index, Prepared { pixels: Vec::new(), ..file }));
                    }
                    Err(problem) => each(index, Outcome::Failed(&problem))?,
                }
                if interrupt::requested() {
                    return Ok(());
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            let embeddings = &mut embeddings[..batch.len() * width];
            self.engine.embed(Input::PixelValues(&pixels), embeddings)?;
            pixels.clear();
            for ((index, file), embedding) in batch.drain(..).zip(embeddings.chunks(width)) {
                let Prepared { key, image, thumbnail, .. } = &file;
                let thumbnail = thumbnail.as_deref();
                each(index, Outcome::Embedded { key, image, embedding, thumbnail })?;
            }
        }
    }

    /// Starts the threads that read, decode and resize.
    ///
    /// There are as many as the processor runs, though the engine has as many of its own: while the engine is the
    /// bottleneck they sleep nearly always, and while it is not, they are what should have the processor. One batch
    /// waits while another is computed, and each thread may be busy with one more.
    fn prepare(
        &self,
        files: &[ImageFile],
        batch_size: usize,
    ) -> Result<Ahead<Result<Prepared, Problem>>, Failure> {
        let count = files.len();
        let (files, processor, side) = (files.to_vec(), self.processor.clone(), self.thumbnails);
        let threads = available_threads();
        let prepare = move |index: usize| {
            // One bad file fails alone, even where it finds a fault of ours.
            let prepared = catch_unwind(AssertUnwindSafe(|| Prepared::new(&files[index], &processor, side)));
            prepared.unwrap_or(Err(Problem::Panic))
        };
        Ahead::start(count, threads, batch_size + threads, prepare)
            .map_err(|error| Failure::System { what: "a thread", error })
    }
}

/// A file that is ready for the engine.
struct Prepared {
    key: String,
    image: ImageMeta,
    pixels: Vec<f32>,
    thumbnail: Option<Vec<u8>>,
}

impl Prepared {
    fn new(file: &ImageFile, processor: &ImageProcessor, side: Option<usize>) -> Result<Prepared, Problem> {
        let (bytes, key) = file.read()?;
        let mut pixels = vec![0.0; processor.output_len()];
        let info = processor.process(&bytes, &mut pixels)?;
        let thumbnail = side.and_then(|side| thumbnail::jpeg(&bytes, &info, side));
        Ok(Prepared { key, image: info.into(), pixels, thumbnail })
    }
}
