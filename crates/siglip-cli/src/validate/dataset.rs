//! ImageNet's layout: a mapping of synsets to texts, and a folder of images for each synset.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::images::{self, FindError, ImageFile};

/// A class: a synset and the text that describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) synset: String,
    pub(crate) text: String,
}

/// Why there is nothing to validate with. Less than that is a problem that is reported and costs nothing else.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatasetError {
    #[error("{} cannot be read: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} names no class: each line must be a synset and a text, as \"n01440764 tench\"", .0.display())]
    NoClass(PathBuf),
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} holds no image in a folder of any class, as {}", .0.display(), .0.join(.1).display())]
    NoImage(PathBuf, String),
    #[error(transparent)]
    Find(#[from] FindError),
}

/// Reads a mapping: a line for each class, the synset, white space, and the text, whose runs of white space count as one
/// blank. What is wrong with a line is added to `problems`, and the line left out.
pub(crate) fn classes(path: &Path, problems: &mut Vec<String>) -> Result<Vec<Class>, DatasetError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| DatasetError::Read { path: path.to_owned(), error })?;
    let mut classes: Vec<Class> = Vec::new();
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let mut words = line.split_whitespace();
        let Some(synset) = words.next() else { continue };
        let text = words.collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            problems.push(format!(
                "line {number} of {}: `{synset}` has no text; its class is left out",
                path.display()
            ));
        } else if let Some(first) = lines.get(synset) {
            problems.push(format!(
                "line {number} of {}: `{synset}` is there since line {first}; this line is left out",
                path.display()
            ));
        } else {
            lines.insert(synset, number);
            classes.push(Class { synset: synset.to_owned(), text });
        }
    }
    if classes.is_empty() { Err(DatasetError::NoClass(path.to_owned())) } else { Ok(classes) }
}

/// The images in the folders of the classes, each with the number of its class: by class, then by name, at most `most`
/// of a class. Classes without images and folders without a class are added to `problems`.
pub(crate) fn images(
    root: &Path,
    classes: &[Class],
    most: usize,
    problems: &mut Vec<String>,
) -> Result<Vec<(ImageFile, usize)>, DatasetError> {
    if !root.is_dir() {
        return Err(DatasetError::NotAFolder(root.to_owned()));
    }
    let mut found = Vec::new();
    for (number, class) in classes.iter().enumerate() {
        let folder = root.join(&class.synset);
        if !folder.is_dir() {
            problems.push(format!(
                "{} is missing: the class `{}` has no image there",
                folder.display(),
                class.text
            ));
            continue;
        }
        let files = images::in_folder(&folder)?;
        if files.is_empty() {
            problems.push(format!(
                "{} holds no image: the class `{}` has none there",
                folder.display(),
                class.text
            ));
        }
        found.extend(files.into_iter().take(most).map(|path| (ImageFile { path }, number)));
    }
    if found.is_empty() {
        let example = classes.first().map(|class| class.synset.clone()).unwrap_or_default();
        return Err(DatasetError::NoImage(root.to_owned(), example));
    }
    let known: HashMap<&str, ()> = classes.iter().map(|class| (class.synset.as_str(), ())).collect();
    let read = |error| DatasetError::Read { path: root.to_owned(), error };
    let mut strangers = Vec::new();
    for entry in std::fs::read_dir(root).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') && !known.contains_key(name.as_str()) {
            strangers.push(format!("{} is the folder of no class: it is left out", entry.path().display()));
        }
    }
    strangers.sort();
    problems.append(&mut strangers);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn bad_lines_are_named_and_lose_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "n1 tench,  Tinca tinca\r\n\nn2\nn3 crane\nn1 again\nn4 crane\n").unwrap();
        let mut problems = Vec::new();
        let classes = classes(file.path(), &mut problems).unwrap();
        let texts: Vec<_> =
            classes.iter().map(|class| (class.synset.as_str(), class.text.as_str())).collect();
        assert_eq!(texts, [("n1", "tench, Tinca tinca"), ("n3", "crane"), ("n4", "crane")]);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("line 3 of ") && problems[0].contains("`n2` has no text"));
        assert!(problems[1].starts_with("line 5 of ") && problems[1].contains("since line 1"));
        fs::write(file.path(), "n1\n").unwrap();
        let none = super::classes(file.path(), &mut problems).unwrap_err().to_string();
        assert!(none.contains("names no class"), "{none}");
        let missing = super::classes(Path::new("/no/such"), &mut problems).unwrap_err().to_string();
        assert!(missing.starts_with("/no/such cannot be read"), "{missing}");
    }

    #[test]
    fn folders_are_read_by_class_and_name() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for path in ["b/b_2.JPEG", "b/b_1.JPEG", "b/b_3.JPEG", "a/a_1.png", "x/x_1.JPEG", "empty/notes.txt"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "").unwrap();
        }
        let class = |synset: &str| Class { synset: synset.into(), text: format!("text of {synset}") };
        let classes = ["b", "empty", "gone", "a"].map(class);
        let mut problems = Vec::new();
        let found = images(root, &classes, 2, &mut problems).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|(file, class)| (file.path.strip_prefix(root).unwrap().to_str().unwrap(), *class))
            .collect();
        assert_eq!(names, [("b/b_1.JPEG", 0), ("b/b_2.JPEG", 0), ("a/a_1.png", 3)]);
        let words = [
            "empty holds no image: the class `text of empty`",
            "gone is missing",
            "x is the folder of no class",
        ];
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (problem, words) in problems.iter().zip(words) {
            assert!(problem.contains(words), "{problem}");
        }
        assert!(images(&root.join("nowhere"), &classes, 2, &mut problems).is_err());
        let none = images(root, &[class("gone")], 2, &mut problems).unwrap_err().to_string();
        assert!(none.contains("holds no image in a folder of any class"), "{none}");
    }
}
