//! Decodes and resizes image files, for comparing pixels and speed with other programs.
//!
//! `prepare_images SIZE bicubic|bilinear ROUNDS [--dump FOLDER] FILE…` prints a line for each file: the file, the
//! seconds of the fastest round, and its error if there was one. With `--dump` the 8-bit pixels of each go to
//! `FOLDER/NUMBER.rgb`.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use siglip::image::{ImageProcessor, Options};
use siglip::preprocessor::PreprocessorConfig;

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: prepare_images SIZE bicubic|bilinear ROUNDS [--dump FOLDER] FILE…";
    let mut arguments = std::env::args().skip(1).peekable();
    let size: usize = arguments.next().ok_or(usage)?.parse()?;
    let resample = match arguments.next().ok_or(usage)?.as_str() {
        "bicubic" => 3,
        "bilinear" => 2,
        _ => return Err(usage.into()),
    };
    let rounds: usize = arguments.next().ok_or(usage)?.parse()?;
    let dump =
        arguments.next_if(|argument| argument == "--dump").and_then(|_| arguments.next()).map(PathBuf::from);

    let json = format!(r#"{{"size": {{"height": {size}, "width": {size}}}, "resample": {resample}}}"#);
    let config = PreprocessorConfig::from_json(json.as_bytes())?;
    let processor = ImageProcessor::with_size(&config, (size, size), Options::default())?;
    let mut values = vec![0.0; processor.output_len()];
    let mut out = std::io::stdout().lock();
    for (number, file) in arguments.enumerate() {
        let bytes = std::fs::read(&file)?;
        if let Some(folder) = &dump {
            match processor.resize_rgb8(&bytes) {
                Ok((_, pixels)) => std::fs::write(folder.join(format!("{number}.rgb")), pixels)?,
                Err(error) => writeln!(out, "{file}\terror\t{error}")?,
            }
            continue;
        }
        let mut fastest = f64::INFINITY;
        let mut failure = None;
        for _ in 0..rounds {
            let start = Instant::now();
            failure = processor.process(&bytes, &mut values).err();
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        match failure {
            None => writeln!(out, "{file}\t{fastest:.6}")?,
            Some(error) => writeln!(out, "{file}\terror\t{error}")?,
        }
    }
    Ok(())
}
