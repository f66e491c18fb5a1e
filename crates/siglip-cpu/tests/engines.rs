//! Both towers on every instruction set of the machine, against the values of `transformers` that
//! `tools/make_fixtures.py` wrote and against the reference pass.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use siglip::engine::{Engine, EngineError, Input, Precision, Tower};
use siglip::model::Model;
use siglip::reference;
use siglip::weights::Weights;
use siglip_cpu::{BuildError, Isa, Options, Pool, text_engine, vision_engine};

const TEXT_FIXTURES: [&str; 7] =
    ["both", "sharded", "text_f16", "text_bf16", "open_clip", "open_clip2", "open_clip_i18n"];
const VISION_FIXTURES: [&str; 8] = [
    "both",
    "sharded",
    "vision_bf16",
    "vision_gray",
    "vision_patches",
    "open_clip",
    "open_clip2",
    "open_clip_i18n",
];

/// The lowest cosine to `transformers` in f32 that an engine may have. Tiny models of random weights round worse than
/// real ones: there are few terms over which errors average out.
fn lowest_cosine(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 0.999_999,
        Precision::Bf16 => 0.999_8,
        _ => 0.998,
    }
}

#[test]
fn text_towers_agree_with_transformers() {
    for_all_kernels(|options| {
        for fixture in TEXT_FIXTURES {
            let (ids, len) = expected(fixture, "input_ids");
            let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            let mut engine = text_engine(open(fixture).text.as_ref().unwrap(), options).unwrap();
            assert_eq!(engine.info().input_len, len);
            check(engine.as_mut(), Input::TokenIds(&ids), fixture, "text_embeds", options);
        }
    });
}

#[test]
fn vision_towers_agree_with_transformers() {
    for_all_kernels(|options| {
        for fixture in VISION_FIXTURES {
            let (pixels, len) = expected(fixture, "pixel_values");
            let mut engine = vision_engine(open(fixture).vision.as_ref().unwrap(), options).unwrap();
            assert_eq!(engine.info().input_len, len);
            check(engine.as_mut(), Input::PixelValues(&pixels), fixture, "image_embeds", options);
        }
    });
}

/// A row's bits must not depend on the batch it came in, its place, or its neighbours.
#[test]
fn a_text_has_the_same_bits_in_every_batch() {
    for_all_kernels(|options| {
        for fixture in TEXT_FIXTURES {
            let mut engine = text_engine(open(fixture).text.as_ref().unwrap(), options).unwrap();
            let (len, width) = (engine.info().input_len, engine.info().embedding_size);
            let ids: Vec<u32> = (0..MAX_BATCH * len).map(|i| scatter(i) % 97).collect();
            let alone: Vec<Vec<f32>> =
                ids.chunks(len).map(|ids| embed(engine.as_mut(), Input::TokenIds(ids), width)).collect();
            for batch in BATCHES {
                for first in [0, MAX_BATCH - batch] {
                    let rows = &ids[first * len..(first + batch) * len];
                    let together = embed(engine.as_mut(), Input::TokenIds(rows), batch * width);
                    assert_eq!(
                        together,
                        alone[first..first + batch].concat(),
                        "{fixture} {batch} from {first}"
                    );
                }
            }
        }
    });
}

#[test]
fn an_image_has_the_same_bits_in_every_batch() {
    for_all_kernels(|options| {
        for fixture in VISION_FIXTURES {
            let mut engine = vision_engine(open(fixture).vision.as_ref().unwrap(), options).unwrap();
            let (len, width) = (engine.info().input_len, engine.info().embedding_size);
            let pixels: Vec<f32> =
                (0..MAX_BATCH * len).map(|i| (scatter(i) >> 24) as f32 / 127.5 - 1.0).collect();
            let alone: Vec<Vec<f32>> = pixels
                .chunks(len)
                .map(|row| embed(engine.as_mut(), Input::PixelValues(row), width))
                .collect();
            for batch in BATCHES {
                let rows = &pixels[(MAX_BATCH - batch) * len..];
                let together = embed(engine.as_mut(), Input::PixelValues(rows), batch * width);
                assert_eq!(together, alone[MAX_BATCH - batch..].concat(), "{fixture} {batch}");
            }
        }
    });
}

/// The number of threads is no part of the result either.
#[test]
fn threads_do_not_change_the_bits() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let results: Vec<Vec<f32>> = [1, 2, 3, 7]
            .into_iter()
            .map(|threads| {
                let pool = Arc::new(Pool::new(threads).unwrap());
                let options = Options::new(precision, pool, MAX_BATCH).unwrap();
                let model = open("text_bf16");
                let mut engine = text_engine(model.text.as_ref().unwrap(), &options).unwrap();
                let len = engine.info().input_len;
                let ids: Vec<u32> = (0..5 * len).map(|i| scatter(i) % 97).collect();
                let width = engine.info().embedding_size;
                embed(engine.as_mut(), Input::TokenIds(&ids), 5 * width)
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{precision}");
    }
}

