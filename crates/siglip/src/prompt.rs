//! Prompts: the sentence that a label is put into before it is embedded.

use std::fmt;

/// Where the label goes.
const PLACE: &str = "{text}";

/// A sentence with a place for a label, such as `A photo of a {text}.`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template(String);

/// Why a prompt is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the prompt `{prompt}` has no {{text}}: that is where the label goes, as in `A photo of a {{text}}.`"
)]
pub struct TemplateError {
    /// The prompt.
    pub prompt: String,
}

impl Template {
    /// The prompt of the original deployment's validation.
    pub const DEFAULT: &str = "A photo of a {text}.";

    /// The label itself and nothing about it.
    pub fn bare() -> Template {
        Template(PLACE.to_owned())
    }

    /// The prompt.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A template of a prompt that has `{text}` at least once.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] if it has not: every label would become the same sentence.
    pub fn parse(prompt: &str) -> Result<Template, TemplateError> {
        if prompt.contains(PLACE) {
            Ok(Template(prompt.to_owned()))
        } else {
            Err(TemplateError { prompt: prompt.to_owned() })
        }
    }

    /// The sentence for a label.
    pub fn fill(&self, label: &str) -> String {
        self.0.replace(PLACE, label)
    }
}

impl Default for Template {
    /// [`Template::DEFAULT`].
    fn default() -> Self {
        Template(Template::DEFAULT.to_owned())
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_go_where_the_place_is() {
        assert_eq!(Template::default().fill("cat"), "A photo of a cat.");
        let twice = Template::parse("{text}, a kind of {text}").unwrap();
        assert_eq!(twice.fill("{text}"), "{text}, a kind of {text}");
        let error = Template::parse("a photo").unwrap_err();
        assert!(error.to_string().contains("`a photo` has no {text}"), "{error}");
    }
}
