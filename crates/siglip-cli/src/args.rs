//! The command line: every option once, with its help, its environment variable and its key in a configuration file.
//!
//! The name of an option is the name of its key (`http-port`), and with `SIGLIP_` before it that of its variable
//! (`SIGLIP_HTTP_PORT`). Tests hold every option to that.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use siglip::engine::{Precision, Tower};
use siglip_cpu::Isa;
use siglip_server::{Compat, ModelControl, TraceOptions};

use crate::classify::ClassifyArgs;
use crate::device::Device;
use crate::embed::EmbedArgs;
use crate::logging;
use crate::validate::ValidateArgs;

/// SigLIP embeddings from one program.
#[derive(Debug, Parser)]
#[command(name = "siglip", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to log, as `level` or `target=level,…`; logs go to standard error.
    #[arg(long, env = "SIGLIP_LOG", default_value = "info", global = true, value_name = "FILTER",
          value_parser = logging::filter)]
    pub(crate) log: String,
    /// A TOML file with values for the options of the subcommand; the command line and the environment win over it.
    #[arg(long, env = "SIGLIP_CONFIG", global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve embeddings over the KServe v2 protocol, as Triton does.
    Serve(ServeArgs),
    /// Embed the lines of a text, or images, into a .npy, .parquet or .jsonl file.
    Embed(EmbedArgs),
    /// Score labels for images: how likely each describes each image.
    Classify(ClassifyArgs),
    /// Measure how well a model names images: ImageNet's layout, the original's validation.
    Validate(ValidateArgs),
    /// Fetch a model from the Hugging Face Hub into the cache that Python's tools share.
    ///
    /// Prints the model's folder. What is in the cache is not fetched again, and a fetch that was cut goes on where it
    /// ended. HF_HOME or HF_HUB_CACHE say where the cache is, HF_TOKEN (or `hf auth login`) opens gated models,
    /// HF_ENDPOINT names a mirror, and with HF_HUB_OFFLINE=1 nothing is fetched.
    Fetch(FetchArgs),
    /// Measure how fast this machine embeds, beside its own matrix peak.
    Bench(BenchArgs),
    /// Say what this machine can do: instruction sets, measured peaks, memory.
    Doctor(DoctorArgs),
}

/// Which model.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// A folder in the Hub's layout (config.json, model.safetensors, spiece.model or tokenizer.json), or a model's name
    /// on the Hub, which is fetched unless the cache has it; `name@revision` for another revision than main. By default
    /// google/siglip-so400m-patch14-384.
    #[arg(long, env = "SIGLIP_MODEL", value_name = "HUB_ID|DIR")]
    pub(crate) model: Option<PathBuf>,
    /// The small model that is embedded in the program: to try everything without a download.
    #[arg(long, env = "SIGLIP_DEMO", conflicts_with = "model")]
    pub(crate) demo: bool,
}

/// Which models to serve.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServedModelArgs {
    /// A folder in the Hub's layout (config.json, model.safetensors, spiece.model or tokenizer.json), or a model's name
    /// on the Hub, which is fetched unless the cache has it; `name@revision` for another revision than main. May be
    /// given several times, or several with commas between them: the first is the default, and the parameter
    /// `embed_model` of a request names another. By default google/siglip-so400m-patch14-384.
    #[arg(long, env = "SIGLIP_MODEL", value_name = "HUB_ID|DIR", value_delimiter = ',')]
    pub(crate) model: Vec<PathBuf>,
    /// The small model that is embedded in the program: to try everything without a download.
    #[arg(long, env = "SIGLIP_DEMO", conflicts_with = "model")]
    pub(crate) demo: bool,
}

impl ServedModelArgs {
    /// Each model as one would name it alone.
    pub(crate) fn each(&self) -> Vec<ModelArgs> {
        if self.model.is_empty() {
            return vec![ModelArgs { model: None, demo: self.demo }];
        }
        self.model.iter().map(|dir| ModelArgs { model: Some(dir.clone()), demo: false }).collect()
    }
}

