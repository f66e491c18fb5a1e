//! Labels and the sentences that are made of them.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use siglip::prompt::{Template, TemplateError};

/// The prompt that SigLIP's zero-shot results were validated with.
pub(crate) const DEFAULT_PROMPT: &str = Template::DEFAULT;

/// Why labels or prompts cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromptError {
    #[error("--labels names no label: give a file with one a line, or labels separated by commas")]
    NoLabel,
    #[error("label {number} of {origin} is empty")]
    EmptyLabel { number: usize, origin: String },
    #[error("the label `{label}` is given twice in {origin}: as number {first} and number {second}")]
    Twice { label: String, origin: String, first: usize, second: usize },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("{0} holds no prompt")]
    NoPrompt(String),
    #[error("{path} cannot be read: {error}")]
    Read { path: String, error: io::Error },
}

/// The labels that `--labels` means: the lines of the file of that name, or else its parts between commas.
///
/// # Errors
///
/// [`PromptError`], if there is none, one is empty, or one is there twice.
pub(crate) fn labels(argument: &str) -> Result<Vec<String>, PromptError> {
    let (origin, labels): (String, Vec<String>) = if Path::new(argument).is_file() {
        let text = read(argument)?;
        (argument.to_owned(), text.trim_end().lines().map(|line| line.trim().to_owned()).collect())
    } else {
        if looks_like_a_path(argument) {
            tracing::warn!("--labels: there is no file `{argument}`, so that is taken for a label itself");
        }
        ("--labels".into(), argument.split(',').map(|label| label.trim().to_owned()).collect())
    };
    if labels.iter().all(String::is_empty) {
        return Err(PromptError::NoLabel);
    }
    let mut seen = HashMap::new();
    for (at, label) in labels.iter().enumerate() {
        let number = at + 1;
        if label.is_empty() {
            return Err(PromptError::EmptyLabel { number, origin });
        }
        if let Some(first) = seen.insert(label.as_str(), number) {
            return Err(PromptError::Twice { label: label.clone(), origin, first, second: number });
        }
    }
    Ok(labels)
}

/// Whether one who gives this as labels may well have meant a file.
fn looks_like_a_path(argument: &str) -> bool {
    let ends_as_files_do = Path::new(argument).extension().is_some_and(|ending| !ending.is_empty());
    !argument.contains([',', ' ']) && (argument.contains('/') || ends_as_files_do)
}

/// Templates of sentences about a label. Several make an ensemble: the mean of their embeddings stands for the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prompts(Vec<Template>);

impl Prompts {
    /// The prompts that the arguments name: each a template, or with `@` before it a file of templates, one a line.
    ///
    /// # Errors
    ///
    /// [`PromptError`], if a template has no place for the label, or a file cannot be read or has none.
    pub(crate) fn new(arguments: &[String]) -> Result<Prompts, PromptError> {
        let mut prompts = Vec::new();
        for argument in arguments {
            let Some(file) = argument.strip_prefix('@') else {
                prompts.push(Template::parse(argument)?);
                continue;
            };
            let before = prompts.len();
            for line in read(file)?.lines().map(str::trim).filter(|line| !line.is_empty()) {
                prompts.push(Template::parse(line)?);
            }
            if prompts.len() == before {
                return Err(PromptError::NoPrompt(file.to_owned()));
            }
        }
        Ok(Prompts(prompts))
    }

    /// The label itself and nothing about it.
    pub(crate) fn bare() -> Prompts {
        Prompts(vec![Template::bare()])
    }

    /// The templates.
    pub(crate) fn templates(&self) -> Vec<&str> {
        self.0.iter().map(Template::as_str).collect()
    }

    /// The sentences about a label, one of each template.
    pub(crate) fn about(&self, label: &str) -> impl Iterator<Item = String> {
        self.0.iter().map(move |prompt| prompt.fill(label))
    }
}

fn read(path: &str) -> Result<String, PromptError> {
    std::fs::read_to_string(path).map_err(|error| PromptError::Read { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_from_a_file_or_from_commas() {
        assert_eq!(labels("a cat, a dog").unwrap(), ["a cat", "a dog"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "tench, Tinca tinca\r\ngoldfish\n\n").unwrap();
        assert_eq!(labels(file.path().to_str().unwrap()).unwrap(), ["tench, Tinca tinca", "goldfish"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_told_from_labels() {
        for (argument, path) in [
            ("labels.txt", true),
            ("a/b", true),
            ("cat", false),
            ("a cat.", false),
            ("1/2 cup, St.Paul", false),
        ] {
            assert_eq!(looks_like_a_path(argument), path, "{argument}");
        }
    }

    #[test]
    fn bad_labels_are_named() {
        let words = |argument: &str| labels(argument).unwrap_err().to_string();
        assert!(words("").contains("names no label") && words(" , ").contains("names no label"));
        assert_eq!(words("cat,,dog"), "label 2 of --labels is empty");
        assert_eq!(
            words("cat,dog,bird, dog"),
            "the label `dog` is given twice in --labels: as number 2 and number 4"
        );
    }

    #[test]
    fn prompts_have_a_place_for_the_label() {
        let prompts =
            |arguments: &[&str]| Prompts::new(&arguments.iter().map(|a| a.to_string()).collect::<Vec<_>>());
        let two = prompts(&["a {text}", "{text}, {text}"]).unwrap();
        assert!(two.about("cat").eq(["a cat", "cat, cat"]));
        assert!(
            prompts(&["a photo of a {}"])
                .unwrap_err()
                .to_string()
                .contains("`a photo of a {}` has no {text}")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a {text}\n\nmany {text}\n").unwrap();
        let at = format!("@{}", file.path().display());
        assert_eq!(prompts(&[&at]).unwrap().templates(), ["a {text}", "many {text}"]);
        std::fs::write(file.path(), "\n").unwrap();
        assert!(prompts(&[&at]).unwrap_err().to_string().contains("holds no prompt"));
        assert!(
            prompts(&["@/no/such/file"]).unwrap_err().to_string().contains("/no/such/file cannot be read")
        );
    }
}
