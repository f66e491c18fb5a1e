//! `siglip bench`: how fast an engine embeds, beside the machine's matrix peak measured in the same process.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use siglip::engine::{Engine, EngineError, EngineInfo, Input, Tower};
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
    /// Those that computed at once, a batch each.
    engines: usize,
    threads: usize,
    /// Rows of all engines over the whole time of measuring.
    items_per_s: f64,
    /// Of one batch, from the host's memory to the host's memory.
    p50_ms: f64,
    gflop_per_item: f64,
    /// With the instruction that the precision uses, on the same threads: the best of a short run before and after every
    /// [`STRETCH`], of which this is the median. On cards of one run before, on one of them, times their number.
    peak_gflops: f64,
    /// Of the processor the median of what it was in each stretch, of the peaks before and after.
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
    let tower = args.tower.into();
    let mut engines = if args.all_engines {
        load::engines(&model, tower, &options)?
    } else {
        vec![load::engine(&model, tower, &options)?]
    };
    let load_s = started.elapsed().as_secs_f64();
    let Some(info) = engines.first().map(|engine| engine.info().clone()) else {
        return Err(load::no_tower(&model, tower));
    };

    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(out, "{}", Measurement::HEADER).map_err(Failure::Stdout)?;
    }
    for &batch_size in &args.batch_size {
        let batch_size = usize::from(batch_size);
        let batches = Batches::new(&info, batch_size);
        for engine in &mut engines {
            batches.run(engine.as_mut(), Duration::ZERO)?;
        }
        let duration = Duration::from_secs_f64(args.seconds);
        let gflop_per_item = info.flop_per_item / 1e9;
        let flop = batch_size as f64 * gflop_per_item;
        profile.as_deref().inspect(|profile| profile.reset());
        let run = match (&options, engines.as_mut_slice()) {
            (EngineOptions::Cpu(_), [engine]) => {
                let measure_peak = || options.measure_peak(BURST);
                Run::of_stretches(in_turns(engine.as_mut(), &batches, duration, measure_peak)?, flop)
            }
            _ => {
                let peak = options.measure_peak(Duration::from_millis(300))? * options.devices() as f64;
                let (times, seconds) = at_once(&mut engines, &batches, duration)?;
                Run::new(times, seconds, peak, flop)
            }
        };
        let measurement = Measurement {
            model: model.name.clone(),
            tower: info.tower.to_string(),
            precision: info.precision.to_string(),
            device: info.device.clone(),
            kernels: info.kernels.clone(),
            batch_size,
            engines: engines.len(),
            threads: info.threads,
            items_per_s: (batch_size * run.times.len()) as f64 / run.seconds,
            p50_ms: median(run.times) * 1e3,
            gflop_per_item,
            peak_gflops: run.peak_gflops,
            fraction_of_peak: run.fraction_of_peak,
            load_s,
            rss_mb: megabytes("/proc/self/status", "VmHWM"),
        };
        let line = if args.json { measurement.json() } else { measurement.row() };
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Failure::Stdout)?;
        if let Some(profile) = &profile {
            // Only words for a person; nothing depends on their arriving.
            let Measurement { threads, peak_gflops, .. } = measurement;
            let _ = write!(std::io::stderr(), "{}", table(profile, batch_size, threads, peak_gflops));
        }
    }
    Ok(())
}

/// Rows that are embedded again and again.
struct Batches {
    tower: Tower,
    ids: Vec<u32>,
    pixels: Vec<f32>,
    output_len: usize,
}

impl Batches {
    fn new(info: &EngineInfo, batch_size: usize) -> Batches {
        let len = batch_size * info.input_len;
        // Values spread over their whole range by a multiplicative hash: the work must not depend on lucky inputs.
        let spread = |i: usize| (i as u32).wrapping_mul(2_654_435_761);
        let (mut ids, mut pixels) = (Vec::new(), Vec::new());
        match info.tower {
            Tower::Text => ids = (0..len).map(|i| spread(i) % info.vocab_size.max(1) as u32).collect(),
            Tower::Vision => pixels = (0..len).map(|i| (spread(i) >> 24) as f32 / 127.5 - 1.0).collect(),
        }
        Batches { tower: info.tower, ids, pixels, output_len: batch_size * info.embedding_size }
    }

