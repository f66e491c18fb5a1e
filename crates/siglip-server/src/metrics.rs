//! The metrics, as Prometheus reads them.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use siglip::engine::Tower;
use siglip_protocol::statistics::ModelStatistics;

use crate::batcher::{Batcher, Gauges};
use crate::cards::CardReading;
use crate::machine::Machine;
use crate::registry::{Registry, VERSION};
use crate::state::ServerState;
use crate::statistics::{Snapshot, micros};

/// A metric of Triton's that has one number a model: its name, its help, its type and where the number is.
type ModelMetric = (&'static str, &'static str, &'static str, fn(&ModelStatistics) -> u64);

const MODEL_METRICS: [ModelMetric; 7] = [
    (
        "nv_inference_count",
        "Number of inferences performed (does not include cached requests)",
        "counter",
        |statistics| statistics.inference_count,
    ),
    (
        "nv_inference_exec_count",
        "Number of model executions performed (does not include cached requests)",
        "counter",
        |statistics| statistics.execution_count,
    ),
    (
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        "counter",
        |statistics| micros(&statistics.inference_stats.success),
    ),
    (
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        "counter",
        |statistics| micros(&statistics.inference_stats.queue),
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        "counter",
        |statistics| micros(&statistics.inference_stats.compute_input),
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        "counter",
        |statistics| micros(&statistics.inference_stats.compute_infer),
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
        "counter",
        |statistics| micros(&statistics.inference_stats.compute_output),
    ),
];

/// Writes all metrics: Triton's under its names, and ours.
pub(crate) fn render(state: &ServerState) -> String {
    let registry = &state.registry;
    let mut text = Text(String::with_capacity(8192));
    let endpoints = registry.endpoints();
    let models: Vec<(Snapshot, u64)> = endpoints
        .iter()
        .map(|endpoint| {
            let counters = endpoint.counters();
            (counters.snapshot(&endpoint.spec().name, VERSION), counters.pending.load(Ordering::Relaxed))
        })
        .collect();
    triton_metrics(&mut text, &models);
    if state.options.cache_bytes > 0 {
        model_metrics(&mut text, &models, &CACHE_METRICS);
    }
    machine_metrics(&mut text, &state.machine);
    card_metrics(&mut text, &card_readings(state));
    batcher_metrics(&mut text, registry);

    text.head(
        "siglip_request_duration_seconds",
        "Time from the reception of a request to its answer",
        "histogram",
    );
    for endpoint in &endpoints {
        let labels = format!("model=\"{}\"", endpoint.spec().name);
        text.histogram("siglip_request_duration_seconds", &labels, endpoint.counters().latency.snapshot());
    }
    text.0
}

/// What Triton shows where its response cache is on.
const CACHE_METRICS: [ModelMetric; 4] = [
    ("nv_cache_num_hits_per_model", "Number of cache hits per model", "counter", |statistics| {
        statistics.inference_stats.cache_hit.count
    }),
    ("nv_cache_num_misses_per_model", "Number of cache misses per model", "counter", |statistics| {
        statistics.inference_stats.cache_miss.count
    }),
    (
        "nv_cache_hit_duration_per_model",
        "Total cache hit duration per model, in microseconds",
        "counter",
        |statistics| micros(&statistics.inference_stats.cache_hit),
    ),
    (
        "nv_cache_miss_duration_per_model",
        "Total cache miss duration per model, in microseconds",
        "counter",
        |statistics| micros(&statistics.inference_stats.cache_miss),
    ),
];

fn triton_metrics(text: &mut Text, models: &[(Snapshot, u64)]) {
    text.series(
        "nv_inference_request_success",
        "Number of successful inference requests, all batch sizes",
        "counter",
        models
            .iter()
            .map(|(snapshot, _)| (labels(snapshot), snapshot.statistics.inference_stats.success.count)),
    );
    let name = "nv_inference_request_failure";
    text.head(name, "Number of failed inference requests, all batch sizes", "counter");
    for (snapshot, _) in models {
        let ModelStatistics { name: model, version, .. } = &snapshot.statistics;
        for (failure, count) in snapshot.failures {
            let labels = format!("model=\"{model}\",reason=\"{}\",version=\"{version}\"", failure.label());
            text.sample(name, &labels, count);
        }
    }
    model_metrics(text, models, &MODEL_METRICS);
    text.series(
        "nv_inference_pending_request_count",
        "Instantaneous number of pending requests awaiting execution per-model.",
        "gauge",
        models.iter().map(|(snapshot, pending)| (labels(snapshot), pending)),
    );
}

fn model_metrics(text: &mut Text, models: &[(Snapshot, u64)], metrics: &[ModelMetric]) {
    for (name, help, kind, value) in metrics {
        let samples = models.iter().map(|(snapshot, _)| (labels(snapshot), value(&snapshot.statistics)));
        text.series(name, help, kind, samples);
    }
}

fn labels(snapshot: &Snapshot) -> String {
    let ModelStatistics { name, version, .. } = &snapshot.statistics;
    format!("model=\"{name}\",version=\"{version}\"")
}

fn machine_metrics(text: &mut Text, machine: &Machine) {
    let mut gauge = |name: &str, help: &str, value: &dyn Display| {
        text.head(name, help, "gauge");
        text.plain_sample(name, value);
    };
    // There is no pool: outputs go to the sockets as they are.
    gauge("nv_pinned_memory_pool_total_bytes", "Pinned memory pool total memory size, in bytes", &0);
    gauge("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes", &0);
    if let Some(load) = machine.load() {
        gauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", &load.cpu_utilization);
        gauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", &load.memory_total);
        gauge("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", &load.memory_used);
    }
}

/// What NVML says of the cards that models are on.
pub(crate) fn card_readings(state: &ServerState) -> Vec<CardReading> {
    let uuids: BTreeSet<String> =
        state.registry.batchers().flat_map(|(_, batcher)| batcher.gauges().card_uuids.clone()).collect();
    state.cards.read(&uuids)
}

/// Triton's metrics of cards; what could not be read is left out.
fn card_metrics(text: &mut Text, cards: &[CardReading]) {
    let mut all = |name: &str, help: &str, kind: &str, value: &dyn Fn(&CardReading) -> Option<f64>| {
        let samples: Vec<_> = cards
            .iter()
            .filter_map(|card| Some((format!("gpu_uuid=\"{}\"", escape(&card.uuid)), value(card)?)))
            .collect();
        if !samples.is_empty() {
            text.series(name, help, kind, samples.into_iter());
        }
    };
    all("nv_gpu_utilization", "GPU utilization rate [0.0 - 1.0)", "gauge", &|card| card.utilization);
    all("nv_gpu_memory_total_bytes", "GPU total memory, in bytes", "gauge", &|card| card.memory_total);
    all("nv_gpu_memory_used_bytes", "GPU used memory, in bytes", "gauge", &|card| card.memory_used);
    all("nv_gpu_power_usage", "GPU power usage in watts", "gauge", &|card| card.power_usage);
    all("nv_gpu_power_limit", "GPU power management limit in watts", "gauge", &|card| card.power_limit);
    all(
        "nv_energy_consumption",
        "GPU energy consumption in joules since the server started",
        "counter",
        &|card| card.energy,
    );
}

fn batcher_metrics(text: &mut Text, registry: &Registry) {
    let batchers: Vec<_> = registry
        .batchers()
        .map(|(model, batcher)| {
            let (model, tower) = (escape(model), batcher.info().tower);
            (format!("model=\"{model}\",tower=\"{tower}\""), batcher)
        })
        .collect();
    let mut all = |name: &str, help: &str, kind: &str, value: &dyn Fn(&Gauges) -> u64| {
        text.series(
            name,
            help,
            kind,
            batchers.iter().map(|(labels, batcher)| (labels, value(batcher.gauges()))),
        );
    };
    all("siglip_queue_rows", "Rows that wait for a batch", "gauge", &|gauges| gauges.queued_rows() as u64);
    all("siglip_queue_limit_rows", "Rows beyond which requests are refused", "gauge", &|gauges| {
        gauges.max_queue_size() as u64
    });
    all(
        "siglip_requests_refused_total",
        "Requests refused because the queue was full",
        "counter",
        &|gauges| gauges.refused.load(Ordering::Relaxed),
    );
    all(
        "siglip_requests_cancelled_total",
        "Requests whose caller went away while they waited",
        "counter",
        &|gauges| gauges.cancelled.load(Ordering::Relaxed),
    );
    all(
        "siglip_requests_timed_out_total",
        "Requests that waited longer than their timeout or the server's",
        "counter",
        &|gauges| gauges.timed_out.load(Ordering::Relaxed),
    );
    all("siglip_engine_panics_total", "Batches during which the engine panicked", "counter", &|gauges| {
        gauges.panics.load(Ordering::Relaxed)
    });
    all("siglip_rows_computed_total", "Rows that the engine computed", "counter", &|gauges| {
        gauges.computed_rows.load(Ordering::Relaxed)
    });
    all(
        "siglip_rows_repeated_total",
        "Rows that were not computed because the same ones were, in the same batch",
        "counter",
        &|gauges| gauges.repeated_rows.load(Ordering::Relaxed),
    );
    engine_metrics(text, &batchers);
    text.head("siglip_batch_size", "Rows of the batches that were computed", "histogram");
    for (labels, batcher) in &batchers {
        text.histogram("siglip_batch_size", labels, batcher.gauges().batch_rows.snapshot());
    }
}

/// What the engines do, and how near that is to what they could.
fn engine_metrics(text: &mut Text, batchers: &[(String, Arc<Batcher>)]) {
    let busy = |batcher: &Batcher| batcher.gauges().busy_us.load(Ordering::Relaxed) as f64 / 1e6;
    let rows = |batcher: &Batcher| batcher.gauges().computed_rows.load(Ordering::Relaxed) as f64;
    let flop = |batcher: &Batcher| rows(batcher) * batcher.info().flop_per_item;
    let mut all = |name: &str, help: &str, kind: &str, value: &dyn Fn(&Batcher) -> f64| {
        text.series(name, help, kind, batchers.iter().map(|(labels, batcher)| (labels, value(batcher))));
    };
    all("siglip_engine_busy_seconds_total", "Time during which devices had batches", "counter", &busy);
    all(
        "siglip_engine_flop_total",
        "Floating-point operations of the rows that were computed",
        "counter",
        &flop,
    );
    all(
        "siglip_engine_peak_flops",
        "A device's matrix peak at the engine's precision, measured at start; 0 if it was not",
        "gauge",
        &Batcher::peak_flops,
    );
    all(
        "siglip_engine_fraction_of_peak",
        "Operations over the peak's, for the time that devices were busy",
        "gauge",
        &|batcher| {
            let most = busy(batcher) * batcher.peak_flops();
            if most > 0.0 { flop(batcher) / most } else { 0.0 }
        },
    );
    let devices = batchers.iter().flat_map(|(labels, batcher)| {
        let devices = batcher.gauges().fleet.devices().into_iter();
        devices.map(move |state| {
            (format!("{labels},device=\"{}\"", escape(&state.device)), u8::from(state.sound))
        })
    });
    text.series("siglip_engine_ready", "Whether a device is given batches", "gauge", devices);
    let texts = batchers.iter().filter(|(_, batcher)| batcher.info().tower == Tower::Text);
    text.series(
        "siglip_tokens_total",
        "Token ids that were computed, padding included",
        "counter",
        texts.map(|(labels, batcher)| (labels, rows(batcher) * batcher.info().input_len as f64)),
    );
}

/// A label's value as Prometheus reads it; a model's name is a folder's, and may hold anything.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Writing into a string does not fail, so the results of `writeln!` are let go.
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    /// A metric with a sample for each set of labels.
    fn series<L: AsRef<str>, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        samples: impl Iterator<Item = (L, V)>,
    ) {
        self.head(name, help, kind);
        for (labels, value) in samples {
            self.sample(name, labels.as_ref(), value);
        }
    }

    fn plain_sample(&mut self, name: &str, value: &dyn Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &str, values: (Vec<(f64, u64)>, u64, f64)) {
        let (buckets, count, sum) = values;
        for (bound, count) in buckets {
            self.sample(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), count);
        }
        self.sample(&format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), count);
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count);
    }
}
