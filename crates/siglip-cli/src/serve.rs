//! `siglip serve`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use siglip::engine::{Engine, EngineInfo, Tower};
use siglip::image::ImageProcessor;
use siglip::model::Model;
use siglip::tokenizer::{TokenizeError, Tokenizer};
use siglip_server::{
    BoundServer, BuildEngines, LogControl, QueuePolicy, ServedModel, ServedText, ServedVision, ServerOptions,
    Similarity, Tokenize,
};

use crate::args::{ModelArgs, ServeArgs};
use crate::engine_options::EngineOptions;
use crate::failure::Failure;
use crate::{load, open_files};

/// What is open beside connections: shared memory, files, the runtime's own.
const OTHER_FILES: u64 = siglip_server::MAX_REGIONS as u64 + 256;

/// Binds the ports, loads the model, serves until SIGINT or SIGTERM.
pub(crate) fn run(args: ServeArgs, log: LogControl) -> Result<(), Failure> {
    let runtime =
        siglip_server::runtime().map_err(|error| Failure::System { what: "the server's threads", error })?;
    runtime.block_on(async {
        let (stop, serving) = stop_signal()?;
        let models = args.model.each();
        names_differ(&models)?;
        // What is wrong with the options is said before anything is bound.
        let engine_options = load::options(&args.engine, usize::from(args.max_batch_size))?;
        open_files::allow(u64::from(args.max_connections) + OTHER_FILES);
        // A port in use is said before a large model is loaded.
        let server = BoundServer::bind(&server_options(&args, log)).await?;
        let started = Instant::now();
        // For the metrics: long enough to be right within some per cent, short enough not to be noticed.
        let peak_flops = engine_options.measure_peak(Duration::from_millis(20))? * 1e9;
        let served = models.iter().map(|model| serve_model(model, &args, &engine_options, peak_flops));
        let served = served.collect::<Result<Vec<_>, Failure>>()?;
        serving.store(true, Ordering::Relaxed);
        tracing::info!(
            "ready after {:.2} s: HTTP on {}, gRPC on {}, metrics on {}",
            started.elapsed().as_secs_f64(),
            server.http_addr(),
            server.grpc_addr(),
            server.metrics_addr()
        );
        server.serve(served, stop).await?;
        Ok(())
    })
}

/// What they will be called is known before they are loaded.
fn names_differ(models: &[ModelArgs]) -> Result<(), Failure> {
    let mut names = HashSet::new();
    models.iter().map(load::name).try_for_each(|name| match names.insert(name.clone()) {
        true => Ok(()),
        false => Err(Failure::SameName(name)),
    })
}

fn server_options(args: &ServeArgs, log: LogControl) -> ServerOptions {
    ServerOptions {
        host: args.host,
        http_port: args.http_port,
        grpc_port: args.grpc_port,
        metrics_port: args.metrics_port,
        max_queue_delay: Duration::from_micros(args.max_queue_delay_us),
        max_queue_size: args.max_queue_size as usize,
        max_body_bytes: args.max_body_mb as usize * 1_000_000,
        max_connections: args.max_connections as usize,
        queue_policy: QueuePolicy {
            priority_levels: args.priority_levels,
            default_timeout: Duration::from_micros(args.queue_timeout_us),
            allow_timeout_override: args.allow_timeout_override,
        },
        cache_bytes: u64::from(args.cache_size) * 1_000_000,
        shutdown_grace: Duration::from_secs(args.shutdown_grace),
        compat: args.compat.into(),
        model_control: args.model_control.into(),
        log: Some(log),
        trace: args.trace.options(),
        ..ServerOptions::default()
    }
}

