//! Each kernel at the shapes of so400m, on one thread, on every path of this machine.
//!
//! `cargo bench -p siglip-cpu --profile fast`, with a filter if wanted: `-- 'linear.*bf16'`. A line's "item" is a
//! floating-point operation, so Gitem/s reads GFLOP/s; it stands beside the path's measured peak. Layer norm and packing
//! are given in bytes read, beside the rate of copying memory.

use std::fmt;
use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use siglip::engine::Precision;
use siglip_cpu::bench::{End, Work, prepare};
use siglip_cpu::{Isa, Options, Pool, measure_peak};

fn main() {
    divan::main();
}

/// The layers of a block: q, k and v; attention's output; the MLP.
const LAYERS: [(usize, usize, End); 4] = [
    (1152, 3456, End::Store),
    (1152, 1152, End::Accumulate),
    (1152, 4304, End::Gelu),
    (4304, 1152, End::Accumulate),
];

#[divan::bench(args = linear_cases(), max_time = 0.5)]
fn linear(bencher: Bencher<'_, '_>, case: &Case) {
    case.run(bencher);
}

/// 1, 8 and 32 texts.
fn linear_cases() -> Vec<Case> {
    let shapes = [64, 512, 2048].into_iter().flat_map(|rows| LAYERS.map(|layer| (rows, layer)));
    cases(shapes.map(|(rows, (k, columns, end))| Work::Linear { rows, k, columns, end }))
}

#[divan::bench(args = cases([64, 729].map(|positions| Work::Attention { positions, head_dim: 72 })), max_time = 0.5)]
fn attention(bencher: Bencher<'_, '_>, case: &Case) {
    case.run(bencher);
}

#[divan::bench(args = cases([64, 512].map(|rows| Work::LayerNorm { rows, size: 1152 })), max_time = 0.5)]
fn layer_norm(bencher: Bencher<'_, '_>, case: &Case) {
    case.run(bencher);
}

#[divan::bench(args = cases([(1152, 4304), (4304, 1152)].map(|(k, columns)| Work::Pack { k, columns })), max_time = 0.5)]
fn pack(bencher: Bencher<'_, '_>, case: &Case) {
    case.run(bencher);
}

/// Work on a path.
#[derive(Clone, Copy)]
struct Case {
    work: Work,
    isa: Isa,
    precision: Precision,
    peak: f64,
}

impl Case {
    fn run(&self, bencher: Bencher<'_, '_>) {
        let work = prepare(self.work, self.isa, self.precision).expect("the paths of this machine");
        match self.work {
            Work::Linear { .. } | Work::Attention { .. } => {
                bencher.counter(ItemsCount::new(self.work.flop())).bench_local(work)
            }
            Work::LayerNorm { .. } | Work::Pack { .. } => {
                bencher.counter(BytesCount::new(self.work.bytes())).bench_local(work)
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { work, isa, precision, peak } = self;
        write!(f, "{isa} {precision} ")?;
        match work {
            Work::Linear { rows, k, columns, .. } => {
                write!(f, "{rows}×{k}→{columns} (peak {peak:.0} GFLOP/s)")
            }
            Work::Attention { positions, head_dim } => {
                write!(f, "{positions}×{head_dim} (peak {peak:.0} GFLOP/s)")
            }
            Work::LayerNorm { rows, size } => write!(f, "{rows}×{size} (copying {:.1} GB/s)", *COPY_RATE),
            Work::Pack { k, columns } => write!(f, "{k}→{columns} (copying {:.1} GB/s)", *COPY_RATE),
        }
    }
}

/// Each piece of work on every path.
fn cases(works: impl IntoIterator<Item = Work>) -> Vec<Case> {
    let works: Vec<Work> = works.into_iter().collect();
    let paths = PATHS.iter().flat_map(|&(isa, precision, peak)| {
        works.iter().map(move |&work| Case { work, isa, precision, peak })
    });
    paths.collect()
}

/// The paths of this machine with their measured peaks on one thread.
static PATHS: LazyLock<Vec<(Isa, Precision, f64)>> = LazyLock::new(|| {
    let pool = Arc::new(Pool::new(1).expect("one thread"));
    let mut paths = Vec::new();
    for precision in [Precision::Bf16, Precision::F32, Precision::Int8] {
        for isa in Isa::candidates(precision) {
            let options = Options { precision, isa, pool: pool.clone(), max_batch_size: 1, profile: None };
            let peak = measure_peak(&options, Duration::from_millis(50)).expect("the paths of this machine");
            paths.push((isa, precision, peak));
        }
    }
    paths
});

/// GB/s at which 64 MB are copied, counted as bytes read; the best of a few times.
static COPY_RATE: LazyLock<f64> = LazyLock::new(|| {
    let source = vec![1_u8; 64 << 20];
    let mut target = vec![0_u8; source.len()];
    let rate = || {
        let started = Instant::now();
        target.copy_from_slice(black_box(&source));
        black_box(&mut target);
        source.len() as f64 / started.elapsed().as_secs_f64() / 1e9
    };
    std::iter::repeat_with(rate).take(5).fold(0.0, f64::max)
});