/// How to compute.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Where to compute: auto, cpu, cuda, or cuda:N for the card N. `auto` takes the first NVIDIA card that can be used,
    /// or else the processor. `serve` and `bench --all-engines` also take several cards, cuda:0,1
    /// or cuda:all.
    #[arg(long, env = "SIGLIP_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: Device,
    /// The number format of matrix products: f32, bf16 or int8 on the processor, bf16, f16, f32, or from compute capability
    /// 8.9 on fp8 on a card. `auto` takes bf16 on a card and where the processor multiplies it, f32 elsewhere.
    #[arg(long, env = "SIGLIP_PRECISION", value_enum, default_value_t = PrecisionArg::Auto)]
    pub(crate) precision: PrecisionArg,
    /// Threads that compute. By default as many as the affinity mask and the container's CPU quota allow.
    #[arg(long, env = "SIGLIP_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// The instruction set whose kernels are used, instead of the fastest that this machine has: amx, avx512-bf16,
    /// avx512-vnni, avx512, avx-vnni, avx2, neon-bf16, neon-dotprod, neon or portable. For comparisons and for finding
    /// faults.
    #[arg(long, env = "SIGLIP_ISA", value_name = "SET")]
    pub(crate) isa: Option<Isa>,
    #[command(flatten)]
    pub(crate) cuda: CudaArgs,
}

/// Where NVIDIA's libraries are.
#[derive(Args, Clone, Debug)]
pub(crate) struct CudaArgs {
    /// A folder to look for NVRTC and cuBLASLt in, before the system's: one that holds them, a CUDA toolkit, or a Python
    /// environment with pip's nvidia-cuda-nvrtc-cu12 and nvidia-cublas-cu12. Several with commas between them.
    #[arg(long, env = "SIGLIP_CUDA_LIBRARIES", value_name = "PATH", value_delimiter = ',')]
    pub(crate) cuda_libraries: Vec<PathBuf>,
}

/// Options of `siglip serve`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ServedModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// The address to listen on; 0.0.0.0 for all.
    #[arg(long, env = "SIGLIP_HOST", default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(crate) host: IpAddr,
    /// The port for HTTP; 0 for any that is free.
    #[arg(long, env = "SIGLIP_HTTP_PORT", default_value_t = 8000, value_name = "PORT")]
    pub(crate) http_port: u16,
    /// The port for gRPC; 0 for any that is free.
    #[arg(long, env = "SIGLIP_GRPC_PORT", default_value_t = 8001, value_name = "PORT")]
    pub(crate) grpc_port: u16,
    /// The port for Prometheus metrics; 0 for any that is free.
    #[arg(long, env = "SIGLIP_METRICS_PORT", default_value_t = 8002, value_name = "PORT")]
    pub(crate) metrics_port: u16,
    /// The most rows of one batch, and of one request. Larger batches raise throughput only as far as the processor is
    /// not busy yet, and every row's latency with it.
    #[arg(long, env = "SIGLIP_MAX_BATCH_SIZE", default_value_t = 32, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) max_batch_size: u16,
    /// How long a batch that is not full waits for more rows while the engine is idle, in microseconds. At 0 an idle
    /// engine never waits; batches still form while it is busy.
    #[arg(long, env = "SIGLIP_MAX_QUEUE_DELAY_US", default_value_t = 0, value_name = "MICROSECONDS",
          value_parser = clap::value_parser!(u64).range(..=60_000_000))]
    pub(crate) max_queue_delay_us: u64,
    /// The most rows that wait for an engine; a request that would make it more is refused at once with 503.
    #[arg(long, env = "SIGLIP_MAX_QUEUE_SIZE", default_value_t = 1024, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_queue_size: u32,
    /// Levels of priority that a request may ask for with the parameter `priority`, of which 1 is served first; 0 to
    /// treat all alike.
    #[arg(long, env = "SIGLIP_PRIORITY_LEVELS", default_value_t = 0, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=1000))]
    pub(crate) priority_levels: u32,
    /// How long a request may wait for its batch before it is answered with an error, in microseconds; 0 for as long as
    /// it takes.
    #[arg(long, env = "SIGLIP_QUEUE_TIMEOUT_US", default_value_t = 0, value_name = "MICROSECONDS",
          value_parser = clap::value_parser!(u64).range(..=86_400_000_000))]
    pub(crate) queue_timeout_us: u64,
    /// Let requests say how long they wait, with the parameter `timeout` in microseconds.
    #[arg(long, env = "SIGLIP_ALLOW_TIMEOUT_OVERRIDE")]
    pub(crate) allow_timeout_override: bool,
    /// What may be kept of results, so that a text that comes again is not computed again, in megabytes for each model;
    /// 0 to keep none.
    #[arg(long, env = "SIGLIP_CACHE_SIZE", default_value_t = 0, value_name = "MB",
          value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) cache_size: u32,
    /// The largest request body in megabytes, before and after decompression.
    #[arg(long, env = "SIGLIP_MAX_BODY_MB", default_value_t = 512, value_name = "MB",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) max_body_mb: u32,
    /// The most connections open at once, over HTTP and gRPC together; more wait to be accepted.
    #[arg(long, env = "SIGLIP_MAX_CONNECTIONS", default_value_t = 4096, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,
    /// Whose form the metadata of siglip_text and siglip_vision have: that of the original's page, or that of its
    /// successor, where both take texts and images. Either input is taken in any case.
    #[arg(long, env = "SIGLIP_COMPAT", value_enum, default_value_t = CompatArg::Page)]
    pub(crate) compat: CompatArg,
    /// Whether clients may load and unload models, as with Triton's --model-control-mode. A tower that no loaded model
    /// uses takes no memory.
    #[arg(long, env = "SIGLIP_MODEL_CONTROL", value_enum, default_value_t = ModelControlArg::None)]
    pub(crate) model_control: ModelControlArg,
    /// Turn images upright as their Exif data says. The original does not.
    #[arg(long, env = "SIGLIP_EXIF_ORIENTATION")]
    pub(crate) exif_orientation: bool,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// How long to go on, once told to stop, to finish what was taken in, in seconds.
    #[arg(long, env = "SIGLIP_SHUTDOWN_GRACE", default_value_t = 30, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub(crate) shutdown_grace: u64,
}

