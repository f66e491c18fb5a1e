//! How long nearest neighbours take beside an engine: `cargo run --profile fast --example knn_speed`.

use std::time::Instant;

use siglip::knn::Classifier;

fn main() {
    let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8;
    let (width, queries) = (1152, 20_000);
    let queries: Vec<f32> = (0..queries * width).map(value).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for rows in [1_000, 10_000] {
        let training = (0..rows * width).map(|i| value(i + 77)).collect();
        let classifier = Classifier::new(training, width, (0..rows).collect(), 10).expect("sizes fit");
        let started = Instant::now();
        let votes = classifier.classify(&queries, threads);
        let seconds = started.elapsed().as_secs_f64();
        let line = format!(
            "{} images × {rows} embeddings of {width}: {seconds:.2} s on {threads} threads\n",
            votes.len()
        );
        let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
    }
}
