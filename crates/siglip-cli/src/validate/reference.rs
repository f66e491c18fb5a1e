//! `siglip validate --reference`: this model's logits beside published ones.
//!
//! `logits.json` is an object of demonstrations, each with `model`, `bias`, `texts`, `images` as `[file, [width,
//! height]]`, and `tempered_logits_without_bias`, `[images][texts]`: cosine × exp(logit_scale). The images lie in a
//! folder of the demonstration's name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use siglip::similarity;

use super::ValidateArgs;
use super::towers::Towers;
use crate::failure::Failure;
use crate::images::ImageFile;
use crate::prompts::Prompts;
use crate::{interrupt, load};

/// One published demonstration.
#[derive(Debug, Deserialize)]
struct Published {
    model: String,
    bias: f64,
    texts: Vec<String>,
    images: Vec<(String, (usize, usize))>,
    tempered_logits_without_bias: Vec<Vec<f64>>,
}

/// What this model makes of a demonstration.
#[derive(Debug, Serialize)]
struct Compared {
    demonstration: String,
    published_model: String,
    published_bias: f64,
    bias: f64,
    pairs: usize,
    mean_difference: f64,
    largest_difference: f64,
    logits: Vec<Logit>,
}

/// An image and a text, with their logits: cosine × exp(logit_scale), without the bias.
#[derive(Debug, Serialize)]
struct Logit {
    image: String,
    text: String,
    published: f64,
    here: f64,
    difference: f64,
}

/// Compares the model with the demonstrations in `dir`.
pub(super) fn run(args: &ValidateArgs, dir: &Path) -> Result<(), Failure> {
    let file = dir.join("logits.json");
    let named = |error| Failure::Read { input: file.display().to_string(), error };
    let bytes = std::fs::read(&file).map_err(named)?;
    let published: BTreeMap<String, Published> =
        serde_json::from_slice(&bytes).map_err(|error| named(error.into()))?;
    let model = load::model(&args.model)?;
    interrupt::on_signals()?;
    let (Some(scale), Some(bias)) = (model.logit_scale, model.logit_bias) else {
        return Err(Failure::NoScores { model: model.name, missing: model.missing.join(" ") });
    };
    let options = load::options(&args.engine, usize::from(args.batch_size))?;
    // Long texts are cut, as those of the demonstrations were.
    let args = ValidateArgs { truncate: true, ..args.clone() };
    let mut towers = Towers::new(&args, &model, &options)?;
    let mut problems = Vec::new();
    let mut all = Vec::new();
    for (name, demonstration) in published {
        if demonstration.texts.is_empty() || demonstration.images.is_empty() {
            problems.push(format!("{}: {name} has no texts or no images; it is left out", file.display()));
            continue;
        }
        let image =
            |(at, (image, _)): (usize, &(String, _))| (ImageFile { path: dir.join(&name).join(image) }, at);
        let files: Vec<_> = demonstration.images.iter().enumerate().map(image).collect();
        let (images, _) = towers.images(&files, &mut problems)?;
        let texts = towers.labels(&demonstration.texts, &Prompts::bare())?;
        let mut logits = Vec::new();
        for (embedding, &at) in images.embeddings.chunks(images.width).zip(&images.classes) {
            let row = demonstration.tempered_logits_without_bias.get(at).map_or(&[][..], Vec::as_slice);
            if row.len() != demonstration.texts.len() {
                problems.push(format!(
                    "{}: image {at} of {name} has {} logits for {} texts",
                    file.display(),
                    row.len(),
                    demonstration.texts.len()
                ));
                continue;
            }
            for ((text, text_embedding), &published) in
                demonstration.texts.iter().zip(texts.embeddings.chunks(texts.width)).zip(row)
            {
                let here = f64::from(similarity::cosine(embedding, text_embedding)) * f64::from(scale.exp());
                let image = demonstration.images[at].0.clone();
                logits.push(Logit {
                    image,
                    text: text.clone(),
                    published,
                    here,
                    difference: here - published,
                });
            }
        }
        all.push(Compared::new(name, &demonstration, bias.into(), logits));
    }
    problems.iter().for_each(|problem| tracing::warn!("{problem}"));

    let json = serde_json::json!({
        "model": model.name, "precision": options.precision().to_string(), "demonstrations": all, "problems": problems,
    });
    let text = if args.json { format!("{json}\n") } else { table(&model.name, &all) };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Stdout)
}

impl Compared {
    fn new(demonstration: String, published: &Published, bias: f64, mut logits: Vec<Logit>) -> Compared {
        logits.sort_by(|a, b| b.difference.abs().total_cmp(&a.difference.abs()));
        let sum: f64 = logits.iter().map(|logit| logit.difference.abs()).sum();
        Compared {
            demonstration,
            published_model: published.model.clone(),
            published_bias: published.bias,
            bias,
            pairs: logits.len(),
            mean_difference: sum / logits.len().max(1) as f64,
            largest_difference: logits.first().map_or(0.0, |logit| logit.difference.abs()),
            logits,
        }
    }
}

/// Logits that are listed of each demonstration: those furthest off.
const LISTED: usize = 5;

fn table(model: &str, all: &[Compared]) -> String {
    let mut text = format!(
        "{model} beside published logits (cosine × temperature, without bias)\n\nOnly the demonstration of the same \
         model is close; the others show what other weights give.\n"
    );
    for compared in all {
        let _ = write!(
            text,
            "\n{}: published for {}, bias {:.4} there, {:.4} here\n  {} logits, off by {:.4} in the mean, {:.4} at most\n\
             {:>11} {:>9} {:>9}\n",
            compared.demonstration,
            compared.published_model,
            compared.published_bias,
            compared.bias,
            compared.pairs,
            compared.mean_difference,
            compared.largest_difference,
            "published",
            "here",
            "off"
        );
        for Logit { image, text: label, published, here, difference } in compared.logits.iter().take(LISTED) {
            let _ = writeln!(text, "{published:>11.4} {here:>9.4} {difference:>+9.4}  {image}  {label}");
        }
    }
    text
}
