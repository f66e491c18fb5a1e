//! scratch
#![allow(clippy::all, missing_docs)]
use siglip::engine::*;
use std::time::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = std::path::Path::new(&args[1]);
    let precision = if args[2] == "f32" { Precision::F32 } else { Precision::Bf16 };
    let batches: Vec<usize> = args[3].split(',').map(|s| s.parse().unwrap()).collect();
    let secs: f64 = args[4].parse().unwrap();
    let t0 = Instant::now();
    let config = siglip::config::Config::from_json(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let weights = siglip::weights::Weights::open(dir).unwrap();
    let tw = siglip::weights::TextWeights::load(&weights, config.text.as_ref().unwrap()).unwrap();
    let pool = std::sync::Arc::new(siglip_cpu::Pool::new(siglip_cpu::available_threads()).unwrap());
    let mut o = siglip_cpu::Options::new(precision, pool, 32).unwrap();
    if let Some(isa) = args.get(5) { o.isa = isa.parse().unwrap(); }
    let mut e = siglip_cpu::text_engine(&tw, &o).unwrap();
    println!("load {:?} {:?}", t0.elapsed(), e.info());
    let raw = std::fs::read(dir.join("ids.npy")).unwrap();
    let ids: Vec<u32> = raw[128..].chunks(8).map(|c| i64::from_le_bytes(c.try_into().unwrap()) as u32).collect();
    let exp: Vec<f32> = std::fs::read(dir.join("expected.npy")).unwrap()[128..].chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    let d = e.info().embedding_size; let t = e.info().input_len;
    let mut out = vec![0f32; 32 * d];
    e.embed(Input::TokenIds(&ids[..t]), &mut out[..d]).unwrap();
    println!("first {:?}", t0.elapsed());
    e.embed(Input::TokenIds(&ids), &mut out).unwrap();
    let mut low = 1f64;
    for i in 0..32 { let (a, b) = (&out[i*d..(i+1)*d], &exp[i*d..(i+1)*d]);
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| *x as f64 * *y as f64).sum::<f64>();
        low = low.min(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()); }
    println!("lowest cos {low:.8}");
    let full = out.clone();
    for i in [0usize, 5, 31] { let mut one = vec![0f32; d]; e.embed(Input::TokenIds(&ids[i*t..(i+1)*t]), &mut one).unwrap(); assert!(one == full[i*d..(i+1)*d], "bits differ {i}"); }
    for b in batches {
        let peak = siglip_cpu::measure_peak(&o, Duration::from_millis(200)).unwrap();
        let s = Instant::now(); let mut times = vec![];
        while s.elapsed().as_secs_f64() < secs { let q = Instant::now(); e.embed(Input::TokenIds(&ids[..b*t]), &mut out[..b*d]).unwrap(); times.push(q.elapsed().as_secs_f64()); }
        times.sort_by(|a, b| a.total_cmp(b));
        let best = b as f64 / times[0]; let med = b as f64 / times[times.len()/2];
        println!("batch {b}: best {best:.2} median {med:.2} texts/s; peak {peak:.0}; fraction(52.7) best {:.3} median {:.3}", best*52.7/peak, med*52.7/peak);
    }
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    for l in st.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("Rss")) { println!("{l}"); }
}
