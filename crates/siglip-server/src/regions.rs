//! System shared memory: regions that clients register and then name instead of sending data.
//!
//! On Linux a POSIX shared-memory object is a file under `/dev/shm`. It is read and written here like one, at an offset,
//! and not mapped: the data is copied once either way, into the batch or out of the answer, and a client that shrinks
//! its object in the middle of a request causes an error and not a fatal signal.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use siglip_protocol::{Code, SharedMemorySpan};

/// Where POSIX shared memory lies.
const FOLDER: &str = "/dev/shm";

/// Offsets must be multiples of this, as they have to be for mapping.
const PAGE: u64 = 4096;

/// The most regions that are registered at once. Each keeps a file open.
pub const MAX_REGIONS: usize = 1024;

/// The registered regions by name.
#[derive(Debug)]
pub(crate) struct Regions {
    by_name: Mutex<BTreeMap<String, Arc<Region>>>,
    most: usize,
}

/// A part of a shared-memory object.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) key: String,
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
    file: File,
}

/// What is wrong with a region. The words are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegionError {
    #[error("Unable to find shared memory region: '{0}'")]
    Unknown(String),
    #[error("Unable to find system shared memory region: '{0}'")]
    UnknownStatus(String),
    #[error("Unable to find cuda shared memory region: '{0}'")]
    UnknownCuda(String),
    #[error("shared memory region '{0}' already in manager")]
    Exists(String),
    #[error("Invalid shared memory region: '{0}'")]
    KeyInUse(String),
    #[error(
        "shared memory region '{name}' is not registered: {most} others are, and no more may be; unregister those that \
         are not used any more"
    )]
    TooMany { name: String, most: usize },
    #[error("Unable to open shared memory region: '{0}'")]
    Open(String),
    #[error("failed to register shared memory region '{0}': invalid args")]
    TooSmall(String),
    #[error("failed to register shared memory region '{0}': unable to process address spaceInvalid argument")]
    NotMappable(String),
    #[error("Invalid offset for shared memory region: '{0}'")]
    Offset(String),
    #[error("Invalid offset + byte size for shared memory region: '{0}'")]
    OutOfBounds(String),
    #[error("shared memory region '{region}' is no longer as large as it was registered: {error}")]
    Io { region: String, error: String },
    #[error(
        "shared memory size specified with the request for output '{output}' ({given} bytes) should be at least \
         {needed} bytes to hold the results"
    )]
    OutputSize { output: String, given: u64, needed: usize },
    #[error(
        "input '{input}' has {given} bytes in shared memory; strings may have {limit} bytes there, a limit that is set \
         by --max-body-mb"
    )]
    InputSize { input: String, given: u64, limit: usize },
    #[error("'region name' is necessary to register {0} shared memory region")]
    NoName(&'static str),
    #[error("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")]
    CudaHandle,
    // What Triton says without a GPU. Memory of one cannot be registered here with one either.
    #[error("failed to register shared memory region: invalid args")]
    NoCuda,
}

impl RegionError {
    pub(crate) fn code(&self) -> Code {
        match self {
            RegionError::Unknown(_) | RegionError::UnknownStatus(_) | RegionError::UnknownCuda(_) => {
                Code::NotFound
            }
            RegionError::Exists(_) => Code::AlreadyExists,
            RegionError::TooMany { .. } => Code::Unavailable,
            RegionError::KeyInUse(_)
            | RegionError::Open(_)
            | RegionError::Io { .. }
            | RegionError::OutputSize { .. } => Code::Internal,
            RegionError::TooSmall(_)
            | RegionError::NotMappable(_)
            | RegionError::Offset(_)
            | RegionError::OutOfBounds(_)
            | RegionError::InputSize { .. }
            | RegionError::NoName(_)
            | RegionError::CudaHandle
            | RegionError::NoCuda => Code::InvalidArgument,
        }
    }
}

impl Regions {
    /// Room for as many regions as `most`.
    pub(crate) fn new(most: usize) -> Self {
        Regions { by_name: Mutex::default(), most }
    }

    /// Registers a part of the object `key` under `name`.
    pub(crate) fn register(
        &self,
        name: &str,
        key: &str,
        offset: u64,
        byte_size: u64,
    ) -> Result<(), RegionError> {
        let mut regions = self.lock();
        if regions.contains_key(name) {
            return Err(RegionError::Exists(name.to_owned()));
        }
        if regions.values().any(|region| region.key == key) {
            return Err(RegionError::KeyInUse(key.to_owned()));
        }
        if regions.len() >= self.most {
            return Err(RegionError::TooMany { name: name.to_owned(), most: self.most });
        }
        let file = open(key).ok_or_else(|| RegionError::Open(key.to_owned()))?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        if offset.checked_add(byte_size).is_none_or(|end| end > length) {
            return Err(RegionError::TooSmall(name.to_owned()));
        }
        if byte_size == 0 || !offset.is_multiple_of(PAGE) {
            return Err(RegionError::NotMappable(name.to_owned()));
        }
        let region = Region { key: key.to_owned(), offset, byte_size, file };
        regions.insert(name.to_owned(), Arc::new(region));
        Ok(())
    }