    /// The seconds of each batch, over about `duration` and of one at least.
    fn run(&self, engine: &mut dyn Engine, duration: Duration) -> Result<Vec<f64>, EngineError> {
        let input = match self.tower {
            Tower::Text => Input::TokenIds(&self.ids),
            Tower::Vision => Input::PixelValues(&self.pixels),
        };
        let mut output = vec![0.0; self.output_len];
        let started = Instant::now();
        let mut times = Vec::new();
        while times.is_empty() || started.elapsed() < duration {
            let batch = Instant::now();
            engine.embed(input, &mut output)?;
            times.push(batch.elapsed().as_secs_f64());
        }
        Ok(times)
    }
}

/// What was measured of one batch size.
struct Run {
    /// The seconds of each batch, and from the first one's beginning to the last one's end but for pauses.
    times: Vec<f64>,
    seconds: f64,
    peak_gflops: f64,
    fraction_of_peak: f64,
}

impl Run {
    /// Where a batch is `gflop` thousand million operations.
    fn new(times: Vec<f64>, seconds: f64, peak_gflops: f64, gflop: f64) -> Run {
        let gflops = times.len() as f64 * gflop / seconds;
        Run { times, seconds, peak_gflops, fraction_of_peak: gflops / peak_gflops }
    }

    /// The same for batches between which the peak was measured.
    fn of_stretches(stretches: Vec<Stretch>, gflop: f64) -> Run {
        let fractions = stretches.iter().map(|stretch| stretch.fraction_of_peak(gflop)).collect();
        let peaks = stretches.iter().flat_map(|stretch| stretch.peaks).collect();
        let times: Vec<f64> = stretches.into_iter().flat_map(|stretch| stretch.times).collect();
        let seconds = times.iter().sum();
        Run { times, seconds, peak_gflops: median(peaks), fraction_of_peak: median(fractions) }
    }
}

/// How long the processor's peak is measured, and for how long batches follow each other before it is once more: the clock of
/// a shared machine is another one every few seconds.
const BURST: Duration = Duration::from_millis(20);
const STRETCH: Duration = Duration::from_millis(100);

/// Batches one after the other.
struct Stretch {
    /// The seconds of each.
    times: Vec<f64>,
    /// The processor's peak before and after, in GFLOP/s.
    peaks: [f64; 2],
}

impl Stretch {
    /// Where a batch is `gflop` thousand million operations.
    fn fraction_of_peak(&self, gflop: f64) -> f64 {
        let rate = gflop * self.times.len() as f64 / self.times.iter().sum::<f64>();
        rate * 2.0 / self.peaks.iter().sum::<f64>()
    }
}

/// Batches of about `duration` in all on one engine, in stretches, and the peak before and after each.
fn in_turns<E: From<EngineError>>(
    engine: &mut dyn Engine,
    batches: &Batches,
    duration: Duration,
    measure_peak: impl Fn() -> Result<f64, E>,
) -> Result<Vec<Stretch>, E> {
    let mut stretches = Vec::new();
    let (mut seconds, mut before) = (0.0, measure_peak()?);
    while stretches.is_empty() || seconds < duration.as_secs_f64() {
        let times = batches.run(engine, STRETCH.min(duration))?;
        let after = measure_peak()?;
        seconds += times.iter().sum::<f64>();
        stretches.push(Stretch { times, peaks: [before, after] });
        before = after;
    }
    Ok(stretches)
}