/// What is traced, as Triton's options of the same names say.
#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// Write traces of requests to this file, in Triton's JSON; the file is whole once the server has stopped. The settings
    /// below can be changed by clients.
    #[arg(long, env = "SIGLIP_TRACE_FILE", value_name = "FILE")]
    pub(crate) trace_file: Option<PathBuf>,
    /// What is traced: TIMESTAMPS, TENSORS, both with a comma between them, or OFF until a client asks for it.
    #[arg(
        long,
        env = "SIGLIP_TRACE_LEVEL",
        value_enum,
        default_value = "TIMESTAMPS",
        value_name = "LEVEL",
        value_delimiter = ',',
        requires = "trace_file"
    )]
    pub(crate) trace_level: Vec<TraceLevel>,
    /// Every how many requests one is traced.
    #[arg(long, env = "SIGLIP_TRACE_RATE", default_value_t = 1000, value_name = "N", requires = "trace_file",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) trace_rate: u32,
    /// How many requests are traced; -1 for no end.
    #[arg(long, env = "SIGLIP_TRACE_COUNT", default_value_t = -1, value_name = "N", requires = "trace_file",
          allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
    pub(crate) trace_count: i32,
    /// Begin a new file, with .0, .1 and so on after its name, every so many traces; 0 for one file.
    #[arg(
        long,
        env = "SIGLIP_TRACE_LOG_FREQUENCY",
        default_value_t = 0,
        value_name = "N",
        requires = "trace_file"
    )]
    pub(crate) trace_log_frequency: u32,
}

/// A level of tracing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum TraceLevel {
    /// When each step began and ended.
    Timestamps,
    /// The tensors that came and went.
    Tensors,
    /// Nothing.
    Off,
}

impl TraceArgs {
    /// The option that all others are about.
    pub(crate) const FILE: &str = "trace_file";
    /// How the names of all begin.
    pub(crate) const PREFIX: &str = "trace_";

    /// What the server is told; nothing without a file.
    pub(crate) fn options(&self) -> Option<TraceOptions> {
        let name = |level: &TraceLevel| match level {
            TraceLevel::Timestamps => Some("TIMESTAMPS".to_owned()),
            TraceLevel::Tensors => Some("TENSORS".to_owned()),
            TraceLevel::Off => None,
        };
        Some(TraceOptions {
            file: self.trace_file.clone()?,
            levels: self.trace_level.iter().filter_map(name).collect(),
            rate: self.trace_rate,
            count: self.trace_count,
            log_frequency: self.trace_log_frequency,
        })
    }
}

