//! The metrics, as Prometheus reads them.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

use siglip_protocol::statistics::ModelStatistics;

use crate::registry::{Registry, VERSION};
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
pub(crate) fn render(registry: &Registry) -> String {
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

fn triton_metrics(text: &mut Text, models: &[(Snapshot, u64)]) {
    let labels = |snapshot: &Snapshot| {
        let ModelStatistics { name, version, .. } = &snapshot.statistics;
        format!("model=\"{name}\",version=\"{version}\"")
    };
    let name = "nv_inference_request_success";
    text.head(name, "Number of successful inference requests, all batch sizes", "counter");
    for (snapshot, _) in models {
        text.sample(name, &labels(snapshot), snapshot.statistics.inference_stats.success.count);
    }
    let name = "nv_inference_request_failure";
    text.head(name, "Number of failed inference requests, all batch sizes", "counter");
    for (snapshot, _) in models {
        let ModelStatistics { name: model, version, .. } = &snapshot.statistics;
        for (failure, count) in snapshot.failures {
            let labels = format!("model=\"{model}\",reason=\"{}\",version=\"{version}\"", failure.label());
            text.sample(name, &labels, count);
        }
    }
    for (name, help, kind, value) in MODEL_METRICS {
        text.head(name, help, kind);
        for (snapshot, _) in models {
            text.sample(name, &labels(snapshot), value(&snapshot.statistics));
        }
    }
    let name = "nv_inference_pending_request_count";
    text.head(name, "Instantaneous number of pending requests awaiting execution per-model.", "gauge");
    for (snapshot, pending) in models {
        text.sample(name, &labels(snapshot), pending);
    }
}

fn batcher_metrics(text: &mut Text, registry: &Registry) {
    let batchers: Vec<_> = registry
        .batchers()
        .map(|(model, batcher)| (format!("model=\"{model}\",tower=\"{}\"", batcher.info().tower), batcher))
        .collect();
    let mut all = |name: &str, help: &str, kind: &str, value: &dyn Fn(&crate::batcher::Gauges) -> u64| {
        text.head(name, help, kind);
        for (labels, batcher) in &batchers {
            text.sample(name, labels, value(batcher.gauges()));
        }
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
    all("siglip_engine_panics_total", "Batches during which the engine panicked", "counter", &|gauges| {
        gauges.panics.load(Ordering::Relaxed)
    });
    text.head("siglip_batch_size", "Rows of the batches that were computed", "histogram");
    for (labels, batcher) in &batchers {
        text.histogram("siglip_batch_size", labels, batcher.gauges().batch_rows.snapshot());
    }
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
