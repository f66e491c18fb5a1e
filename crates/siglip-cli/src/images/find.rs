//! Which files `--images` means: a folder, a file, a pattern, or a list of them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};
use walkdir::{DirEntry, WalkDir};

use super::ImageFile;

/// The endings of image files that a folder is searched for. A file that is named is tried whatever its ending.
const ENDINGS: [&str; 12] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "apng"];

/// Why there are no files to read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error("no file or folder `{}`", .0.display())]
    Missing(PathBuf),
    #[error("no file matches `{0}`")]
    NoMatch(String),
    #[error("`{pattern}` is not a pattern of file names: {error}")]
    Pattern { pattern: String, error: glob::PatternError },
    #[error("the folder {} holds no image: no file in it or below ends in .{}", .0.display(), ENDINGS.join(", ."))]
    NoImage(PathBuf),
    #[error("`@` names no list: give the file's name behind it, as @list.txt")]
    NoList,
    #[error("{} names no image", .0.display())]
    EmptyList(PathBuf),
    #[error("{} cannot be read: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
}

/// The files that `sources` name, in this order: a folder's images at any depth, sorted by name; a file; the matches of
/// a pattern, sorted; the lines of a file that is named with `@` before it, which may be any of these.
///
/// # Errors
///
/// [`FindError`], if a source names nothing.
pub(crate) fn files(sources: &[OsString]) -> Result<Vec<ImageFile>, FindError> {
    let mut files = Vec::new();
    for source in sources {
        match source.as_bytes().strip_prefix(b"@") {
            // A file of this very name is meant before a list is.
            Some(list) if !Path::new(source).exists() => {
                add_list(Path::new(OsStr::from_bytes(list)), &mut files)?;
            }
            _ => add(source, &mut files)?,
        }
    }
    Ok(files.into_iter().map(|path| ImageFile { path }).collect())
}

/// The images in a folder and below, sorted by name. Empty if there are none.
///
/// # Errors
///
/// [`FindError::Read`], if a folder cannot be read.
pub(crate) fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, FindError> {
    let shown =
        |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".");
    let mut files = Vec::new();
    let mut others = 0;
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter().filter_entry(shown) {
        match entry {
            Ok(entry) if !entry.file_type().is_file() => {}
            Ok(entry) if is_image(entry.path()) => files.push(entry.into_path()),
            Ok(_) => others += 1,
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                // A link to nothing, or to a folder above it, is one bad file: it is tried, reported and skipped.
                if error.depth() > 0 && path.is_symlink() {
                    files.extend(is_image(&path).then_some(path));
                } else {
                    return Err(FindError::Read { path, error: error.into() });
                }
            }
        }
    }
    if others > 0 {
        tracing::info!("{}: left out {others} files that do not end as images do", folder.display());
    }
    Ok(files)
}

fn add(source: &OsStr, files: &mut Vec<PathBuf>) -> Result<(), FindError> {
    let path = Path::new(source);
    if path.is_dir() {
        let found = in_folder(path)?;
        if found.is_empty() {
            return Err(FindError::NoImage(path.to_owned()));
        }
        files.extend(found);
    } else if path.symlink_metadata().is_ok() {
        files.push(path.to_owned());
    } else if let Some(pattern) = source.to_str().filter(|source| source.contains(['*', '?', '['])) {
        add_matches(pattern, files)?;
    } else {
        return Err(FindError::Missing(path.to_owned()));
    }
    Ok(())
}

/// The files that a pattern matches, as a shell does it: what is hidden only where the pattern has the dot.
fn add_matches(pattern: &str, files: &mut Vec<PathBuf>) -> Result<(), FindError> {
    let wrong = |error| FindError::Pattern { pattern: pattern.to_owned(), error };
    // Left to the search, this panics at names that are not UTF-8, and finds nothing hidden at all.
    let shown = MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    let plain = Pattern::new(&plain(Path::new(pattern)).to_string_lossy()).map_err(wrong)?;
    let before = files.len();
    for path in glob::glob(pattern).map_err(wrong)? {
        let path =
            path.map_err(|error| FindError::Read { path: error.path().into(), error: error.into() })?;
        if plain.matches_path_with(&self::plain(&path), shown) && !path.is_dir() {
            files.push(path);
        }
    }
    if files.len() == before { Err(FindError::NoMatch(pattern.to_owned())) } else { Ok(()) }
}

