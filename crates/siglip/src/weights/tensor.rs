//! One tensor of a weights file: a name, a shape, and bytes that stay where they are.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::mapped::MappedFile;

/// The number formats in which weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision, 4 bytes.
    F32,
    /// IEEE half precision, 2 bytes.
    F16,
    /// bfloat16, 2 bytes.
    BF16,
}

impl Dtype {
    /// The format of this name in a safetensors header.
    pub(super) fn from_name(name: &str) -> Option<Dtype> {
        match name {
            "F32" => Some(Dtype::F32),
            "F16" => Some(Dtype::F16),
            "BF16" => Some(Dtype::BF16),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
        })
    }
}

/// A tensor of a weights file. It keeps the file mapped, is cheap to clone, and can be read from any thread.
#[derive(Clone)]
pub struct Tensor {
    name: Arc<str>,
    dtype: Dtype,
    shape: Vec<usize>,
    source: Source,
    /// Bytes of the source that are this tensor: inside it, and as many as shape and dtype say.
    range: Range<usize>,
}

/// Where a weights file's bytes are.
#[derive(Clone)]
pub(super) enum Source {
    /// A file on disk.
    File(Arc<MappedFile>),
    /// A file embedded in the program.
    Static(&'static [u8]),
    /// Numbers that stand in no file.
    Owned(Arc<[u8]>),
}

impl Source {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Source::File(file) => file.bytes(),
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        }
    }
}

impl Tensor {
    /// A tensor over a part of `source` that the header's checks found to be inside it and of the right length.
    pub(super) fn new(
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        source: Source,
        range: Range<usize>,
    ) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), source, range }
    }

    /// A tensor of numbers that stand in no file.
    pub(super) fn owned(name: &str, shape: &[usize], elements: impl IntoIterator<Item = f32>) -> Tensor {
        let bytes: Arc<[u8]> = elements.into_iter().flat_map(f32::to_le_bytes).collect();
        let range = 0..bytes.len();
        Tensor::new(name, Dtype::F32, shape, Source::Owned(bytes), range)
    }

    /// Some of its rows. They must be there, which is for the caller to know.
    pub(super) fn rows(&self, rows: Range<usize>) -> Tensor {
        let row = self.shape.iter().skip(1).product::<usize>() * self.dtype.size();
        let start = self.range.start + rows.start * row;
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        let range = start..start + rows.len() * row;
        Tensor { shape, range, ..self.clone() }
    }

    /// The same elements without a first dimension of 1.
    pub(super) fn without_first_dimension(self) -> Tensor {
        let shape = self.shape.iter().skip(1).copied().collect();
        Tensor { shape, ..self }
    }

    /// The name under which the file holds it, prefix included.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes of its dimensions, the slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number format of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number of elements: the product of the shape.
    pub fn len(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// Whether it has no elements. Never so for a tensor of a tower.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Its elements as the file stores them: row-major, little-endian, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        // The header's checks found the range inside the source, whose length never changes.
        &self.source.bytes()[self.range.clone()]
    }

    /// All elements, converted.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut elements = vec![0.0; self.len()];
        self.copy_f32(0, &mut elements);
        elements
    }

    /// Converts the run of elements that starts at `start_element` and fills `out`.
    ///
    /// Every F16 and BF16 value is an f32 value, so no conversion rounds.
    ///
    /// # Panics
    ///
    /// If the run goes past the last element.
    pub fn copy_f32(&self, start_element: usize, out: &mut [f32]) {
        let run = self.run(start_element, out.len());
        convert(self.dtype, &self.source.bytes()[run], out);
    }

    /// [`copy_f32`](Tensor::copy_f32) for a few elements of a large tensor: if it lies in a file, they are read from
    /// there. Where a file is mapped, the system makes far more resident than what is touched, and how much is its own
    /// choice.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    ///
    /// # Panics
    ///
    /// If the run goes past the last element.
    pub fn read_f32(&self, start_element: usize, out: &mut [f32]) -> io::Result<()> {
        // A row of the widest towers at once.
        const BLOCK: usize = 2048;
        let Source::File(file) = &self.source else {
            self.copy_f32(start_element, out);
            return Ok(());
        };
        let mut at = self.run(start_element, out.len()).start;
        let mut bytes = [0; 4 * BLOCK];
        for out in out.chunks_mut(BLOCK) {
            let bytes = &mut bytes[..out.len() * self.dtype.size()];
            file.read(at, bytes)?;
            convert(self.dtype, bytes, out);
            at += bytes.len();
        }
        Ok(())
    }

    /// The bytes of a run of elements in the source.
    fn run(&self, start_element: usize, len: usize) -> Range<usize> {
        let Some(end) = start_element.checked_add(len).filter(|end| *end <= self.len()) else {
            panic!(
                "{len} elements from element {start_element} on were asked of `{}`, which has {}",
                self.name,
                self.len()
            );
        };
        let size = self.dtype.size();
        self.range.start + start_element * size..self.range.start + end * size
    }

    /// Gives the tensor's pages back to the system, if it lies in a file. Reading it again works and costs the read.
    ///
    /// An engine that has packed a tensor into its own layout calls this, so that the peak of the process's memory is
    /// one copy of the weights and not two.
    pub fn release(&self) {
        if let Source::File(file) = &self.source {
            file.release(self.range.clone());
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {} {:?})", self.name, self.dtype, self.shape)
    }
}

fn convert(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => f32_from_f32(bytes, out),
        Dtype::F16 => f32_from_f16(bytes, out),
        Dtype::BF16 => f32_from_bf16(bytes, out),
    }
}

fn f32_from_f32(bytes: &[u8], out: &mut [f32]) {
    let (elements, _) = bytes.as_chunks();
    for (out, element) in out.iter_mut().zip(elements) {
        *out = f32::from_le_bytes(*element);
    }
}

fn f32_from_bf16(bytes: &[u8], out: &mut [f32]) {
    let (elements, _) = bytes.as_chunks();
    for (out, element) in out.iter_mut().zip(elements) {
        // bfloat16 is the upper half of an f32.
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*element)) << 16);
    }
}

fn f32_from_f16(bytes: &[u8], out: &mut [f32]) {
    // The conversion instruction is chosen once a call, so each call gets a block; the copy aligns the elements.
    const BLOCK: usize = 1024;
    let mut aligned = [f16::ZERO; BLOCK];
    for (out, bytes) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        let (elements, _) = bytes.as_chunks();
        for (aligned, element) in aligned.iter_mut().zip(elements) {
            *aligned = f16::from_le_bytes(*element);
        }
        aligned[..out.len()].convert_to_f32_slice(out);
    }
}
