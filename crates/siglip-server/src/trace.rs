//! Traces of single requests in a file, in the JSON that Triton writes ("Triton Server Trace", JSON Trace Output), so that
//! its summary tool reads them.
//!
//! Which requests are traced and how is in the [settings](crate::settings), which clients may change; the file is set at
//! start. A thread of its own writes it, and makes text of tensors: a slow disk delays no request, and where it cannot keep
//! up, traces are left out and counted.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use siglip_protocol::{DataType, InferRequest, InputTensor, TensorData, split_bytes_tensor};
use tokio::sync::oneshot;

use crate::endpoint::{Outcome, Values};
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

/// Bytes of the tensors in them. A trace that has more waits only if no other does.
const WAITING_BYTES: usize = 64 << 20;

/// Takes traces in.
#[derive(Debug)]
pub(crate) struct Tracer {
    file: PathBuf,
    /// Until the end.
    writer: Mutex<Option<Inlet>>,
    waiting: Arc<Waiting>,
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
        let (records, receiver) = sync_channel(WAITING);
        let (end, ended) = oneshot::channel::<()>();
        let waiting = Arc::new(Waiting::default());
        let run = {
            let waiting = waiting.clone();
            move || {
                writer.run(&receiver, &waiting);
                drop(end);
            }
        };
        let thread = std::thread::Builder::new().name("siglip-trace".to_owned());
        thread.spawn(run).map_err(ServeError::Thread)?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since_1970 = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        Ok(Tracer {
            file,
            writer: Mutex::new(Some(Inlet { records, ended })),
            waiting,
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
        let inputs = request.inputs.iter().filter(|_| sample.tensors).map(Tensor::of_input);
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
            record.tensors.push(("TENSOR_BACKEND_OUTPUT", Tensor::of_output(outcome)));
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(inlet) = &*writer else { return };
        if !inlet.put(record, &self.waiting) && self.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "{} cannot be written as fast as requests come: traces are left out",
                self.file.display()
            );
        }
    }

    /// Writes what has been taken in and closes the file, for as long as `patience`: whatever takes the traces may take
    /// none any more.
    pub(crate) async fn finish(&self, patience: Duration) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Inlet { records, ended }) = writer else { return };
        drop(records);
        // The thread has said what went wrong, if anything did.
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!("the time to finish is over, and {} is not whole", self.file.display());
        }
        let waiting = self.waiting.traces.load(Ordering::Relaxed) as u64;
        match self.left_out.load(Ordering::Relaxed) + waiting {
            0 => {}
            count => tracing::warn!("{count} traces are not in {}", self.file.display()),
        }
    }

    fn nanoseconds(&self, moment: Instant) -> u64 {
        let (instant, nanoseconds) = self.started;
        let since = moment.checked_duration_since(instant).unwrap_or_default();
        nanoseconds.saturating_add(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The way to the thread that writes.
#[derive(Debug)]
struct Inlet {
    records: SyncSender<Record>,
    /// Resolves when the thread has ended.
    ended: oneshot::Receiver<()>,
}

impl Inlet {
    /// Leaves a trace to the thread; false if there is no room for it. Not to be called by two at once.
    fn put(&self, record: Record, waiting: &Waiting) -> bool {
        let bytes = record.byte_size();
        let before = waiting.bytes.load(Ordering::Relaxed);
        if before > 0 && before.saturating_add(bytes) > WAITING_BYTES {
            return false;
        }
        // Before it is sent: the thread takes it off as soon as it has it.
        waiting.add(bytes);
        let sent = self.records.try_send(record).is_ok();
        if !sent {
            waiting.take_off(bytes);
        }
        sent
    }
}

/// What the thread has not written yet.
#[derive(Debug, Default)]
struct Waiting {
    traces: AtomicUsize,
    /// Of tensors.
    bytes: AtomicUsize,
}

impl Waiting {
    fn add(&self, bytes: usize) {
        self.traces.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take_off(&self, bytes: usize) {
        self.traces.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
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

/// A tensor whose text is made when it is written.
#[derive(Debug)]
struct Tensor {
    name: String,
    datatype: Option<DataType>,
    shape: String,
    data: Elements,
}

#[derive(Debug)]
enum Elements {
    Input(TensorData),
    Output(Values),
}

impl Tensor {
    fn of_input(input: &InputTensor) -> Self {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        // A slice of the request's body would keep all of that in memory.
        let data = match &input.data {
            TensorData::Raw(bytes) => TensorData::Raw(copy(bytes)),
            TensorData::Strings(strings) => TensorData::Strings(strings.iter().map(copy).collect()),
            data => data.clone(),
        };
        Tensor {
            name: input.name.clone(),
            datatype: input.datatype,
            shape: join(&input.shape),
            data: Elements::Input(data),
        }
    }

    fn of_output(outcome: &Outcome) -> Self {
        Tensor {
            name: outcome.output.to_owned(),
            datatype: Some(outcome.values.as_data().datatype()),
            shape: join(&outcome.shape),
            data: Elements::Output(outcome.values.clone()),
        }
    }

    fn byte_size(&self) -> usize {
        match &self.data {
            Elements::Input(TensorData::Raw(bytes)) => bytes.len(),
            Elements::Input(TensorData::Int64(values)) => size_of_val(values.as_slice()),
            Elements::Input(TensorData::Fp32(values)) => size_of_val(values.as_slice()),
            Elements::Input(TensorData::Strings(strings)) => {
                strings.iter().map(|text| size_of_val(text) + text.len()).sum()
            }
            Elements::Input(TensorData::Discarded | TensorData::SharedMemory(_)) => 0,
            Elements::Output(values) => values.as_data().byte_size(),
        }
    }

    fn text(&self) -> TensorText<'_> {
        TensorText {
            name: &self.name,
            data: match &self.data {
                Elements::Input(data) => input_text(self.datatype, data),
                Elements::Output(Values::Fp32(values)) => join(values),
                Elements::Output(Values::Int64(values)) => join(values),
            },
            shape: &self.shape,
            dtype: self.datatype.map_or("", DataType::name),
        }
    }
}

/// A tensor as the file has it.
#[derive(Serialize)]
struct TensorText<'a> {
    name: &'a str,
    data: String,
    shape: &'a str,
    dtype: &'static str,
}

/// An element of the file's array.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Request { id: u64, model_name: &'a str, model_version: u32, request_id: &'a str },
    Timestamps { id: u64, timestamps: [Timestamp; 1] },
    Tensor { id: u64, activity: &'static str, tensor: TensorText<'a> },
}

#[derive(Serialize)]
struct Timestamp {
    name: &'static str,
    ns: u64,
}

impl Record {
    /// Of its tensors.
    fn byte_size(&self) -> usize {
        self.tensors.iter().map(|(_, tensor)| tensor.byte_size()).sum()
    }

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
        let tensors = self.tensors.iter().map(|(activity, tensor)| {
            let tensor = tensor.text();
            Entry::Tensor { id, activity, tensor }
        });
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
    fn run(mut self, records: &Receiver<Record>, waiting: &Waiting) {
        let write = |writer: &mut Self, record: Record| {
            writer.attempt(|writer| writer.write(&record));
            waiting.take_off(record.byte_size());
        };
        while let Ok(record) = records.recv() {
            write(&mut self, record);
            // What has come meanwhile, before all of it is handed to the system.
            while let Ok(record) = records.try_recv() {
                write(&mut self, record);
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

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: TraceSample = TraceSample { timestamps: false, tensors: true, log_frequency: 0 };

    fn options(file: &Path) -> TraceOptions {
        let levels = vec!["TENSORS".to_owned()];
        TraceOptions { file: file.to_owned(), levels, rate: 1, count: -1, log_frequency: 0 }
    }

    fn request(datatype: DataType, data: TensorData) -> InferRequest {
        let tensor = InputTensor { name: "X".to_owned(), datatype: Some(datatype), shape: vec![1, 2], data };
        InferRequest { inputs: vec![tensor], ..InferRequest::default() }
    }

    fn trace(tracer: &Tracer, request: &InferRequest) {
        let trace = tracer.begin("model", request, Instant::now(), SAMPLE);
        tracer.end(trace, None);
    }

    #[tokio::test]
    async fn tensors_in_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace.json");
        let tracer = Tracer::start(&options(&file)).unwrap();
        let ids: Vec<u8> = [7_i64, -8].iter().flat_map(|id| id.to_le_bytes()).collect();
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        for (datatype, data) in [
            (DataType::Int64, TensorData::Raw(ids.into())),
            (DataType::Fp32, TensorData::Fp32(vec![0.5, -1.0])),
            (DataType::Bytes, TensorData::Strings(vec![text("a"), text("b c")])),
        ] {
            trace(&tracer, &request(datatype, data));
        }
        tracer.finish(Duration::from_secs(60)).await;
        let entries: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let tensors = entries.as_array().unwrap().iter().filter_map(|entry| entry.get("tensor"));
        let texts: Vec<_> = tensors.map(|tensor| (&tensor["dtype"], &tensor["data"])).collect();
        let texts = serde_json::json!(texts);
        assert_eq!(texts, serde_json::json!([["INT64", "7,-8"], ["FP32", "0.5,-1"], ["BYTES", "a,b c"]]));
    }

    /// What takes the traces takes nothing: what waits for it stays within its bounds, and the end comes nevertheless.
    #[tokio::test]
    async fn a_destination_that_does_not_move() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success());
        // Opened for both, so that nobody waits for a reader who does not come.
        let _pipe = File::options().read(true).write(true).open(&file).unwrap();
        let tracer = Tracer::start(&options(&file)).unwrap();
        let values = 1 << 20;
        let large = request(DataType::Fp32, TensorData::Fp32(vec![0.5; values]));
        let most = WAITING_BYTES / (values * 4);
        for _ in 0..most * 2 {
            trace(&tracer, &large);
        }
        assert!(tracer.waiting.bytes.load(Ordering::Relaxed) <= WAITING_BYTES);
        let waiting = tracer.waiting.traces.load(Ordering::Relaxed);
        assert!((1..=most).contains(&waiting), "{waiting}");
        assert_eq!(tracer.left_out.load(Ordering::Relaxed) as usize, most * 2 - waiting);
        tracer.finish(Duration::from_millis(100)).await;
    }
}