    /// Forgets a region; all of them without a name. One that is not there is forgotten already.
    pub(crate) fn unregister(&self, name: Option<&str>) {
        let mut regions = self.lock();
        match name {
            Some(name) => drop(regions.remove(name)),
            None => regions.clear(),
        }
    }

    /// The regions, or the one of that name.
    pub(crate) fn status(&self, name: Option<&str>) -> Result<Vec<(String, Arc<Region>)>, RegionError> {
        let regions = self.lock();
        let list = |(name, region): (&String, &Arc<Region>)| (name.clone(), region.clone());
        match name {
            None => Ok(regions.iter().map(list).collect()),
            Some(name) => match regions.get_key_value(name) {
                Some(entry) => Ok(vec![list(entry)]),
                None => Err(RegionError::UnknownStatus(name.to_owned())),
            },
        }
    }

    /// The bytes of a span.
    pub(crate) fn read(&self, span: &SharedMemorySpan) -> Result<Bytes, RegionError> {
        let (region, at) = self.find(span)?;
        // Whoever asks has seen to it that this is no more than a model takes.
        let mut bytes = vec![0; usize::try_from(span.byte_size).unwrap_or(usize::MAX)];
        region.file.read_exact_at(&mut bytes, at).map_err(|error| io_error(span, &error))?;
        Ok(Bytes::from(bytes))
    }

    /// Writes to the start of a span that is large enough.
    pub(crate) fn write(&self, span: &SharedMemorySpan, bytes: &[u8]) -> Result<(), RegionError> {
        let (region, at) = self.find(span)?;
        region.file.write_all_at(bytes, at).map_err(|error| io_error(span, &error))
    }

    /// The region of a span, and where in its object the span begins.
    pub(crate) fn find(&self, span: &SharedMemorySpan) -> Result<(Arc<Region>, u64), RegionError> {
        let region = self.lock().get(&span.region).cloned();
        let region = region.ok_or_else(|| RegionError::Unknown(span.region.clone()))?;
        if span.offset >= region.byte_size {
            return Err(RegionError::Offset(span.region.clone()));
        }
        let within = span.offset.checked_add(span.byte_size).is_some_and(|end| end <= region.byte_size);
        if !within || span.byte_size == 0 {
            return Err(RegionError::OutOfBounds(span.region.clone()));
        }
        let at = region.offset.saturating_add(span.offset);
        Ok((region, at))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Region>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the object of that key, a slash and a file's name. Who may write to the folder is not to lead this process to
/// its own files by a link.
fn open(key: &str) -> Option<File> {
    let name = key.strip_prefix('/').unwrap_or(key);
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return None;
    }
    let path = format!("{FOLDER}/{name}");
    let named = std::fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
    let file = OpenOptions::new().read(true).write(true).open(&path).ok()?;
    let opened = file.metadata().ok()?;
    // The name may have become a link's meanwhile.
    ((named.dev(), named.ino()) == (opened.dev(), opened.ino())).then_some(file)
}

fn io_error(span: &SharedMemorySpan, error: &std::io::Error) -> RegionError {
    RegionError::Io { region: span.region.clone(), error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_lead_out_of_the_folder() {
        for key in ["", "/", "/..", "/../etc/passwd", "//etc/passwd", "/a/b", "..", "/a\0"] {
            assert!(open(key).is_none(), "{key}");
        }
    }

    /// A file in the folder, of a name that no other test has.
    struct Object(String);

    impl Object {
        fn new(name: &str) -> Self {
            Object(format!("siglip_{name}_{}", std::process::id()))
        }

        fn path(&self) -> String {
            format!("{FOLDER}/{}", self.0)
        }

        fn create(name: &str) -> Self {
            let object = Object::new(name);
            std::fs::write(object.path(), [0; 64]).unwrap();
            object
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(self.path());
        }
    }

    #[test]
    fn links_are_not_followed() {
        let (object, link, elsewhere) =
            (Object::create("object"), Object::new("link"), Object::new("elsewhere"));
        assert!(open(&object.0).is_some());
        std::os::unix::fs::symlink(object.path(), link.path()).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", elsewhere.path()).unwrap();
        assert!(open(&link.0).is_none() && open(&elsewhere.0).is_none());
    }

    #[test]
    fn regions_are_so_many_at_most() {
        let objects = [1, 2, 3].map(|number| Object::create(&format!("region_{number}")));
        let regions = Regions::new(2);
        let register = |object: &Object| regions.register(&object.0, &object.0, 0, 64);
        assert_eq!((register(&objects[0]), register(&objects[1])), (Ok(()), Ok(())));
        let error = register(&objects[2]).unwrap_err();
        assert_eq!(error, RegionError::TooMany { name: objects[2].0.clone(), most: 2 });
        regions.unregister(Some(&objects[0].0));
        assert_eq!(register(&objects[2]), Ok(()));
    }
}
