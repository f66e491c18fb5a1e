//! Traces of single requests in a file, in the JSON that Triton writes ("Triton Server Trace", JSON Trace Output), so that
//! its summary tool reads them.
//!
//! Which requests are traced and how is in the [settings](crate::settings), which clients may change; the file is set at
//! start. A thread of its own writes it: a slow disk delays no request, and where it cannot keep up, traces are left out
//! and counted.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use serde::Serialize;
use siglip_protocol::{DataType, InferRequest, OutputData, TensorData, split_bytes_tensor};

use crate::endpoint::Outcome;
use crate::error::ServeError;
use crate::settings::TraceSample;

/// What is traced from the start.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The file. With a log frequency, `.0`, `.1` and so on are appended to its name.
    pub file: PathBuf,
    /// The levels: `TIMESTAMPS`, `TENSORS`, or none.
    pub levels: Vec<String>,
    /// Every how many requests one is traced.
    pub rate: u32,
    /// How many requests are traced; -1 for no end.
    pub count: i32,
    /// Traces in a file; 0 for all in one.
    pub log_frequency: u32,
}

/// Traces that wait for the disk.
const WAITING: usize = 1024;

/// Takes traces in.
#[derive(Debug)]
pub(crate) struct Tracer {
    file: PathBuf,
    /// Until the end.
    writer: Mutex<Option<(SyncSender<Record>, JoinHandle<()>)>>,
    traces: AtomicU64,
    left_out: AtomicU64,
    /// One moment on two clocks: times are given as nanoseconds since 1970.
    started: (Instant, u64),
}

