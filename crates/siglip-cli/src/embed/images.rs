//! Image files into a file of embeddings.
//!
//! Embeddings are first kept in `OUTPUT.partial` ([`Store`]), so that a run which ends early is continued by the next
//! one; the output is written from there once all are known.

use std::path::{Path, PathBuf};

use siglip::engine::Tower;
use siglip::similarity;

use super::EmbedArgs;
use crate::failure::Failure;
use crate::images::{self, Embedder, ImageFile, Outcome};
use crate::output::{Kind, Output, Row};
use crate::store::{Entry, Store};
use crate::{identity, interrupt, load, progress};

/// Embeds the images that `args` name.
pub(super) fn run(args: &EmbedArgs) -> Result<(), Failure> {
    let files = images::files(&args.images)?;
    let model = load::model(&args.model)?;
    interrupt::on_signals()?;
    let processor = images::processor(&model)?;
    let options = load::options(&args.engine, args.batch_size.map_or(8, usize::from))?;
    // Before the engine is built: it gives the weights' memory back.
    let owner = identity::of(&model, Tower::Vision, &options);
    let engine = load::engine(&model, Tower::Vision, &options)?;
    let embedder = Embedder { engine, processor, thumbnails: None };
    // After it is: options that make no engine must leave nothing behind that the right ones do not fit.
    let partial = partial(&args.output);
    let mut store =
        Store::open(&partial, &owner).map_err(|error| Failure::Partial { path: partial.clone(), error })?;

    let done = embed(args, &files, embedder, &mut store);
    if done.is_ok() || store.len() == 0 {
        // The output holds it all, or there is nothing in it to go on from.
        let _ = std::fs::remove_file(&partial);
    }
    done
}

/// Embeds what the store lacks, then writes the output.
fn embed(
    args: &EmbedArgs,
    files: &[ImageFile],
    mut embedder: Embedder,
    store: &mut Store,
) -> Result<(), Failure> {
    let partial = partial(&args.output);
    let width = embedder.engine.info().embedding_size;
    // What the store has each file's embedding under, or why it has none. A file that is changed while this goes on
    // keeps the embedding of what was read of it.
    let mut done: Vec<Result<String, String>> = files
        .iter()
        .map(|file| {
            file.key().filter(|key| store.contains(key)).ok_or_else(|| "it was not reached".to_owned())
        })
        .collect();
    let missing: Vec<usize> = (0..files.len()).filter(|&index| done[index].is_err()).collect();
    if missing.len() < files.len() {
        tracing::info!("{}: {} images are done already", partial.display(), files.len() - missing.len());
    }
    let progress = progress::bar("images", Some(missing.len() as u64));
    let to_embed: Vec<ImageFile> = missing.iter().map(|&index| files[index].clone()).collect();
    embedder.run(&to_embed, |at, outcome| {
        let (file, done) = (&to_embed[at], &mut done[missing[at]]);
        *done = match outcome {
            Outcome::Embedded { key, image, embedding, .. } => {
                store
                    .append(Entry { key: key.to_owned(), image: Some(image.clone()) }, embedding)
                    .map_err(|error| Failure::Write { path: partial.clone(), error })?;
                Ok(key.to_owned())
            }
            Outcome::Failed(problem) => {
                let error = problem.to_string();
                if args.strict {
                    return Err(Failure::BadImage { path: file.path.clone(), error });
                }
                progress.suspend(|| tracing::warn!("{}: {error}", file.name()));
                Err(error)
            }
        };
        progress.inc(1);
        Ok(())
    })?;
    if interrupt::requested() {
        return Err(Failure::Kept {
            output: args.output.clone(),
            done: store.len(),
            total: files.len(),
            partial,
        });
    }
    progress.finish();
    let rate = progress.position() as f64 / progress.elapsed().as_secs_f64().max(1e-9);

    let written = write(args, files, store, &done, width)?;
    tracing::info!("{written} embeddings of {width} values in {} ({rate:.2}/s)", args.output.display());
    if written < files.len() {
        tracing::warn!("{} of {} images could not be embedded", files.len() - written, files.len());
    }
    Ok(())
}

/// Writes the output, a row for each file in order, and returns how many have an embedding.
fn write(
    args: &EmbedArgs,
    files: &[ImageFile],
    store: &Store,
    done: &[Result<String, String>],
    width: usize,
) -> Result<usize, Failure> {
    let mut output = Output::create(&args.output, Kind::Images, width)?;
    let mut embedding = vec![0.0; width];
    let mut written = 0;
    for (file, done) in files.iter().zip(done) {
        let path = &file.name();
        let entry = match done {
            Ok(key) => store.get(key, &mut embedding).map_err(|error| Failure::Read {
                input: partial(&args.output).display().to_string(),
                error,
            })?,
            Err(_) => None,
        };
        let result = match (&entry, done) {
            (Some(Entry { image: Some(image), .. }), _) => {
                if args.normalize {
                    similarity::normalize(&mut embedding);
                }
                written += 1;
                Ok((image, embedding.as_slice()))
            }
            (_, Err(error)) => Err(error.as_str()),
            (_, Ok(_)) if args.strict => {
                return Err(Failure::BadImage { path: file.path.clone(), error: LOST.to_owned() });
            }
            (_, Ok(_)) => Err(LOST),
        };
        output.append(Row::Image { path, result })?;
    }
    if written == 0 {
        return Err(Failure::NoneEmbedded(files.len()));
    }
    output.finish()?;
    Ok(written)
}

/// Why a file that was embedded has no embedding.
const LOST: &str = "its embedding was damaged on disk while this run went on";

/// Where the embeddings are until the output is whole.
fn partial(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}
