//! A model's weights: memory-mapped safetensors files, and the towers' tensors by name and shape.
//!
//! [`Weights`] is the file or files of a folder, [`TextWeights`] and [`VisionWeights`] are the tensors of a
//! tower, all of them present and of the shape that the configuration asks for. Nothing is read or converted
//! here beyond the files' headers: engines read each [`Tensor`] once, in the order that suits them.

pub(crate) mod header;
mod index;
mod mapped;
pub(crate) mod open_clip;
mod scope;
mod tensor;
mod towers;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use header::TensorInfo;
use mapped::MappedFile;
use tensor::Source;

pub(crate) use index::WeightsIndex;
pub use tensor::{Dtype, Tensor};
#[cfg(feature = "hub")]
pub(crate) use towers::is_of_tower;
pub use towers::{Block, Linear, Norm, PoolingHead, TextWeights, VisionWeights};

/// The tensors of one model, in one safetensors file or in several with an index.
pub struct Weights {
    /// The file that names all tensors: the one file, or the index.
    origin: PathBuf,
    /// A `BTreeMap`, so that [`Weights::names`] is in order and what is reported first does not vary.
    tensors: BTreeMap<String, Entry>,
}

/// A tensor and the file that it is in.
struct Entry {
    file: Arc<WeightsFile>,
    info: TensorInfo,
}

/// One safetensors file.
struct WeightsFile {
    path: PathBuf,
    source: Source,
}

impl Weights {
    /// The name of the single weights file of a model folder.
    pub const FILE: &'static str = "model.safetensors";
    /// The name of the index of a folder whose weights are in several files.
    pub const INDEX: &'static str = "model.safetensors.index.json";

    /// The name of the weights file of a folder in open_clip's layout.
    pub const OPEN_CLIP_FILE: &'static str = "open_clip_model.safetensors";

    /// Maps the weights of a model folder: [`Weights::FILE`], or else the files that [`Weights::INDEX`] names.
    ///
    /// The files must not be changed or cut short while the weights are in use: the bytes are the files', not copies.
    /// To replace them, write new files and rename them over the old ones.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] for a file that is missing or cannot be read, whose header does not describe it exactly (cut
    /// short, lengths that lie, tensors that overlap or leave holes), and for an index that names files outside the
    /// folder or tensors that its files lack.
    pub fn open(dir: &Path) -> Result<Weights, WeightsError> {
        // `is_file` follows links, as the Hub's cache needs it to.
        let single = dir.join(Self::FILE);
        if single.is_file() {
            return Self::open_file(&single);
        }
        let index = dir.join(Self::INDEX);
        if index.is_file() {
            return Ok(Weights { tensors: open_sharded(dir, &index)?, origin: index });
        }
        Err(WeightsError::NoWeights { dir: dir.to_owned() })
    }

    /// Maps one safetensors file, whatever its name.
    ///
    /// # Errors
    ///
    /// As [`Weights::open`].
    pub fn open_file(file: &Path) -> Result<Weights, WeightsError> {
        Ok(Weights { tensors: WeightsFile::open(file.to_owned())?.tensors()?, origin: file.to_owned() })
    }

    /// These weights with the tensors of others that they lack themselves.
    pub(crate) fn with(mut self, others: Weights) -> Weights {
        for (name, entry) in others.tensors {
            self.tensors.entry(name).or_insert(entry);
        }
        self
    }

    /// Reads a safetensors file that is embedded in the program.
    ///
    /// # Errors
    ///
    /// As [`Weights::open`].
    pub fn from_static(bytes: &'static [u8]) -> Result<Weights, WeightsError> {
        let origin = PathBuf::from("(embedded) model.safetensors");
        let file = WeightsFile { path: origin.clone(), source: Source::Static(bytes) };
        Ok(Weights { tensors: Arc::new(file).tensors()?, origin })
    }

    /// The tensor of this name, which must have this shape.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Missing`], [`WeightsError::Shape`], or [`WeightsError::Dtype`] if its numbers are not F32, F16
    /// or BF16.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| WeightsError::Missing { file: self.origin.clone(), tensor: name.to_owned() })?;
        let Entry { file, info } = entry;
        let dtype = Dtype::from_name(&info.dtype).ok_or_else(|| WeightsError::Dtype {
            file: file.path.clone(),
            tensor: name.to_owned(),
            found: info.dtype.clone(),
        })?;
        if info.shape != shape {
            return Err(WeightsError::Shape {
                file: file.path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        Ok(Tensor::new(name, dtype, shape, file.source.clone(), info.range.clone()))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of the tensor of this name, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.info.shape.as_slice())
    }

    /// The file that names all tensors: the one safetensors file, or the index.
    pub fn origin(&self) -> &Path {
        &self.origin
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({}, {} tensors)", self.origin.display(), self.tensors.len())
    }
}

/// Why weights could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The folder has no weights.
    #[error("{} has no weights: neither model.safetensors nor model.safetensors.index.json is there", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// A file cannot be opened, read or mapped.
    #[error("{} cannot be read: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file is not a whole and consistent safetensors file.
    #[error("{} is not a valid safetensors file ({bytes} bytes): {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// How long it is.
        bytes: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of sharded weights cannot be understood.
    #[error("{} is not a valid index of weights: {reason}", file.display())]
    Index {
        /// The index.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is not there.
    #[error("{} has no tensor `{tensor}`", file.display())]
    Missing {
        /// The file that should have it, or the index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor's shape is not the one that the configuration asks for.
    #[error("{}: tensor `{tensor}` has the shape {found:?}, but the configuration asks for {expected:?}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's numbers have a format that weights cannot have.
    #[error("{}: tensor `{tensor}` has the type {found}, but weights must be F32, F16 or BF16", file.display())]
    Dtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type in the file.
        found: String,
    },
}

/// The tensors that an index names, each from the file that it names for it.
fn open_sharded(dir: &Path, index: &Path) -> Result<BTreeMap<String, Entry>, WeightsError> {
    let bytes = std::fs::read(index).map_err(|error| WeightsError::Io { file: index.to_owned(), error })?;
    let WeightsIndex { files } = WeightsIndex::parse(&bytes)
        .map_err(|reason| WeightsError::Index { file: index.to_owned(), reason })?;
    let mut tensors = BTreeMap::new();
    for (file, names) in files {
        let path = dir.join(file);
        let mut found = WeightsFile::open(path.clone())?.tensors()?;
        for tensor in names {
            let Some(entry) = found.remove(&tensor) else {
                return Err(WeightsError::Missing { file: path, tensor });
            };
            tensors.insert(tensor, entry);
        }
    }
    Ok(tensors)
}

impl WeightsFile {
    fn open(path: PathBuf) -> Result<Arc<WeightsFile>, WeightsError> {
        match File::open(&path).and_then(MappedFile::map) {
            Ok(map) => Ok(Arc::new(WeightsFile { path, source: Source::File(Arc::new(map)) })),
            Err(error) => Err(WeightsError::Io { file: path, error }),
        }
    }

    fn tensors(self: Arc<Self>) -> Result<BTreeMap<String, Entry>, WeightsError> {
        let bytes = self.source.bytes();
        let infos = header::parse(bytes, bytes.len()).map_err(|reason| WeightsError::Corrupt {
            file: self.path.clone(),
            bytes: bytes.len(),
            reason,
        })?;
        let entries = infos.into_iter().map(|(name, info)| (name, Entry { file: Arc::clone(&self), info }));
        Ok(entries.collect())
    }
}
