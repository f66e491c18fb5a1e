//! What a validation found, as tables for a person and as JSON for a program.

use std::fmt::Write as _;

use serde::Serialize;

use super::Validation;
use super::results::{Results, Tally};

/// Lines of the lists of the worst.
const WORST: usize = 10;

/// The tables of standard output.
pub(super) fn text(validation: &Validation) -> String {
    let Validation { model, precision, prompts, classes, images, results, problems } = validation;
    let mut text = format!(
        "{model}, {precision}: {} images, {} classes; {}\n\n{:<14} {:>7} {:>8} {:>8}\n",
        images.len(),
        classes.len(),
        prompts.templates().join(" | "),
        "method",
        "images",
        "top-1",
        "top-5"
    );
    for result in results {
        let total = result.total();
        let _ = writeln!(
            text,
            "{:<14} {:>7} {:>8.4} {:>8.4}",
            result.method.name(),
            total.images,
            total.accuracy(),
            total.accuracy5()
        );
    }
    for result in results {
        let name = |class: usize| format!("{} {}", classes[class].synset, classes[class].text);
        let _ = writeln!(text, "\nleast accurate classes, {}", result.method.name());
        for class in result.by_accuracy().into_iter().take(WORST) {
            let Tally { images, top1, .. } = result.tallies[class];
            let _ = writeln!(text, "  {top1:>4} of {images:<4} {}", name(class));
        }
        let confusions = result.confusions();
        let _ = writeln!(text, "most confused pairs, {}", result.method.name());
        for confusion in confusions.iter().take(WORST) {
            let (truth, predicted) = (name(confusion.truth), name(confusion.predicted));
            let _ = writeln!(text, "  {:>4} × {truth}  taken for  {predicted}", confusion.images);
        }
    }
    if !problems.is_empty() {
        let _ = writeln!(text, "\nleft out: {} (named above)", problems.len());
    }
    text
}

/// One line of JSON with everything.
pub(super) fn json(validation: &Validation) -> String {
    let Validation { model, precision, prompts, classes, images, results, problems } = validation;
    let synset = |class: usize| classes[class].synset.as_str();
    let method = |result: &Results| {
        let total = result.total();
        let per_class = result.tallies.iter().enumerate().filter(|(_, tally)| tally.images > 0);
        serde_json::json!({
            "method": result.method.name(),
            "images": total.images,
            "top1": total.accuracy(),
            "top5": total.accuracy5(),
            "classes": per_class
                .map(|(class, tally)| serde_json::json!({
                    "synset": synset(class), "images": tally.images, "top1": tally.top1, "top5": tally.top5,
                }))
                .collect::<Vec<_>>(),
            "confusions": result
                .confusions()
                .iter()
                .map(|confusion| serde_json::json!({
                    "synset": synset(confusion.truth),
                    "predicted": synset(confusion.predicted),
                    "images": confusion.images,
                }))
                .collect::<Vec<_>>(),
            "predictions": images
                .iter()
                .zip(&result.rankings)
                .map(|(path, (truth, ranking))| Prediction {
                    path,
                    synset: synset(*truth),
                    predicted: ranking.iter().map(|(class, value)| (synset(*class), *value)).collect(),
                })
                .collect::<Vec<_>>(),
        })
    };
    let all = serde_json::json!({
        "model": model,
        "precision": precision,
        "prompts": prompts.templates(),
        "classes": classes
            .iter()
            .map(|class| serde_json::json!({"synset": class.synset, "text": class.text}))
            .collect::<Vec<_>>(),
        "methods": results.iter().map(method).collect::<Vec<_>>(),
        "problems": problems,
    });
    format!("{all}\n")
}

#[derive(Serialize)]
struct Prediction<'a> {
    path: &'a str,
    synset: &'a str,
    /// The five most likely classes with their part of the votes, or their cosine.
    predicted: Vec<(&'a str, f64)>,
}
