//! The page of `--html`: each image with bars of its scores.

use std::fmt::Write as _;
use std::path::Path;

use super::{Classified, Scores, shown};
use crate::failure::Failure;
use crate::html::{self, escape};
use crate::prompts::Prompts;

/// Writes the page.
pub(super) fn write(
    path: &Path,
    model: &str,
    labels: &[String],
    prompts: &Prompts,
    images: &[Classified],
) -> Result<(), Failure> {
    let mut body = format!(
        "<p>{} images, {} labels, model {}. Each bar is the model’s probability that image and sentence belong \
         together, whatever the other labels; the sentence is “{}”.</p>\n<div class=\"cards\">\n",
        images.len(),
        labels.len(),
        escape(model),
        escape(&prompts.templates().join("”, “"))
    );
    for image in images {
        body += "<div class=\"card\">\n";
        match &image.result {
            Ok(scores) => add(&mut body, &image.path, scores, labels),
            Err(error) => {
                let (path, error) = (escape(&image.path), escape(error));
                let _ =
                    writeln!(body, "<div class=\"name\">{path}</div>\n<div class=\"error\">{error}</div>");
            }
        }
        body += "</div>\n";
    }
    body += "</div>\n";
    html::write_page(path, "Images and labels", &body)
}

fn add(body: &mut String, path: &str, scores: &Scores, labels: &[String]) {
    if let Some(thumbnail) = &scores.thumbnail {
        let _ = writeln!(body, "<img src=\"{}\" alt=\"\">", html::data_uri("image/jpeg", thumbnail));
    }
    let image = &scores.image;
    let _ = writeln!(
        body,
        "<div class=\"name\">{}</div>\n<div class=\"size\">{} × {} {}</div>",
        escape(path),
        image.width,
        image.height,
        escape(&image.format)
    );
    for &(label, score) in &scores.scores {
        *body += &html::bar(&labels[label], f64::from(score), &shown(score));
    }
}
