//! `siglip doctor`: what this machine can do.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use siglip::engine::Precision;
use siglip::hub::Settings;
use siglip_cpu::{
    Bf16Products, BuildError, Experience, Isa, Options, auto_precision, bf16_products, check, measure_peak,
};

use crate::args::DoctorArgs;
use crate::cache;
use crate::failure::Failure;
use crate::gpu_report::Gpu;
use crate::load;
use crate::system::{first_value, megabytes};

/// The contract of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    architecture: &'static str,
    processor: String,
    /// Threads that would be used: the affinity mask and the container's quota are counted in.
    threads: usize,
    memory_mb: f64,
    memory_available_mb: f64,
    /// What `--precision auto` means here, and why.
    auto_precision: String,
    auto_reason: &'static str,
    cache: Caches,
    kernels: Vec<Kernels>,
    gpu: Gpu,
}

/// Where what was fetched and what was computed is kept; null where nothing says where.
#[derive(Debug, Serialize)]
struct Caches {
    models: Option<PathBuf>,
    embeddings: Option<PathBuf>,
}

/// One instruction set.
#[derive(Debug, Serialize)]
struct Kernels {
    isa: &'static str,
    available: bool,
    /// Where the kernels have been run by those who wrote them: `processor`, `emulator` or `nowhere`.
    run_on: &'static str,
    peaks: Vec<Peak>,
}

#[derive(Debug, Serialize)]
struct Peak {
    precision: String,
    /// What is wrong with the kernels on this machine; they are not used then.
    differs: Option<String>,
    /// The measured rate of the matrix instruction on all threads, of kernels that are right.
    gflops: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: DoctorArgs) -> Result<(), Failure> {
    let report = examine(&args)?;
    let text = if args.json { serde_json::to_string(&report).unwrap_or_default() } else { report.table() };
    writeln!(std::io::stdout(), "{text}").map_err(Failure::Stdout)
}

fn examine(args: &DoctorArgs) -> Result<Report, Failure> {
    let pool = load::pool(args.threads)?;
    let mut kernels = Vec::new();
    for isa in Isa::ALL {
        let mut peaks = Vec::new();
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            if !isa.is_available() || !isa.supports(precision) {
                continue;
            }
            let differs = match check(isa, precision) {
                Ok(()) => None,
                Err(BuildError::Check { difference, .. }) => Some(difference.to_string()),
                Err(error) => return Err(error.into()),
            };
            let options =
                Options { precision, isa, pool: Arc::clone(&pool), max_batch_size: 1, profile: None };
            let gflops = match differs {
                None => Some(measure_peak(&options, Duration::from_millis(300))?),
                Some(_) => None,
            };
            peaks.push(Peak { precision: precision.to_string(), differs, gflops });
        }
        let run_on = match isa.experience() {
            Experience::Processor => "processor",
            Experience::Emulator => "emulator",
        };
        kernels.push(Kernels { isa: isa.name(), available: isa.is_available(), run_on, peaks });
    }
    let auto = auto_precision();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        architecture: std::env::consts::ARCH,
        processor: first_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
        threads: pool.threads(),
        memory_mb: megabytes("/proc/meminfo", "MemTotal"),
        memory_available_mb: megabytes("/proc/meminfo", "MemAvailable"),
        auto_precision: auto.to_string(),
        auto_reason: match bf16_products() {
            Bf16Products::Fast => "the processor multiplies bf16, and faster than f32",
            Bf16Products::Slow => {
                "half the memory of f32 at its rate; the processor's own products of bf16 are slower and are not used"
            }
            Bf16Products::None => "the processor has no bf16 arithmetic that there are kernels for",
        },
        cache: Caches {
            models: Settings::from_env().ok().map(|settings| settings.cache),
            embeddings: cache::default_folder(),
        },
        kernels,
        gpu: Gpu::examine(&args.cuda),
    })
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "siglip {} on {}\nprocessor  {}\nthreads    {} (affinity mask and CPU quota counted in)\n\
             memory     {:.0} MB, {:.0} MB available\nprecision  auto is {}: {}\n\
             caches     models in {}, embeddings in {}\nGPU        {}\n\n\
             kernels       on this machine  measured peak\n",
            self.version,
            self.architecture,
            self.processor,
            self.threads,
            self.memory_mb,
            self.memory_available_mb,
            self.auto_precision,
            self.auto_reason,
            place(&self.cache.models),
            place(&self.cache.embeddings),
            self.gpu.summary(),
        );
        for kernels in &self.kernels {
            text += &kernels.row();
        }
        text += &self.gpu.table();
        text.trim_end().to_owned()
    }
}

fn place(folder: &Option<PathBuf>) -> String {
    folder.as_ref().map_or_else(|| "no place".to_owned(), |folder| folder.display().to_string())
}

impl Kernels {
    fn row(&self) -> String {
        let state = match (self.available, self.peaks.iter().any(|peak| peak.differs.is_some())) {
            (false, _) => "not here",
            (true, false) => "checked",
            (true, true) => "differs",
        };
        let peak = |peak: &Peak| match (&peak.differs, peak.gflops) {
            (Some(differs), _) => format!("{} is not used: {differs}", peak.precision),
            (None, gflops) => format!("{} {:.0} GFLOP/s", peak.precision, gflops.unwrap_or_default()),
        };
        let mut notes: Vec<String> = self.peaks.iter().map(peak).collect();
        notes.extend(match self.run_on {
            "emulator" => Some("where this was developed, run in an emulator only".to_owned()),
            _ => None,
        });
        format!("{:<13} {:<16} {}", self.isa, state, notes.join(", ")).trim_end().to_owned() + "\n"
    }
}
