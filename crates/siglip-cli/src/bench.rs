//! `siglip bench`: how fast an engine embeds, beside the machine's matrix peak measured in the same process.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use siglip::engine::{Engine, Input, Tower};
use siglip::profile::Profile;

use crate::args::BenchArgs;
use crate::engine_options::EngineOptions;
use crate::failure::Failure;
use crate::load;
use crate::system::megabytes;

/// One measurement: the contract of `--json`.
#[derive(Debug, Serialize)]
struct Measurement {
    model: String,
    tower: String,
    precision: String,
    device: String,
    kernels: String,
    batch_size: usize,
    threads: usize,
    /// Rows over the whole time of measuring.
    items_per_s: f64,
    /// Of one batch.
    p50_ms: f64,
    gflop_per_item: f64,
    /// The best of a short run right before, with the instruction that the precision uses, on the same threads.
    peak_gflops: f64,
    fraction_of_peak: f64,
    /// From opening the model to the engine's being ready.
    load_s: f64,
    /// The process's peak memory so far.
    rss_mb: f64,
}

/// Runs the command.
pub(crate) fn run(args: BenchArgs) -> Result<(), Failure> {
    let largest = args.batch_size.iter().copied().max().map_or(1, usize::from);
    let mut options = load::options(&args.engine, largest)?;
    let profile: Option<Arc<Profile>> = args.profile.then(Arc::default);
    match &mut options {
        EngineOptions::Cpu(options) => options.profile = profile.clone(),
        EngineOptions::Cuda(options) => options.profile(profile.clone()),
    }
    let started = Instant::now();
    let model = load::model(&args.model)?;
    let mut engine = load::engine(&model, args.tower.into(), &options)?;
    let load_s = started.elapsed().as_secs_f64();

    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(out, "{}", Measurement::HEADER).map_err(Failure::Stdout)?;
    }
    for &batch_size in &args.batch_size {
        let batch_size = usize::from(batch_size);
        let peak_gflops = options.measure_peak(Duration::from_millis(300))?;
        let times = measure(engine.as_mut(), batch_size, Duration::from_secs_f64(args.seconds), || {
            profile.as_deref().inspect(|profile| profile.reset());
        })?;
        let info = engine.info();
        let items_per_s = (batch_size * times.len()) as f64 / times.iter().sum::<f64>();
        let gflop_per_item = info.flop_per_item / 1e9;
        let measurement = Measurement {
            model: model.name.clone(),
            tower: info.tower.to_string(),
            precision: info.precision.to_string(),
            device: info.device.clone(),
            kernels: info.kernels.clone(),
            batch_size,
            threads: info.threads,
            items_per_s,
            p50_ms: median(times) * 1e3,
            gflop_per_item,
            peak_gflops,
            fraction_of_peak: items_per_s * gflop_per_item / peak_gflops,
            load_s,
            rss_mb: megabytes("/proc/self/status", "VmHWM"),
        };
        let line = if args.json { measurement.json() } else { measurement.row() };
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Failure::Stdout)?;
        if let Some(profile) = &profile {
            // Only words for a person; nothing depends on their arriving.
            let _ =
                write!(std::io::stderr(), "{}", table(profile, batch_size, measurement.threads, peak_gflops));
        }
    }
    Ok(())
}

/// The seconds of each batch, over about `duration` after one batch that does not count.
fn measure(
    engine: &mut dyn Engine,
    batch_size: usize,
    duration: Duration,
    begin: impl FnOnce(),
) -> Result<Vec<f64>, Failure> {
    let info = engine.info().clone();
    let mut output = vec![0.0; batch_size * info.embedding_size];
    let len = batch_size * info.input_len;
    // Values spread over their whole range by a multiplicative hash: the work must not depend on lucky inputs.
    let spread = |i: usize| (i as u32).wrapping_mul(2_654_435_761);
    let ids: Vec<u32>;
    let pixels: Vec<f32>;
    let input = match info.tower {
        Tower::Text => {
            ids = (0..len).map(|i| spread(i) % info.vocab_size.max(1) as u32).collect();
            Input::TokenIds(&ids)
        }
        Tower::Vision => {
            pixels = (0..len).map(|i| (spread(i) >> 24) as f32 / 127.5 - 1.0).collect();
            Input::PixelValues(&pixels)
        }
    };
    engine.embed(input, &mut output)?;
    begin();
    let started = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || started.elapsed() < duration {
        let batch = Instant::now();
        engine.embed(input, &mut output)?;
        times.push(batch.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Where the time of a run went; "waiting" is the part of it that the threads of a phase wait for the last of them.
fn table(profile: &Profile, batch_size: usize, threads: usize, peak_gflops: f64) -> String {
    let lines: Vec<_> = profile.lines().filter(|line| line.calls > 0).collect();
    let total: f64 = lines.iter().map(|line| line.seconds).sum();
    let mut text = format!("batch {batch_size:<5}      share   of all  waiting     GFLOP/s  of peak\n");
    for line in lines {
        let rate = line.flop / line.seconds / 1e9;
        text += &format!(
            "  {:<14} {:>5.1}% {:>8.3} s {:>6.1}%",
            line.kind.name(),
            100.0 * line.seconds / total,
            line.seconds,
            100.0 * line.waiting_seconds / (line.seconds * threads as f64),
        );
        text += &if line.flop > 0.0 {
            format!(" {rate:>10.0} {:>7.1}%\n", 100.0 * rate / peak_gflops)
        } else {
            "\n".to_owned()
        };
    }
    text
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Measurement {
    const HEADER: &str = "model                    tower   precision  kernels      batch  items/s    p50 ms  \
                          GFLOP/s  of peak  load s   RSS MB";

    fn row(&self) -> String {
        format!(
            "{:<24} {:<7} {:<10} {:<12} {:>5} {:>8.2} {:>9.2} {:>8.0} {:>7.1}% {:>7.2} {:>8.0}",
            self.model,
            self.tower,
            self.precision,
            self.kernels,
            self.batch_size,
            self.items_per_s,
            self.p50_ms,
            self.items_per_s * self.gflop_per_item,
            100.0 * self.fraction_of_peak,
            self.load_s,
            self.rss_mb,
        )
    }

    fn json(&self) -> String {
        // Strings and finite numbers: serialising them cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}