/// Options of `siglip fetch`.
#[derive(Args, Clone, Debug)]
pub(crate) struct FetchArgs {
    /// The model's name on the Hub, e.g. google/siglip-base-patch16-224.
    #[arg(value_name = "HUB_ID")]
    pub(crate) id: String,
    /// What to fetch: `both` is the whole model as the Hub holds it. For one tower only the bytes of its tensors are
    /// fetched, about half, into a folder beside the snapshots; --model with the model's name finds it there.
    #[arg(long, env = "SIGLIP_TOWER", value_enum, default_value_t = FetchTower::Both)]
    pub(crate) tower: FetchTower,
    /// A branch, a tag or a commit.
    #[arg(long, env = "SIGLIP_REVISION", default_value = siglip::hub::Repo::MAIN)]
    pub(crate) revision: String,
    /// The Hub's address. By default HF_ENDPOINT, or else https://huggingface.co.
    #[arg(long, env = "SIGLIP_ENDPOINT", value_name = "URL")]
    pub(crate) endpoint: Option<String>,
}

/// Options of `siglip bench`.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// The tower to measure.
    #[arg(long, env = "SIGLIP_TOWER", value_enum, default_value_t = TowerArg::Text)]
    pub(crate) tower: TowerArg,
    /// Rows of one batch; several sizes separated by commas are measured one after the other.
    #[arg(long, env = "SIGLIP_BATCH_SIZE", default_value = "32", value_name = "N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) batch_size: Vec<u16>,
    /// Keep as many engines busy at once as `serve` does: two on each card of --device, one on the processor.
    #[arg(long, env = "SIGLIP_ALL_ENGINES")]
    pub(crate) all_engines: bool,
    /// How long to measure each size.
    #[arg(long, env = "SIGLIP_SECONDS", default_value_t = 5.0, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Print where the time goes, for each kind of operation, to standard error.
    #[arg(long, env = "SIGLIP_PROFILE")]
    pub(crate) profile: bool,
    /// Print one line of JSON for each size instead of a table.
    #[arg(long, env = "SIGLIP_JSON")]
    pub(crate) json: bool,
}

/// Options of `siglip doctor`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object instead of a table.
    #[arg(long, env = "SIGLIP_JSON")]
    pub(crate) json: bool,
    /// Threads to measure with, as for the other commands.
    #[arg(long, env = "SIGLIP_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    #[command(flatten)]
    pub(crate) cuda: CudaArgs,
}

/// A precision as the command line takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// The fastest that keeps the model's quality on this machine.
    Auto,
    F32,
    Bf16,
    Int8,
    F16,
    Fp8,
}

impl PrecisionArg {
    /// The precision that is meant, with what `auto` stands for.
    pub(crate) fn resolve(self, auto: Precision) -> Precision {
        match self {
            PrecisionArg::Auto => auto,
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::Int8 => Precision::Int8,
            PrecisionArg::F16 => Precision::F16,
            PrecisionArg::Fp8 => Precision::Fp8,
        }
    }
}

/// A tower as the command line takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TowerArg {
    Text,
    Vision,
}

/// What `siglip fetch` fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FetchTower {
    Text,
    Vision,
    Both,
}

impl From<TowerArg> for Tower {
    fn from(tower: TowerArg) -> Tower {
        match tower {
            TowerArg::Text => Tower::Text,
            TowerArg::Vision => Tower::Vision,
        }
    }
}

/// A generation of the original deployment, as the command line takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompatArg {
    /// The older: token ids and pixel values.
    Page,
    /// Its successor: texts and image files.
    Ensemble,
}

impl From<CompatArg> for Compat {
    fn from(compat: CompatArg) -> Compat {
        match compat {
            CompatArg::Page => Compat::Page,
            CompatArg::Ensemble => Compat::Ensemble,
        }
    }
}

/// Who loads models, as the command line takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModelControlArg {
    /// All are loaded while the server runs.
    None,
    /// Clients load and unload them.
    Explicit,
}

impl From<ModelControlArg> for ModelControl {
    fn from(control: ModelControlArg) -> ModelControl {
        match control {
            ModelControlArg::None => ModelControl::None,
            ModelControlArg::Explicit => ModelControl::Explicit,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to 86400 is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_isa_names_every_set() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let isa = serve.get_arguments().find(|arg| arg.get_long() == Some("isa")).unwrap();
        let help = isa.get_help().unwrap().to_string();
        for isa in Isa::ALL {
            assert!(help.split([' ', ',', '.']).any(|word| word == isa.name()), "{isa}: {help}");
        }
    }

    #[test]
    fn every_option_has_help_and_its_environment_variable() {
        let program = Cli::command();
        for command in program.get_subcommands() {
            for arg in command.get_arguments().chain(program.get_arguments()) {
                let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
                    continue;
                };
                let variable = format!("SIGLIP_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "--{long}");
                assert!(arg.get_help().is_some(), "--{long} has no help");
            }
        }
    }
}