#[test]
fn the_reference_pass_agrees_on_random_inputs() {
    for_all_kernels(|options| {
        let model = open("both");
        let weights = model.text.as_ref().unwrap();
        let mut engine = text_engine(weights, options).unwrap();
        let (len, width) = (engine.info().input_len, engine.info().embedding_size);
        let ids: Vec<u32> = (0..3 * len).map(|i| scatter(i + 11) % 97).collect();
        let got = embed(engine.as_mut(), Input::TokenIds(&ids), 3 * width);
        for (got, ids) in got.chunks(width).zip(ids.chunks(len)) {
            let expected = reference::text_embedding(weights, ids).unwrap();
            let cosine = cosine(got, &expected);
            assert!(cosine >= lowest_cosine(options.precision), "{cosine}");
        }
    });
}

#[test]
fn wrong_inputs_are_refused_and_the_engine_goes_on() {
    for_all_kernels(|options| {
        let model = open("both");
        let mut engine = text_engine(model.text.as_ref().unwrap(), options).unwrap();
        let width = engine.info().embedding_size;
        let mut ids = vec![3; 2 * 64];
        let before = embed(engine.as_mut(), Input::TokenIds(&ids), 2 * width);

        let mut output = vec![0.0; 2 * width];
        fn refused(engine: &mut dyn Engine, input: Input<'_>, output: &mut [f32]) -> String {
            engine.embed(input, output).unwrap_err().to_string()
        }
        let engine = engine.as_mut();
        assert_eq!(
            refused(engine, Input::TokenIds(&ids[1..]), &mut output),
            "the text tower takes rows of 64 values, got 127 values"
        );
        assert_eq!(
            refused(engine, Input::TokenIds(&[]), &mut output),
            format!("a batch has 1 to {MAX_BATCH} rows, got 0")
        );
        let many = vec![0; 64 * (MAX_BATCH + 1)];
        assert_eq!(
            refused(engine, Input::TokenIds(&many), &mut output),
            format!("a batch has 1 to {MAX_BATCH} rows, got {}", MAX_BATCH + 1)
        );
        assert_eq!(
            refused(engine, Input::PixelValues(&[0.0; 64]), &mut output),
            "the text tower takes token ids, got pixel values"
        );
        assert!(refused(engine, Input::TokenIds(&ids), &mut output[1..]).contains("room for"));
        for id in [97, 1 << 20, u32::MAX] {
            ids[64 + 9] = id;
            assert_eq!(
                refused(engine, Input::TokenIds(&ids), &mut output),
                format!("token id {id} at row 1, position 9 is outside the vocabulary (0 to 96)")
            );
        }
        ids[64 + 9] = 3;
        assert_eq!(embed(engine, Input::TokenIds(&ids), 2 * width), before);
    });
}

/// An image of numbers that are none has no embedding, and takes no other image's with it.
#[test]
fn what_is_not_finite_is_an_error() {
    for_all_kernels(|options| {
        let model = open("both");
        let mut engine = vision_engine(model.vision.as_ref().unwrap(), options).unwrap();
        let (len, width) = (engine.info().input_len, engine.info().embedding_size);
        let mut pixels = vec![0.25; 2 * len];
        let before = embed(engine.as_mut(), Input::PixelValues(&pixels), 2 * width);
        for bad in [f32::NAN, f32::INFINITY] {
            pixels[len + 7] = bad;
            let result = engine.embed(Input::PixelValues(&pixels), &mut vec![0.0; 2 * width]);
            assert!(matches!(result, Err(EngineError::NotFinite { row: 1 })), "{result:?}");
        }
        pixels[len + 7] = 0.25;
        assert_eq!(embed(engine.as_mut(), Input::PixelValues(&pixels), 2 * width), before);
    });
}

/// The token embedding is read when it is needed. A file that was cut short meanwhile is an error, and no signal.
#[cfg(unix)]
#[test]
fn a_weights_file_cut_short_while_in_use() {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder("both").join(file), copy.path().join(file)).unwrap();
    }
    let model = Model::open(copy.path()).unwrap();
    let options = Options::new(Precision::F32, Arc::new(Pool::new(2).unwrap()), 2).unwrap();
    let mut engine = text_engine(model.text.as_ref().unwrap(), &options).unwrap();
    let (ids, width) = ([5; 2 * 64], engine.info().embedding_size);
    embed(engine.as_mut(), Input::TokenIds(&ids), 2 * width);
    std::fs::File::options()
        .write(true)
        .open(copy.path().join("model.safetensors"))
        .unwrap()
        .set_len(64)
        .unwrap();
    let refused = engine.embed(Input::TokenIds(&ids), &mut vec![0.0; 2 * width]).unwrap_err();
    assert_eq!(refused.to_string(), "the weights file could not be read: failed to fill whole buffer");
}

