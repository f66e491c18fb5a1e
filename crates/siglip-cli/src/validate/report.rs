//! The page of `--html`.

use std::fmt::Write as _;
use std::path::Path;

use super::results::{Results, Tally};
use super::{Validation, picture};
use crate::failure::Failure;
use crate::html::{self, escape};

/// Pairs that are listed.
const PAIRS: usize = 40;

/// Writes the page.
pub(super) fn write(path: &Path, validation: &Validation) -> Result<(), Failure> {
    let Validation { model, precision, prompts, classes, images, results, problems } = validation;
    let mut body = format!(
        "<p>Model {} in {}: {} images of {} classes. A class is “{}”.</p>\n",
        escape(model),
        escape(precision),
        images.len(),
        classes.len(),
        escape(&prompts.templates().join("”, “"))
    );
    body += &html::table(
        &["method", "images", "top-1", "top-5"],
        1,
        results.iter().map(|result| {
            let total = result.total();
            let name = result.method.name().to_owned();
            vec![name, total.images.to_string(), percent(total.accuracy()), percent(total.accuracy5())]
        }),
    );
    for result in results {
        add(&mut body, validation, result)?;
    }
    if !problems.is_empty() {
        let _ = write!(body, "<h2>Left out</h2>\n<div class=\"card\">\n");
        for problem in problems {
            let _ = writeln!(body, "<div class=\"error\">{}</div>", escape(problem));
        }
        body += "</div>\n";
    }
    html::write_page(path, "Validation", &body)
}

fn add(body: &mut String, validation: &Validation, result: &Results) -> Result<(), Failure> {
    let class =
        |class: usize| format!("{} {}", validation.classes[class].synset, validation.classes[class].text);
    let picture = picture::png(result)
        .map_err(|error| Failure::System { what: "a picture", error: std::io::Error::other(error) })?;
    let _ = write!(
        body,
        "<h2>{}</h2>\n<p>True classes from top to bottom, predicted ones from left to right, in the order of the \
         mapping. What is right is blue and on the diagonal, what is wrong is red.</p>\n<img class=\"matrix\" src=\"{}\" \
         alt=\"Matrix of true and predicted classes\">\n",
        result.method.name(),
        html::data_uri("image/png", &picture)
    );
    let confusions = result.confusions();
    let _ = write!(
        body,
        "<details open><summary>Most confused pairs ({} of {})</summary>\n{}</details>\n",
        confusions.len().min(PAIRS),
        confusions.len(),
        html::table(
            &["true class", "taken for", "images"],
            2,
            confusions.iter().take(PAIRS).map(|confusion| vec![
                class(confusion.truth),
                class(confusion.predicted),
                confusion.images.to_string()
            ])
        )
    );
    let _ = write!(
        body,
        "<details><summary>Each class, the least accurate first</summary>\n<div class=\"columns\">\n"
    );
    for number in result.by_accuracy() {
        let tally: Tally = result.tallies[number];
        let value = format!("{} of {}", tally.top1, tally.images);
        *body += &html::bar(&class(number), tally.accuracy(), &value);
    }
    *body += "</div></details>\n";
    Ok(())
}

fn percent(part: f64) -> String {
    format!("{:.2} %", 100.0 * part)
}
