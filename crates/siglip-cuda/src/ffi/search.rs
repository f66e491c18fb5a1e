//! Where the libraries may be.

use std::path::{Path, PathBuf};

use super::Library;
use crate::error::CudaError;

/// Folders to look for NVIDIA's libraries in, before the usual places.
///
/// A folder may be one that holds the files, a toolkit (`lib64` below it), a Python environment or `site-packages` with
/// pip's `nvidia-*` packages. After these come the system's own search path, `$CUDA_PATH`, `$CONDA_PREFIX`,
/// `$VIRTUAL_ENV` and `/usr/local/cuda`.
#[derive(Clone, Debug, Default)]
pub struct LibraryPath {
    folders: Vec<PathBuf>,
    /// Whether nothing else is searched: for tests, which must not find a machine's own libraries.
    only: bool,
}

impl LibraryPath {
    /// Looks in `folders` first, then in the usual places.
    pub fn new(folders: Vec<PathBuf>) -> LibraryPath {
        LibraryPath { folders, only: false }
    }

    /// Looks in `folders` and nowhere else.
    #[cfg(test)]
    pub(crate) fn only(folders: Vec<PathBuf>) -> LibraryPath {
        LibraryPath { folders, only: true }
    }

    /// Opens a library and says which file it was.
    pub(crate) fn open(&self, library: Library) -> Result<(libloading::Library, String), CudaError> {
        // That of the file that was wanted most says most.
        let mut reason = None;
        for file in self.candidates(library) {
            // SAFETY: the file is a library of NVIDIA's by its name, or what the user put in its place; loading one runs
            // its initialisers, which expect nothing of the process.
            match unsafe { libloading::Library::new(&file) } {
                Ok(opened) => return Ok((opened, file.display().to_string())),
                Err(error) => reason = reason.or_else(|| Some(error.to_string())),
            }
        }
        let reason = reason.unwrap_or_else(|| "no such file in the folders that were searched".to_owned());
        Err(CudaError::Library { library, reason })
    }

    /// Files to try, in order. A bare name leaves the search to the system's loader.
    fn candidates(&self, library: Library) -> Vec<PathBuf> {
        let existing = |folders: Vec<PathBuf>| {
            let files = folders.into_iter().flat_map(move |folder| {
                library.file_names().iter().map(move |name| folder.join(name)).collect::<Vec<_>>()
            });
            files.filter(|file| file.is_file()).collect::<Vec<_>>()
        };
        let mut files = existing(self.folders.iter().flat_map(|folder| below(folder)).collect());
        if !self.only {
            files.extend(library.file_names().iter().map(PathBuf::from));
            files.extend(existing(usual_folders().iter().flat_map(|folder| below(folder)).collect()));
        }
        files
    }
}

/// A folder and those below it where libraries usually are.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned(), folder.join("lib64"), folder.join("lib")];
    let mut packages = vec![folder.to_owned(), folder.join("nvidia")];
    packages.extend(
        children(&folder.join("lib"))
            .into_iter()
            .filter(|child| {
                child.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"))
            })
            .map(|python| python.join("site-packages/nvidia")),
    );
    // pip's packages of CUDA 12 have a folder each, nvidia/cublas/lib; those of CUDA 13 share nvidia/cu13/lib.
    folders
        .extend(packages.iter().flat_map(|packages| children(packages)).map(|package| package.join("lib")));
    folders
}

fn usual_folders() -> Vec<PathBuf> {
    let named = ["CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX", "VIRTUAL_ENV"];
    let named = named.into_iter().filter_map(std::env::var_os).filter(|value| !value.is_empty());
    named.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]).collect()
}

/// The folder's entries by name; none if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_packages_are_found_from_the_environments_folder() {
        let folder = tempfile::tempdir().unwrap();
        for package in ["nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "nvidia/cublas/lib/libcublasLt.so.12"] {
            let file = folder.path().join("lib/python3.12/site-packages").join(package);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "not a library").unwrap();
            let library = if package.contains("nvrtc") { Library::Nvrtc } else { Library::CublasLt };
            for start in ["", "lib/python3.12/site-packages", "lib/python3.12/site-packages/nvidia"] {
                let path = LibraryPath::only(vec![folder.path().join(start)]);
                assert_eq!(path.candidates(library), std::slice::from_ref(&file), "from {start:?}");
            }
        }
    }

    #[test]
    fn what_is_no_library_is_an_error_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libnvrtc.so.12"), "not a library").unwrap();
        let path = LibraryPath::only(vec![folder.path().to_owned()]);
        let error = path.open(Library::Nvrtc).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("libnvrtc.so.12") && error.contains("pip install nvidia-cuda-nvrtc"),
            "{error}"
        );
        let error = path.open(Library::Driver).map(drop).unwrap_err().to_string();
        assert!(error.contains("no such file") && error.contains("NVIDIA driver"), "{error}");
    }
}