/// A path without its `.` and doubled separators, which the search adds and removes at will.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

/// A list's paths are as they would be on the command line; a file that is not there is one bad file, not the end.
fn add_list(list: &Path, files: &mut Vec<PathBuf>) -> Result<(), FindError> {
    if list.as_os_str().is_empty() {
        return Err(FindError::NoList);
    }
    let text = std::fs::read(list).map_err(|error| FindError::Read { path: list.to_owned(), error })?;
    let before = files.len();
    for line in text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let line = OsStr::from_bytes(line);
        match add(line, files) {
            // A name may have brackets in it without being a pattern.
            Err(FindError::Missing(_) | FindError::NoMatch(_) | FindError::Pattern { .. }) => {
                files.push(line.into());
            }
            added => added?,
        }
    }
    if files.len() == before { Err(FindError::EmptyList(list.to_owned())) } else { Ok(()) }
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(files: &[ImageFile], root: &Path) -> Vec<String> {
        files.iter().map(|file| file.path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn folders_files_patterns_and_lists() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for path in ["b/2.JPEG", "b/10.png", "a/x.jpg", "c.webp", "notes.txt", ".hidden/h.jpg", "b/.h.jpg"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "").unwrap();
        }
        let source = |path: &str| OsString::from(format!("{}/{path}", root.display()));
        let all = files(&[source("")]).unwrap();
        assert_eq!(names(&all, root), ["a/x.jpg", "b/10.png", "b/2.JPEG", "c.webp"]);
        let some = files(&[source("notes.txt"), source("b/*.png"), source("*/?.jpg")]).unwrap();
        assert_eq!(names(&some, root), ["notes.txt", "b/10.png", "a/x.jpg"]);

        let hidden = files(&[source("./.h*/?.jpg"), source("b//.*.jpg")]).unwrap();
        assert_eq!(names(&hidden, root), [".hidden/h.jpg", "b/.h.jpg"]);

        let lines =
            ["c.webp", "gone.png", "gone [1].png", "a["].map(|name| format!("{}/{name}", root.display()));
        fs::write(root.join("list"), lines.join("\r\n\n")).unwrap();
        let listed = files(&[format!("@{}/list", root.display()).into()]).unwrap();
        assert_eq!(names(&listed, root), ["c.webp", "gone.png", "gone [1].png", "a["]);
    }

    #[test]
    fn names_that_are_not_utf8() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let name = OsStr::from_bytes(b"\xff.png");
        fs::write(root.join(name), "").unwrap();
        fs::write(root.join("a.png"), "").unwrap();
        let paths = |sources: &[OsString]| -> Vec<PathBuf> {
            files(sources).unwrap().into_iter().map(|file| file.path).collect()
        };
        // Patterns are text and match text.
        assert_eq!(paths(&[root.join("*.png").into()]), [root.join("a.png")]);
        assert_eq!(paths(&[root.into()]), [root.join("a.png"), root.join(name)]);
        assert_eq!(paths(&[root.join(name).into()]), [root.join(name)]);
        fs::write(root.join("list"), [root.as_os_str().as_bytes(), b"/\xff.png\n"].concat()).unwrap();
        let list: OsString = ["@".as_ref(), root.join("list").as_os_str()].into_iter().collect();
        assert_eq!(paths(&[list]), [root.join(name)]);
    }

    #[test]
    fn what_names_nothing_is_said() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("empty")).unwrap();
        fs::write(root.path().join("list"), "\n \n").unwrap();
        for (source, words) in [
            ("empty", "empty holds no image: no file in it or below ends in .jpg, .jpeg"),
            ("none.jpg", "no file or folder `"),
            ("*.jpg", "no file matches `"),
            ("a[", "is not a pattern of file names"),
        ] {
            let error = files(&[root.path().join(source).into()]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(files(&["@".into()]).unwrap_err().to_string().contains("`@` names no list"));
        let list = format!("@{}", root.path().join("list").display());
        assert!(files(&[list.into()]).unwrap_err().to_string().contains("names no image"));
    }
}