/// A model with an engine for each of its towers, on a machine whose peak is `peak_flops`.
fn serve_model(
    model: &ModelArgs,
    args: &ServeArgs,
    options: &EngineOptions,
    peak_flops: f64,
) -> Result<ServedModel, Failure> {
    let model = Arc::new(load::model(model)?);
    let build = |tower: Tower| -> Result<(Vec<Box<dyn Engine>>, BuildEngines), Failure> {
        let engines = load::engines(&model, tower, options)?;
        announce(&model, &engines, args.max_queue_size);
        let (model, options) = (model.clone(), options.clone());
        let rebuild = move || load::engines(&model, tower, &options).map_err(|failure| failure.to_string());
        Ok((engines, Arc::new(rebuild)))
    };
    let text = match &model.text {
        None => None,
        Some(_) => {
            let (engines, rebuild) = build(Tower::Text)?;
            let tokenizer = model.tokenizer.clone().map(tokenize);
            Some(ServedText { engines, rebuild: Some(rebuild), peak_flops, tokenizer })
        }
    };
    let vision = match &model.vision {
        None => None,
        Some(vision) => {
            let (engines, rebuild) = build(Tower::Vision)?;
            let dims = [vision.config.num_channels, vision.config.image_size, vision.config.image_size];
            let processor = image_processor(&model, args)?;
            Some(ServedVision { engines, rebuild: Some(rebuild), peak_flops, dims, processor })
        }
    };
    let similarity = model.logit_scale.zip(model.logit_bias);
    let similarity = similarity.map(|(logit_scale, logit_bias)| Similarity { logit_scale, logit_bias });
    Ok(ServedModel { name: model.name.clone(), text, vision, similarity })
}

/// What prepares images, if the model says how.
fn image_processor(model: &Model, args: &ServeArgs) -> Result<Option<ImageProcessor>, Failure> {
    let (Some(vision), Some(config)) = (&model.vision, &model.preprocessor) else { return Ok(None) };
    let mut options = siglip::image::Options::default();
    options.apply_exif_orientation = args.exif_orientation;
    Ok(Some(ImageProcessor::new(config, &vision.config, options)?))
}

/// Says what the engines are and what memory they take, before the first request comes.
fn announce(model: &Model, engines: &[Box<dyn Engine>], queue: u32) {
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    let mut before: Option<&EngineInfo> = None;
    for info in engines.iter().map(|engine| engine.info()) {
        // Engines of one device share all that is said here.
        if before.is_some_and(|before| before.device == info.device) {
            continue;
        }
        tracing::info!(
            "{} {}: {} on {} ({} kernels, {} threads); weights {:.1} MB, scratch {:.1} MB, queue up to {:.1} MB",
            model.name,
            info.tower,
            info.precision,
            info.device,
            info.kernels,
            info.threads,
            megabytes(info.weights_bytes),
            megabytes(info.scratch_bytes),
            megabytes(queue as usize * info.input_len * 4),
        );
        if let Some(before) = before.replace(info)
            && before.kernels != info.kernels
        {
            tracing::warn!(
                "{} and {} are cards of different kinds: which of them computes a request shows in its last bits",
                before.device,
                info.device
            );
        }
    }
}

struct ServedTokenizer(Arc<Tokenizer>);

impl Tokenize for ServedTokenizer {
    fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>, siglip_server::TokenizeError> {
        if truncate {
            return Ok(self.0.encode_truncated(text));
        }
        self.0.encode(text).map_err(|error| match error {
            TokenizeError::TooLong { tokens, limit } => {
                siglip_server::TokenizeError::TooLong { tokens, context: limit }
            }
            error => siglip_server::TokenizeError::Other(error.to_string()),
        })
    }
}

fn tokenize(tokenizer: Arc<Tokenizer>) -> Arc<dyn Tokenize> {
    Arc::new(ServedTokenizer(tokenizer))
}

/// What completes at the first SIGINT or SIGTERM that comes once the server serves, which the flag is to tell. Later ones
/// end the program at once, and so do those before: nothing has been taken in then that could be lost.
fn stop_signal() -> Result<(impl Future<Output = ()>, Arc<AtomicBool>), Failure> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let mut send = Some(send);
    let serving = Arc::new(AtomicBool::new(false));
    let is_serving = Arc::clone(&serving);
    ctrlc::set_handler(move || match send.take() {
        // The server may be gone already; then there is nothing to stop.
        Some(send) if is_serving.load(Ordering::Relaxed) => drop(send.send(())),
        _ => std::process::exit(130),
    })
    .map_err(|error| Failure::System { what: "a signal handler", error: std::io::Error::other(error) })?;
    let stopped = async move {
        // The sender lives in the handler, for as long as the program.
        let _ = receive.await;
    };
    Ok((stopped, serving))
}
