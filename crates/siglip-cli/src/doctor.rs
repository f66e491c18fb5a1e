//! `siglip doctor`: what this machine can do.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use siglip::engine::Precision;
use siglip_cpu::{Isa, Options, auto_precision, measure_peak};

use crate::args::DoctorArgs;
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
    kernels: Vec<Kernels>,
    gpu: Gpu,
}

/// One instruction set.
#[derive(Debug, Serialize)]
struct Kernels {
    isa: &'static str,
    available: bool,
    peaks: Vec<Peak>,
}

#[derive(Debug, Serialize)]
struct Peak {
    precision: String,
    /// The measured rate of the matrix instruction on all threads.
    gflops: f64,
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
            if isa.is_available() && isa.supports(precision) {
                let options =
                    Options { precision, isa, pool: Arc::clone(&pool), max_batch_size: 1, profile: None };
                let gflops = measure_peak(&options, Duration::from_millis(300))?;
                peaks.push(Peak { precision: precision.to_string(), gflops });
            }
        }
        kernels.push(Kernels { isa: isa.name(), available: isa.is_available(), peaks });
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
        auto_reason: match auto {
            Precision::Bf16 => "the processor multiplies bf16 (AVX-512 BF16), at twice the rate of f32",
            _ => "the processor has no bf16 arithmetic that there are kernels for",
        },
        kernels,
        gpu: Gpu::examine(&args.cuda),
    })
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "siglip {} on {}\nprocessor  {}\nthreads    {} (affinity mask and CPU quota counted in)\n\
             memory     {:.0} MB, {:.0} MB available\nprecision  auto is {}: {}\nGPU        {}\n\n\
             kernels       available  measured peak\n",
            self.version,
            self.architecture,
            self.processor,
            self.threads,
            self.memory_mb,
            self.memory_available_mb,
            self.auto_precision,
            self.auto_reason,
            self.gpu.summary(),
        );
        for kernels in &self.kernels {
            let peaks: Vec<String> = kernels
                .peaks
                .iter()
                .map(|peak| format!("{} {:.0} GFLOP/s", peak.precision, peak.gflops))
                .collect();
            let available = if kernels.available { "yes" } else { "no" };
            text += &format!("{:<13} {:<10} {}\n", kernels.isa, available, peaks.join(", "));
        }
        text += &self.gpu.table();
        text.trim_end().to_owned()
    }
}