/// Keeps all engines busy for about `duration`, the first on this thread: the seconds of each batch, and of all.
fn at_once(
    engines: &mut [Box<dyn Engine>],
    batches: &Batches,
    duration: Duration,
) -> Result<(Vec<f64>, f64), EngineError> {
    let started = Instant::now();
    let times = std::thread::scope(|scope| {
        let mut engines = engines.iter_mut();
        let first = engines.next();
        let others: Vec<_> =
            engines.map(|engine| scope.spawn(|| batches.run(engine.as_mut(), duration))).collect();
        let mut times = first.map_or(Ok(Vec::new()), |engine| batches.run(engine.as_mut(), duration))?;
        for other in others {
            match other.join() {
                Ok(more) => times.extend(more?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, EngineError>(times)
    })?;
    Ok((times, started.elapsed().as_secs_f64()))
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
    const HEADER: &str = "model                    tower   precision  kernels      batch  engines  items/s    p50 ms  \
                          GFLOP/s  of peak  load s   RSS MB";

    fn row(&self) -> String {
        format!(
            "{:<24} {:<7} {:<10} {:<12} {:>5} {:>8} {:>8.2} {:>9.2} {:>8.0} {:>7.1}% {:>7.2} {:>8.0}",
            self.model,
            self.tower,
            self.precision,
            self.kernels,
            self.batch_size,
            self.engines,
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use siglip::engine::Precision;

    use super::*;

    /// An engine whose batches end only when another one's does, or that refuses them.
    struct Other {
        info: EngineInfo,
        together: Option<Arc<Barrier>>,
    }

    impl Engine for Other {
        fn info(&self) -> &EngineInfo {
            &self.info
        }

        fn embed(&mut self, input: Input<'_>, output: &mut [f32]) -> Result<(), EngineError> {
            assert!(matches!(input, Input::TokenIds(ids) if ids.len() == 6 && ids.iter().all(|id| *id < 10)));
            assert_eq!(output.len(), 4);
            let Some(together) = &self.together else { return Err(EngineError::NotFinite { row: 0 }) };
            together.wait();
            Ok(())
        }
    }

    fn engine(together: Option<&Arc<Barrier>>) -> Box<dyn Engine> {
        let info = EngineInfo {
            tower: Tower::Text,
            device: "none".into(),
            card_uuid: None,
            precision: Precision::F32,
            kernels: String::new(),
            threads: 1,
            max_batch_size: 2,
            input_len: 3,
            vocab_size: 10,
            embedding_size: 2,
            weights_bytes: 0,
            scratch_bytes: 0,
            flop_per_item: 1.0,
        };
        Box::new(Other { info, together: together.cloned() })
    }

    #[test]
    fn the_peak_is_measured_around_every_stretch() {
        let together = Arc::new(Barrier::new(1));
        let mut engine = engine(Some(&together));
        let batches = Batches::new(engine.info(), 2);
        let (duration, peak) = (Duration::from_millis(5), std::cell::Cell::new(0.0));
        let measure = || {
            peak.set(peak.get() + 1.0);
            Ok::<_, EngineError>(peak.get())
        };
        let stretches = in_turns(engine.as_mut(), &batches, duration, measure).unwrap();
        let seconds: f64 = stretches.iter().flat_map(|stretch| &stretch.times).sum();
        assert!(seconds >= duration.as_secs_f64());
        for (i, stretch) in stretches.iter().enumerate() {
            assert_eq!(stretch.peaks, [1.0 + i as f64, 2.0 + i as f64]);
        }

        let stretch = Stretch { times: vec![0.5, 1.5], peaks: [3.0, 5.0] };
        assert_eq!(stretch.fraction_of_peak(2.0), 0.5);
    }

    #[test]
    fn all_engines_compute_at_once() {
        let together = Arc::new(Barrier::new(3));
        let mut engines: Vec<_> = (0..3).map(|_| engine(Some(&together))).collect();
        let batches = Batches::new(engines[0].info(), 2);
        let (times, seconds) = at_once(&mut engines, &batches, Duration::ZERO).unwrap();
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|time| *time <= seconds));
    }

    #[test]
    fn an_engine_that_fails_ends_the_measurement() {
        let together = Arc::new(Barrier::new(1));
        for failing in [0, 1] {
            let mut engines = vec![engine(Some(&together)), engine(Some(&together))];
            engines[failing] = engine(None);
            let batches = Batches::new(engines[0].info(), 2);
            let error = at_once(&mut engines, &batches, Duration::ZERO).unwrap_err();
            assert!(matches!(error, EngineError::NotFinite { row: 0 }));
        }
    }
}