impl Tracer {
    /// Creates the file and starts the thread that writes it.
    ///
    /// # Errors
    ///
    /// [`ServeError::TraceFile`] if the file cannot be created, [`ServeError::Thread`].
    pub(crate) fn start(options: &TraceOptions) -> Result<Self, ServeError> {
        let file = options.file.clone();
        let mut writer = Writer { path: file.clone(), open: None, files: 0, failed: false };
        writer
            .open(options.log_frequency)
            .map_err(|source| ServeError::TraceFile { path: file.clone(), source })?;
        let (sender, receiver) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("siglip-trace".to_owned());
        let thread = thread.spawn(move || writer.run(&receiver)).map_err(ServeError::Thread)?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since_1970 = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        Ok(Tracer {
            file,
            writer: Mutex::new(Some((sender, thread))),
            traces: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            started: (Instant::now(), since_1970),
        })
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Begins the trace of a request for `model` that was received at `received`.
    pub(crate) fn begin(
        &self,
        model: &str,
        request: &InferRequest,
        received: Instant,
        sample: TraceSample,
    ) -> Trace {
        let inputs = request.inputs.iter().filter(|_| sample.tensors).map(|input| Tensor {
            name: input.name.clone(),
            data: input_text(input.datatype, &input.data),
            shape: join(&input.shape),
            dtype: input.datatype.map_or_else(String::new, |datatype| datatype.name().to_owned()),
        });
        Trace {
            record: Record {
                model: model.to_owned(),
                request: request.id.clone(),
                id: self.traces.fetch_add(1, Ordering::Relaxed) + 1,
                timestamps: Vec::new(),
                tensors: inputs.map(|tensor| ("TENSOR_QUEUE_INPUT", tensor)).collect(),
                log_frequency: sample.log_frequency,
            },
            received,
            sample,
        }
    }

    /// Ends a trace; without an outcome, the request was answered with an error.
    pub(crate) fn end(&self, trace: Trace, outcome: Option<&Outcome>) {
        let Trace { mut record, received, sample } = trace;
        if sample.timestamps {
            let mut at = |name, moment| record.timestamps.push((name, self.nanoseconds(moment)));
            at("REQUEST_START", received);
            if let Some(timing) = outcome.and_then(|outcome| outcome.timing) {
                let [start, input_end, output_start, end] = timing.steps();
                at("QUEUE_START", timing.queued);
                at("COMPUTE_START", start);
                at("COMPUTE_INPUT_END", input_end);
                at("COMPUTE_OUTPUT_START", output_start);
                at("COMPUTE_END", end);
            }
            at("REQUEST_END", Instant::now());
        }
        if let Some(outcome) = outcome.filter(|_| sample.tensors) {
            let data = outcome.values.as_data();
            let tensor = Tensor {
                name: outcome.output.to_owned(),
                shape: join(&outcome.shape),
                dtype: data.datatype().name().to_owned(),
                data: match data {
                    OutputData::Fp32(values) => join(values),
                    OutputData::Int64(values) => join(values),
                },
            };
            record.tensors.push(("TENSOR_BACKEND_OUTPUT", tensor));
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sender, _)) = &*writer
            && let Err(TrySendError::Full(_)) = sender.try_send(record)
            && self.left_out.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(
                "{} cannot be written as fast as requests come: traces are left out",
                self.file.display()
            );
        }
    }

    /// Writes what has been taken in and closes the file.
    pub(crate) fn finish(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, thread)) = writer {
            drop(sender);
            // It has said what went wrong, if anything did.
            let _ = thread.join();
            match self.left_out.load(Ordering::Relaxed) {
                0 => {}
                count => tracing::warn!("{count} traces are not in {}", self.file.display()),
            }
        }
    }

    fn nanoseconds(&self, moment: Instant) -> u64 {
        let (instant, nanoseconds) = self.started;
        let since = moment.checked_duration_since(instant).unwrap_or_default();
        nanoseconds.saturating_add(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A request that is being traced.
pub(crate) struct Trace {
    record: Record,
    received: Instant,
    sample: TraceSample,
}

/// What is written of a request.
#[derive(Debug)]
struct Record {
    id: u64,
    model: String,
    request: String,
    timestamps: Vec<(&'static str, u64)>,
    tensors: Vec<(&'static str, Tensor)>,
    log_frequency: u32,
}

/// A tensor as the file has it.
#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    data: String,
    shape: String,
    dtype: String,
}

/// An element of the file's array.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Request { id: u64, model_name: &'a str, model_version: u32, request_id: &'a str },
    Timestamps { id: u64, timestamps: [Timestamp; 1] },
    Tensor { id: u64, activity: &'static str, tensor: &'a Tensor },
}

#[derive(Serialize)]
struct Timestamp {
    name: &'static str,
    ns: u64,
}

impl Record {
    fn write(&self, out: &mut impl Write, first: bool) -> io::Result<()> {
        let id = self.id;
        out.write_all(if first { b"[\n" } else { b",\n" })?;
        let request =
            Entry::Request { id, model_name: &self.model, model_version: 1, request_id: &self.request };
        serde_json::to_writer(&mut *out, &request)?;
        let timestamps = self
            .timestamps
            .iter()
            .map(|&(name, ns)| Entry::Timestamps { id, timestamps: [Timestamp { name, ns }] });
        let tensors = self.tensors.iter().map(|(activity, tensor)| Entry::Tensor { id, activity, tensor });
        for entry in timestamps.chain(tensors) {
            out.write_all(b",\n")?;
            serde_json::to_writer(&mut *out, &entry)?;
        }
        Ok(())
    }
}

/// The thread that writes.
struct Writer {
    path: PathBuf,
    open: Option<Open>,
    /// How many files were opened.
    files: usize,
    failed: bool,
}

/// A file that is being written.
struct Open {
    file: BufWriter<File>,
    traces: u32,
}

impl Writer {
    fn run(mut self, records: &Receiver<Record>) {
        while let Ok(record) = records.recv() {
            self.attempt(|writer| writer.write(&record));
            // What has come meanwhile, before all of it is handed to the system.
            while let Ok(record) = records.try_recv() {
                self.attempt(|writer| writer.write(&record));
            }
            self.attempt(Writer::flush);
        }
        self.attempt(Writer::close);
    }

    /// Does something with the file; after an error nothing is done any more.
    fn attempt(&mut self, what: impl FnOnce(&mut Self) -> io::Result<()>) {
        if self.failed {
            return;
        }
        if let Err(error) = what(self) {
            self.failed = true;
            tracing::error!(
                "cannot write the trace file {}, nothing is traced any more: {error}",
                self.path.display()
            );
        }
    }

    fn open(&mut self, log_frequency: u32) -> io::Result<()> {
        // A name that was written before is not written over.
        let path = match log_frequency {
            0 if self.files == 0 => self.path.clone(),
            _ => {
                let mut path = self.path.clone().into_os_string();
                path.push(format!(".{}", self.files));
                path.into()
            }
        };
        self.open = Some(Open { file: BufWriter::new(File::create(path)?), traces: 0 });
        self.files += 1;
        Ok(())
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.open.is_none() {
            self.open(record.log_frequency)?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        record.write(&mut open.file, open.traces == 0)?;
        open.traces += 1;
        if record.log_frequency > 0 && open.traces >= record.log_frequency { self.close() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |open| open.file.flush())
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.file.write_all(if open.traces == 0 { b"[]\n" } else { b"\n]\n" })?;
        open.file.flush()
    }
}

/// An input's elements with commas between them; of strings, the text.
fn input_text(datatype: Option<DataType>, data: &TensorData) -> String {
    match data {
        TensorData::Int64(values) => join(values),
        TensorData::Fp32(values) => join(values),
        TensorData::Strings(strings) => join(strings.iter().map(|text| String::from_utf8_lossy(text))),
        TensorData::Raw(bytes) => match datatype {
            Some(DataType::Int64) => {
                join(bytes.as_chunks::<8>().0.iter().map(|value| i64::from_le_bytes(*value)))
            }
            Some(DataType::Fp32) => {
                join(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)))
            }
            _ => {
                let mut strings = Vec::new();
                // Of a tensor that is cut off, the strings before its end: the request's answer says what is wrong.
                let _ = split_bytes_tensor(bytes, &mut strings);
                join(strings.iter().map(|text| String::from_utf8_lossy(text)))
            }
        },
        TensorData::Discarded | TensorData::SharedMemory(_) => String::new(),
    }
}

fn join<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text += &value.to_string();
    }
    text
}
