//! `siglip embed`: texts or images into a file of embeddings.

mod args;
mod images;
mod texts;

pub(crate) use self::args::EmbedArgs;
use crate::failure::Failure;
use crate::output::{Kind, Output};

/// Runs the command.
pub(crate) fn run(args: EmbedArgs) -> Result<(), Failure> {
    // What is wrong with the command line is said before a model is loaded.
    let kind = if args.text.is_some() { Kind::Texts } else { Kind::Images };
    Output::check(&args.output, kind)?;
    match &args.text {
        Some(text) => texts::run(&args, text),
        None if args.images.is_empty() => {
            Err(Failure::Usage("embed needs --text FILE, or --images with folders, files or patterns"))
        }
        None => images::run(&args),
    }
}
