//! `siglip classify`: the model's scores of labels for images.

mod args;
mod report;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use siglip::engine::Tower;
use siglip::similarity;

pub(crate) use self::args::ClassifyArgs;
use crate::failure::Failure;
use crate::images::{self, Embedder, ImageMeta, Outcome};
use crate::prompts::{self, Prompts};
use crate::text_embedder::TextEmbedder;
use crate::{interrupt, load, output, progress};

/// The longest side of a picture in a report, in pixels: twice what is shown, for screens that are that fine.
const THUMBNAIL: usize = 320;

/// What became of one image.
struct Classified {
    path: String,
    result: Result<Scores, String>,
}

struct Scores {
    image: ImageMeta,
    thumbnail: Option<Vec<u8>>,
    /// Label and score, the highest first.
    scores: Vec<(usize, f32)>,
}

impl Scores {
    /// Forgets all scores but the highest: a run of many images and labels would fill memory with them.
    fn keep(&mut self, count: usize) {
        self.scores.truncate(count);
        self.scores.shrink_to_fit();
    }
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Scores { path: &'a str, width: usize, height: usize, format: &'a str, scores: Vec<Score<'a>> },
    Error { path: &'a str, error: &'a str },
}

#[derive(Serialize)]
struct Score<'a> {
    label: &'a str,
    score: f32,
}

/// Runs the command.
pub(crate) fn run(args: ClassifyArgs) -> Result<(), Failure> {
    args.html.as_deref().map_or(Ok(()), output::check)?;
    let labels = prompts::labels(&args.labels)?;
    let prompts = Prompts::new(&args.prompt)?;
    let files = images::files(&args.images)?;
    let model = load::model(&args.model)?;
    interrupt::on_signals()?;
    let processor = images::processor(&model)?;
    let (Some(scale), Some(bias)) = (model.logit_scale, model.logit_bias) else {
        return Err(Failure::NoScores { model: model.name, missing: model.missing.join(" ") });
    };
    let options = load::options(&args.engine, usize::from(args.batch_size))?;
    let mut texts = TextEmbedder { model: &model, options: &options, truncate: args.truncate, store: None };
    let label_embeddings = texts.labels(&labels, &prompts)?;
    let engine = load::engine(&model, Tower::Vision, &options)?;
    let width = engine.info().embedding_size;
    let scores = |embedding: &[f32]| {
        let cosines = label_embeddings.chunks(width).map(|label| similarity::cosine(embedding, label));
        let scores = cosines.map(|cosine| similarity::score(cosine, scale, bias));
        let mut scores: Vec<(usize, f32)> = scores.enumerate().collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        scores
    };

    let thumbnails = args.html.as_ref().map(|_| THUMBNAIL);
    let progress = progress::bar("images", Some(files.len() as u64));
    // Those that are known before one that is printed first.
    let mut waiting: BTreeMap<usize, Classified> = BTreeMap::new();
    // What the page shows.
    let mut on_page = Vec::new();
    let (mut printed, mut failed) = (0, 0);
    Embedder { engine, processor, thumbnails }.run(&files, |index, outcome| {
        let path = files[index].name();
        let result = match outcome {
            Outcome::Embedded { image, embedding, thumbnail, .. } => Ok(Scores {
                image: image.clone(),
                thumbnail: thumbnail.map(<[u8]>::to_vec),
                scores: scores(embedding),
            }),
            Outcome::Failed(problem) => {
                progress.suspend(|| tracing::warn!("{path}: {problem}"));
                Err(problem.to_string())
            }
        };
        waiting.insert(index, Classified { path, result });
        progress.inc(1);
        // In the order of the files, as far as all before are known.
        while let Some(mut next) = waiting.remove(&printed) {
            progress.suspend(|| print(&args, &labels, &next)).map_err(Failure::Stdout)?;
            printed += 1;
            match &mut next.result {
                Ok(scores) => scores.keep(usize::from(args.top_k)),
                Err(_) => failed += 1,
            }
            on_page.extend(args.html.is_some().then_some(next));
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    if interrupt::requested() {
        return Err(Failure::Stopped { done: printed, total: files.len(), unit: "images" });
    }

    if let Some(html) = &args.html {
        report::write(html, &model.name, &labels, &prompts, &on_page)?;
    }
    if failed == files.len() {
        return Err(Failure::NoneEmbedded(failed));
    }
    if failed > 0 {
        tracing::warn!("{failed} of {} images could not be classified", files.len());
    }
    Ok(())
}

fn print(args: &ClassifyArgs, labels: &[String], image: &Classified) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let path = image.path.as_str();
    match &image.result {
        Ok(scores) if args.json => {
            let ImageMeta { width, height, format } = &scores.image;
            let scores =
                scores.scores.iter().map(|&(label, score)| Score { label: &labels[label], score }).collect();
            serde_json::to_writer(
                &mut out,
                &Line::Scores { path, width: *width, height: *height, format, scores },
            )?;
            writeln!(out)
        }
        Err(error) if args.json => {
            serde_json::to_writer(&mut out, &Line::Error { path, error })?;
            writeln!(out)
        }
        Ok(scores) => {
            writeln!(out, "{path}")?;
            for (label, score) in scores.scores.iter().take(usize::from(args.top_k)) {
                writeln!(out, "  {:>8}  {}", shown(*score), labels[*label])?;
            }
            Ok(())
        }
        Err(error) => writeln!(out, "{path}\n  {error}"),
    }
}

/// A score with the digits that tell it from others: those of most labels are far below one.
fn shown(score: f32) -> String {
    if score >= 0.001 || score == 0.0 { format!("{score:.4}") } else { format!("{score:.1e}") }
}