#[test]
fn kernels_that_cannot_run_are_refused() {
    let pool = Arc::new(Pool::new(1).unwrap());
    let model = open("both");
    let options = Options {
        precision: Precision::F32,
        isa: Isa::Avx512Bf16,
        pool: Arc::clone(&pool),
        max_batch_size: 1,
        profile: None,
    };
    let refused = text_engine(model.text.as_ref().unwrap(), &options).err().unwrap();
    assert!(refused.to_string().starts_with("avx512-bf16 kernels cannot run f32 here"), "{refused}");
    let refused = Options::new(Precision::Fp8, pool, 1).err().unwrap();
    assert!(matches!(refused, BuildError::Precision { precision: Precision::Fp8 }));
}

#[test]
fn the_engine_says_what_it_is() {
    let pool = Arc::new(Pool::new(2).unwrap());
    let options = Options::new(Precision::F32, pool, 8).unwrap();
    let model = open("both");
    let engine = text_engine(model.text.as_ref().unwrap(), &options).unwrap();
    let info = engine.info();
    assert_eq!((info.tower, info.precision, info.threads), (Tower::Text, Precision::F32, 2));
    assert_eq!((info.max_batch_size, info.input_len, info.vocab_size, info.embedding_size), (8, 64, 97, 54));
    // 2 blocks of 4 projections, an MLP and attention; one of which only the last position is wanted, beside keys and
    // values; and the head, counted by hand.
    let block = 2 * 64 * (4 * 54 * 54 + 2 * 54 * 70) + 4 * 64 * 64 * 54;
    let last = 2 * 64 * 2 * 54 * 54 + 2 * (2 * 54 * 54 + 2 * 54 * 70) + 4 * 64 * 54;
    assert_eq!(info.flop_per_item, (2 * block + last + 2 * 54 * 54) as f64);
    assert!(info.weights_bytes > 0 && info.scratch_bytes > 0);
}

const MAX_BATCH: usize = 33;
const BATCHES: [usize; 12] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 33];

fn for_all_kernels(check: impl Fn(&Options)) {
    let pool = Arc::new(Pool::new(2).unwrap());
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for isa in Isa::candidates(precision) {
            check(&Options {
                precision,
                isa,
                pool: Arc::clone(&pool),
                max_batch_size: MAX_BATCH,
                profile: None,
            });
        }
    }
}

fn check(engine: &mut dyn Engine, input: Input<'_>, fixture: &str, name: &str, options: &Options) {
    let (expected, width) = expected(fixture, name);
    let got = embed(engine, input, expected.len());
    for (row, (got, expected)) in got.chunks(width).zip(expected.chunks(width)).enumerate() {
        let cosine = cosine(got, expected);
        let lowest = lowest_cosine(options.precision);
        assert!(
            cosine >= lowest,
            "{fixture} row {row}, {} {}: cosine {cosine:.7}",
            options.isa,
            options.precision
        );
        if options.precision == Precision::F32 {
            let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let error = got.iter().zip(expected).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
            assert!(
                error <= 2e-5 * largest,
                "{fixture} row {row}, {}: error {error} of {largest}",
                options.isa
            );
        }
    }
}

fn embed(engine: &mut dyn Engine, input: Input<'_>, values: usize) -> Vec<f32> {
    let mut output = vec![f32::NAN; values];
    engine.embed(input, &mut output).unwrap();
    output
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Numbers without a pattern, the same in every run.
fn scatter(i: usize) -> u32 {
    let x = (i as u32).wrapping_add(1).wrapping_mul(2_654_435_761);
    (x ^ (x >> 15)).wrapping_mul(2_246_822_519) >> 3
}

/// A tensor of a fixture's `expected.safetensors`, and the size of one of its rows.
fn expected(fixture: &str, name: &str) -> (Vec<f32>, usize) {
    let weights = Weights::open_file(&folder(fixture).join("expected.safetensors")).unwrap();
    let shape = weights.shape(name).unwrap();
    (weights.tensor(name, shape).unwrap().to_f32(), shape[1..].iter().product())
}

fn open(fixture: &str) -> Model {
    Model::open(&folder(fixture)).unwrap()
}

fn folder(fixture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(fixture)
}
