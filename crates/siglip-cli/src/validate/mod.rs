//! `siglip validate`: how well a model names images, as the original deployment was validated.

mod args;
mod dataset;
mod methods;
mod picture;
mod reference;
mod report;
mod results;
mod tables;
mod towers;

use std::io::{self, Write};

pub(crate) use self::args::{Method, ValidateArgs};
use self::dataset::Class;
pub(crate) use self::dataset::DatasetError;
use self::methods::Labelled;
use self::results::Results;
use self::towers::Towers;
use crate::failure::Failure;
use crate::prompts::Prompts;
use crate::{interrupt, load, output};

/// Training images of a class.
const SHOTS: usize = 10;

/// All that a run found out, for tables, JSON and the report.
struct Validation {
    model: String,
    precision: String,
    prompts: Prompts,
    classes: Vec<Class>,
    /// The paths of the images that were classified.
    images: Vec<String>,
    results: Vec<Results>,
    /// What was left out, and why.
    problems: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: ValidateArgs) -> Result<(), Failure> {
    args.html.as_deref().map_or(Ok(()), output::check)?;
    if let Some(dir) = &args.reference {
        return reference::run(&args, dir);
    }
    let validation = validate(&args)?;
    let mut out = io::stdout().lock();
    let text = if args.json { tables::json(&validation) } else { tables::text(&validation) };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Stdout)?;
    match &args.html {
        Some(path) => report::write(path, &validation),
        None => Ok(()),
    }
}

fn validate(args: &ValidateArgs) -> Result<Validation, Failure> {
    let (Some(valid), Some(synsets)) = (&args.valid, &args.synsets) else {
        return Err(Failure::Usage("validate needs --valid DIR and --synsets FILE, or --reference DIR"));
    };
    let methods = chosen(args)?;
    let prompts = Prompts::new(&args.prompt)?;
    let mut problems = Vec::new();
    let classes = dataset::classes(synsets, &mut problems)?;
    let valid = dataset::images(valid, &classes, usize::MAX, &mut problems)?;
    let training = match &args.train {
        Some(train) if methods.contains(&Method::FewShotKnn) => {
            dataset::images(train, &classes, SHOTS, &mut problems)?
        }
        _ => Vec::new(),
    };
    problems.iter().for_each(|problem| tracing::warn!("{problem}"));

    let model = load::model(&args.model)?;
    interrupt::on_signals()?;
    let options = load::options(&args.engine, usize::from(args.batch_size))?;
    let mut towers = Towers::new(args, &model, &options)?;
    // The images first: they take the longest, and whatever is wrong later, the cache has them.
    let (valid, images) = towers.images(&valid, &mut problems)?;
    let (training, _) = towers.images(&training, &mut problems)?;
    let texts = if methods.iter().any(|method| *method != Method::FewShotKnn) {
        let texts: Vec<String> = classes.iter().map(|class| class.text.clone()).collect();
        towers.labels(&texts, &prompts)?
    } else {
        Labelled::default()
    };

    let mut results = Vec::new();
    for method in methods {
        let rankings = match method {
            Method::ZeroShotKnn => methods::by_votes(&texts, &valid)?,
            Method::ZeroShot => methods::by_cosine(&texts, &valid)?,
            Method::FewShotKnn => methods::by_votes(&training, &valid)?,
        };
        let rankings = valid.classes.iter().copied().zip(rankings).collect();
        results.push(Results::new(method, classes.len(), rankings));
    }
    let (model, precision) = (model.name, options.precision().to_string());
    Ok(Validation { model, precision, prompts, classes, images, results, problems })
}

/// The methods that were asked for, or all that can be used.
fn chosen(args: &ValidateArgs) -> Result<Vec<Method>, Failure> {
    let few_shot = args.train.is_some();
    if args.method.contains(&Method::FewShotKnn) && !few_shot {
        return Err(Failure::Usage("--method few-shot-knn learns from images: give --train DIR"));
    }
    if args.method.is_empty() && !few_shot {
        tracing::info!("without --train there is no few-shot-knn");
    }
    let wanted = |method: &Method| match args.method.as_slice() {
        [] => few_shot || *method != Method::FewShotKnn,
        named => named.contains(method),
    };
    Ok(Method::ALL.into_iter().filter(wanted).collect())
}
