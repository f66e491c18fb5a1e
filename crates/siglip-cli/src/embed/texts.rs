//! The lines of a text into a file of embeddings.
//!
//! One thread reads and tokenises, ahead by a few batches; this one computes and writes. The output appears under its
//! name only when it is whole, whatever ends the program before.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use siglip::engine::{Input, Tower};
use siglip::similarity;
use siglip::tokenizer::Tokenizer;

use super::EmbedArgs;
use crate::failure::Failure;
use crate::output::{Kind, Output, Row};
use crate::{interrupt, load, progress};

/// Embeds the lines of `text`.
pub(super) fn run(args: &EmbedArgs, text: &Path) -> Result<(), Failure> {
    let lines = Lines::open(text)?;
    let model = load::model(&args.model)?;
    interrupt::on_signals()?;
    let Some(tokenizer) = model.tokenizer.clone() else {
        return Err(Failure::NoTokenizer { model: model.name, missing: model.missing.join(" ") });
    };
    let batch_size = args.batch_size.map_or(32, usize::from);
    let mut engine = load::engine(&model, Tower::Text, &load::options(&args.engine, batch_size)?)?;
    let width = engine.info().embedding_size;
    let mut output = Output::create(&args.output, Kind::Texts, width)?;

    let progress = progress::bar("texts", lines.total);
    let mut embeddings = vec![0.0; batch_size * width];
    let batches = Preparation { tokenizer, truncate: args.truncate, batch_size }.start(lines)?;
    while let Some(batch) = next(&batches) {
        let batch = batch?;
        let embeddings = &mut embeddings[..batch.texts.len() * width];
        engine.embed(Input::TokenIds(&batch.ids), embeddings)?;
        for (text, embedding) in batch.texts.iter().zip(embeddings.chunks_mut(width)) {
            if args.normalize {
                similarity::normalize(embedding);
            }
            output.append(Row::Text { text, embedding })?;
        }
        progress.inc(batch.texts.len() as u64);
    }
    if interrupt::requested() {
        return Err(Failure::Interrupted(args.output.clone()));
    }
    output.finish()?;
    progress.finish();
    tracing::info!(
        "{} embeddings of {width} values in {} ({:.1}/s)",
        progress.position(),
        args.output.display(),
        progress.position() as f64 / progress.elapsed().as_secs_f64().max(1e-9)
    );
    Ok(())
}

/// The next batch; none at the end, or when a signal asks to stop, which the reader does not hear while it waits for a
/// line.
fn next(batches: &Receiver<Result<Batch, Failure>>) -> Option<Result<Batch, Failure>> {
    const LOOK_UP: Duration = Duration::from_millis(100);
    while !interrupt::requested() {
        match batches.recv_timeout(LOOK_UP) {
            Ok(batch) => return Some(batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    None
}

/// Texts and their ids, `[texts.len(), context_length]`.
struct Batch {
    texts: Vec<String>,
    ids: Vec<u32>,
}

/// Reads and tokenises ahead of the engine.
struct Preparation {
    tokenizer: Arc<Tokenizer>,
    truncate: bool,
    batch_size: usize,
}

/// Batches that wait for the engine: enough that it never waits, few enough that a slow engine does not fill memory.
const BATCHES_AHEAD: usize = 4;

impl Preparation {
    fn start(self, lines: Lines) -> Result<Receiver<Result<Batch, Failure>>, Failure> {
        let (send, receive) = sync_channel(BATCHES_AHEAD);
        std::thread::Builder::new()
            .name("siglip-prepare".into())
            .spawn(move || self.run(lines, &send))
            .map_err(|error| Failure::System { what: "a thread", error })?;
        Ok(receive)
    }

    /// Sends batches until the lines end, one is wrong, or nobody listens any more.
    fn run(&self, mut lines: Lines, send: &SyncSender<Result<Batch, Failure>>) {
        loop {
            let batch = self.batch(&mut lines);
            let ended = match &batch {
                Ok(batch) if batch.texts.is_empty() => return,
                Ok(_) => false,
                Err(_) => true,
            };
            if send.send(batch).is_err() || ended {
                return;
            }
        }
    }

    fn batch(&self, lines: &mut Lines) -> Result<Batch, Failure> {
        let mut batch = Batch { texts: Vec::with_capacity(self.batch_size), ids: Vec::new() };
        while batch.texts.len() < self.batch_size && !interrupt::requested() {
            let Some(text) = lines.next()? else { break };
            let ids = if self.truncate {
                self.tokenizer.encode_truncated(&text)
            } else {
                self.tokenizer.encode(&text).map_err(|error| Failure::TooLong {
                    input: lines.name.clone(),
                    line: lines.number,
                    error,
                })?
            };
            batch.ids.extend(ids);
            batch.texts.push(text);
        }
        Ok(batch)
    }
}

/// The lines of the input.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// The input's name for messages.
    name: String,
    /// The line that was read last, from 1.
    number: u64,
    /// How many there are, where that can be known beforehand and a progress bar shows it.
    total: Option<u64>,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines, Failure> {
        if path == Path::new("-") {
            let reader = Box::new(BufReader::new(std::io::stdin()));
            return Ok(Lines { reader, name: "standard input".into(), number: 0, total: None });
        }
        let name = path.display().to_string();
        let failed = |error| Failure::Read { input: name.clone(), error };
        let count = path.metadata().map_err(failed)?.is_file() && std::io::stderr().is_terminal();
        let open = || File::open(path).map_err(failed);
        let total = if count { Some(count_lines(open()?).map_err(failed)?) } else { None };
        let reader = Box::new(BufReader::with_capacity(1 << 16, open()?));
        Ok(Lines { reader, name, number: 0, total })
    }

    /// The next line without its end, which may be `\n` or `\r\n`.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line);
        let read = read.map_err(|error| Failure::Read { input: self.name.clone(), error })?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        }
        let text = String::from_utf8(line);
        text.map(Some).map_err(|_| Failure::NotUtf8 { input: self.name.clone(), line: self.number })
    }
}

fn count_lines(mut file: File) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let (mut lines, mut last) = (0, b'\n');
    loop {
        let read = file.read(&mut buffer)?;
        let Some(&end) = buffer[..read].last() else { return Ok(lines + u64::from(last != b'\n')) };
        lines += buffer[..read].iter().filter(|&&byte| byte == b'\n').count() as u64;
        last = end;
    }
}
