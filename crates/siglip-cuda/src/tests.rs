//! Whole engines on the emulated machine: the fixtures' towers beside `transformers` and the reference pass, equal bits in
//! every batch, and what happens where something is missing or fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use siglip::engine::{Engine, EngineError, Input, Precision, Tower};
use siglip::model::Model;
use siglip::profile::{Kind, Profile};
use siglip::reference;
use siglip::weights::{TextWeights, VisionWeights, Weights};

use crate::emulator::{Emulator, build};
use crate::engine::CudaEngine;
use crate::ffi::{Libraries, Library, LibraryPath};
use crate::{CudaError, Options, build as builder, probe};

mod fp8;
mod in_flight;

const TEXT_FIXTURES: [&str; 3] = ["both", "text_f16", "text_bf16"];
const VISION_FIXTURES: [&str; 3] = ["both", "vision_bf16", "vision_gray"];
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];
/// Not a bucket, and more than one pass where a pass takes few.
const MAX_BATCH: usize = 19;

#[test]
fn text_towers_agree_with_transformers_and_the_reference_pass() {
    let Some(emulator) = Emulator::lock() else { return };
    for fixture in TEXT_FIXTURES {
        let model = open(fixture);
        let weights = model.text.as_ref().unwrap();
        let (ids, len) = expected(fixture, "input_ids");
        let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
        for precision in PRECISIONS {
            let few = Options { max_batch_size: ids.len() / len, ..options(&emulator, precision) };
            let mut engine = text_engine(weights, &few).unwrap();
            let got = embed(engine.as_mut(), Input::TokenIds(&ids));
            check(&got, &expected(fixture, "text_embeds"), precision);
            let reference: Vec<f32> =
                ids.chunks(len).flat_map(|ids| reference::text_embedding(weights, ids).unwrap()).collect();
            check(&got, &(reference, engine.info().embedding_size), precision);
        }
    }
}

#[test]
fn vision_towers_agree_with_transformers_and_the_reference_pass() {
    let Some(emulator) = Emulator::lock() else { return };
    for fixture in VISION_FIXTURES {
        let model = open(fixture);
        let weights = model.vision.as_ref().unwrap();
        let (pixels, len) = expected(fixture, "pixel_values");
        for precision in PRECISIONS {
            let few = Options { max_batch_size: pixels.len() / len, ..options(&emulator, precision) };
            let mut engine = vision_engine(weights, &few).unwrap();
            let got = embed(engine.as_mut(), Input::PixelValues(&pixels));
            check(&got, &expected(fixture, "image_embeds"), precision);
            let images = pixels.chunks(len);
            let reference: Vec<f32> =
                images.flat_map(|pixels| reference::image_embedding(weights, pixels).unwrap()).collect();
            check(&got, &(reference, engine.info().embedding_size), precision);
        }
    }
}

/// The emulator's fastest algorithm for few rows adds in another order than its fastest for many.
#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    let Some(emulator) = Emulator::lock() else { return };
    check_equal_bits(&emulator, Precision::Bf16);
}

/// Such algorithms are one family to the plan, whose probe has no bias: what gives other bits after all is padded.
#[test]
fn a_row_has_the_same_bits_where_algorithms_add_the_bias_first_or_last() {
    let Some(emulator) = Emulator::lock() else { return };
    emulator.bias_first_for_few(true);
    check_equal_bits(&emulator, Precision::F32);
}

fn check_equal_bits(emulator: &Emulator, precision: Precision) {
    let model = open("both");
    let mut engine = text_engine(model.text.as_ref().unwrap(), &options(emulator, precision)).unwrap();
    let len = engine.info().input_len;
    let ids: Vec<u32> = (0..MAX_BATCH * len).map(|i| scatter(i) % 97).collect();
    let together = embed(engine.as_mut(), Input::TokenIds(&ids));
    let alone: Vec<f32> =
        ids.chunks(len).flat_map(|ids| embed(engine.as_mut(), Input::TokenIds(ids))).collect();
    assert!(together == alone);
    for batch in [2, 3, 7, 17] {
        let parts: Vec<f32> =
            ids.chunks(batch * len).flat_map(|ids| embed(engine.as_mut(), Input::TokenIds(ids))).collect();
        assert!(together == parts, "batches of {batch}");
    }
}

/// The emulator adds up the time of both halves, so that it never finds them faster.
#[test]
fn a_pass_in_halves_has_the_same_bits() {
    let Some(emulator) = Emulator::lock() else { return };
    let before = emulator.in_use();
    let model = open("both");
    let options = Options { max_batch_size: 32, ..options(&emulator, Precision::Bf16) };
    let (text, vision) = (model.text.as_ref().unwrap(), model.vision.as_ref().unwrap());
    for mut engines in [builder::text(text, &options).unwrap(), builder::vision(vision, &options).unwrap()] {
        let engine = engines.first_mut().unwrap();
        let len = engine.info().input_len;
        let ids: Vec<u32> = (0..32 * len).map(|i| scatter(i) % 97).collect();
        let pixels: Vec<f32> = (0..32 * len).map(|i| (scatter(i) >> 24) as f32 / 127.5 - 1.0).collect();
        let tower = engine.info().tower;
        let input = |items: usize| match tower {
            Tower::Text => Input::TokenIds(&ids[..items * len]),
            Tower::Vision => Input::PixelValues(&pixels[..items * len]),
        };
        let sizes = [32, 27];
        let inputs = sizes.map(input);
        let whole = inputs.map(|input| embed(engine, input));
        assert!(engine.use_halves() > 0);
        for (input, whole) in inputs.into_iter().zip(&whole) {
            assert!(embed(engine, input) == *whole);
        }
    }
    assert_eq!(emulator.in_use(), before, "something was not given back");
}

/// Passes alternate between two slots whose copies run beside the computation: the emulator does each thing as late as it
/// may, so that a wait that is missing shows as an old value.
#[test]
fn a_batch_of_several_passes_is_that_of_its_rows() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = open("vision_gray");
    let weights = model.vision.as_ref().unwrap();
    let in_pairs = Options { rows_at_once: 2 * 9, ..options(&emulator, Precision::Bf16) };
    let mut engine = vision_engine(weights, &in_pairs).unwrap();
    let len = engine.info().input_len;
    let pixels: Vec<f32> = (0..MAX_BATCH * len).map(|i| (scatter(i) >> 24) as f32 / 127.5 - 1.0).collect();
    let alone: Vec<f32> =
        pixels.chunks(len).flat_map(|pixels| embed(engine.as_mut(), Input::PixelValues(pixels))).collect();
    for _ in 0..2 {
        assert!(embed(engine.as_mut(), Input::PixelValues(&pixels)) == alone);
    }
}

/// What `siglip bench --profile` prints.
#[test]
fn a_profile_has_all_operations_and_changes_no_bits() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = open("both");
    let (text, vision) = (model.text.as_ref().unwrap(), model.vision.as_ref().unwrap());
    for tower in [Tower::Text, Tower::Vision] {
        let build = |profile: Option<Arc<Profile>>| {
            let options = Options { max_batch_size: 2, profile, ..options(&emulator, Precision::Bf16) };
            match tower {
                Tower::Text => text_engine(text, &options),
                Tower::Vision => vision_engine(vision, &options),
            }
            .unwrap()
        };
        let profile = Arc::new(Profile::default());
        let (mut plain, mut measured) = (build(None), build(Some(Arc::clone(&profile))));
        let info = plain.info().clone();
        let len = 2 * info.input_len;
        let ids: Vec<u32> = (0..len).map(|i| scatter(i) % 97).collect();
        let pixels: Vec<f32> = ids.iter().map(|id| *id as f32 / 48.0 - 1.0).collect();
        let input = || match tower {
            Tower::Text => Input::TokenIds(&ids),
            Tower::Vision => Input::PixelValues(&pixels),
        };
        assert!(embed(plain.as_mut(), input()) == embed(measured.as_mut(), input()));
        for line in profile.lines() {
            // Nothing is quantised by itself on a card.
            assert_eq!(line.calls > 0, line.kind != Kind::Quantize, "{:?}", line.kind);
            assert_eq!(
                line.seconds > 0.0,
                line.flop > 0.0 && line.kind != Kind::Attention,
                "{:?}",
                line.kind
            );
        }
        // Operations of few rows are padded, so there are more than the rows need.
        let flop: f64 = profile.lines().map(|line| line.flop).sum();
        assert!(flop >= 2.0 * info.flop_per_item, "{flop} {}", info.flop_per_item);
    }
}

/// In the steady state a pass is a copy, a graph and a copy; nothing is allocated, nothing launched by itself.
#[test]
fn a_pass_costs_the_host_a_handful_of_calls() {
    let Some(emulator) = Emulator::lock() else { return };
    let before_all = emulator.in_use();
    let model = open("text_f16");
    let mut engine = text_engine(model.text.as_ref().unwrap(), &options(&emulator, Precision::F16)).unwrap();
    let ids = vec![1; 5 * engine.info().input_len];
    let calls = |function| emulator.calls(function);
    let counted = [
        ("cuGraphLaunch", 1),
        ("cuMemcpyHtoDAsync_v2", 1),
        ("cuMemcpyDtoHAsync_v2", 1),
        ("cuLaunchKernel", 0),
        ("cublasLtMatmul", 0),
        ("cuMemAlloc_v2", 0),
        ("cuMemAllocHost_v2", 0),
    ];
    let before = counted.map(|(function, _)| calls(function));
    embed(engine.as_mut(), Input::TokenIds(&ids));
    for ((function, times), before) in counted.into_iter().zip(before) {
        assert_eq!(calls(function) - before, times, "{function}");
    }
    drop(engine);
    assert_eq!(emulator.in_use(), before_all, "something was not given back");
}

#[test]
fn wrong_inputs_are_refused_before_anything_is_computed() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = open("text_f16");
    let mut engine = text_engine(model.text.as_ref().unwrap(), &options(&emulator, Precision::Bf16)).unwrap();
    let (len, width, vocab) = {
        let info = engine.info();
        (info.input_len, info.embedding_size, info.vocab_size as u32)
    };
    let launches = emulator.calls("cuGraphLaunch");
    let mut out = vec![0.0; width];
    let mut refused = |input: Input<'_>, out: &mut [f32]| engine.embed(input, out).unwrap_err().to_string();
    let mut ids = vec![1; len];
    assert!(refused(Input::PixelValues(&[0.0]), &mut out).contains("takes token ids"));
    assert!(refused(Input::TokenIds(&ids[1..]), &mut out).contains("rows of"));
    assert!(refused(Input::TokenIds(&[]), &mut out).contains("1 to"));
    assert!(refused(Input::TokenIds(&ids), &mut out[1..]).contains("room for"));
    ids[3] = vocab;
    assert!(refused(Input::TokenIds(&ids), &mut out).contains("position 3 is outside the vocabulary"));
    assert_eq!(emulator.calls("cuGraphLaunch"), launches);
    ids[3] = 0;
    engine.embed(Input::TokenIds(&ids), &mut out).unwrap();
}

#[test]
fn what_is_missing_is_named_with_how_it_is_had() {
    let nowhere = tempfile::tempdir().unwrap();
    let path = LibraryPath::only(vec![nowhere.path().to_owned()]);
    let probe = probe(&path);
    assert!(!probe.usable());
    for (library, found) in &probe.libraries {
        let error = found.as_ref().unwrap_err().to_string();
        assert!(error.contains(&library.to_string()) && error.contains(library.advice()), "{error}");
    }
    for symbol in ["cuGraphLaunch", "nvrtcGetCUBIN", "cublasLtMatmulAlgoGetHeuristic"] {
        let Some(folder) = build(&[symbol]) else { return };
        let path = LibraryPath::only(vec![folder.path().to_owned()]);
        let error = Libraries::open(&path).map(drop).unwrap_err();
        assert!(matches!(&error, CudaError::Symbol { symbol: found, .. } if *found == symbol), "{error}");
        assert!(error.to_string().contains("too old"), "{error}");
    }
}

#[test]
fn machines_that_will_not_do_say_why() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = open("text_f16");
    let weights = model.text.as_ref().unwrap();
    let error = |card| {
        let options = Options { card, ..options(&emulator, Precision::Bf16) };
        text_engine(weights, &options).map(drop).unwrap_err().to_string()
    };
    assert!(error(2).contains("there is no card 2: the NVIDIA driver sees 2"));
    emulator.machine(0, 12040, 90, 1 << 30);
    assert!(error(0).contains("sees no card"));
    assert!(probe(&emulator.path()).cards.unwrap_err().to_string().contains("sees no card"));
    emulator.machine(1, 11080, 90, 1 << 30);
    assert!(error(0).contains("supports CUDA 11.8, and 12.0 is needed"));
    emulator.machine(1, 12040, 75, 1 << 30);
    assert!(error(0).contains("compute capability 7.5, and 8.0 (Ampere) or later is needed"));
    assert!(!probe(&emulator.path()).usable());
    // The workspace alone is more than that.
    emulator.machine(1, 12040, 90, 30 << 20);
    let words = error(0);
    assert!(words.contains("has 31 MB free of 31 MB, and the text tower in bf16 needs"), "{words}");

    emulator.machine(2, 12040, 89, 1 << 30);
    let probe = probe(&emulator.path());
    assert!(probe.usable());
    let cards = probe.cards.unwrap();
    assert_eq!((cards.len(), cards[0].capability, cards[0].memory), (2, (8, 9), 1 << 30));
    assert_eq!(cards[0].name, "Emulated card");
    let versions: Vec<_> = probe
        .libraries
        .iter()
        .map(|(library, found)| (*library, found.as_ref().unwrap().version.as_str()))
        .collect();
    assert_eq!(versions, [(Library::Driver, "12.4"), (Library::Nvrtc, "12.4"), (Library::CublasLt, "12.4")]);
    let int8 = options(&emulator, Precision::Int8);
    assert!(matches!(text_engine(weights, &int8), Err(CudaError::Precision(Precision::Int8))));
}

/// What a kernel or a product computes is looked at before an engine is handed out.
#[test]
fn a_card_that_computes_wrongly_is_refused() {
    let Some(emulator) = Emulator::lock() else { return };
    let before = emulator.in_use();
    // fp8 takes the widths of the demo model.
    let (fixture, demo) = (open("both"), fp8::demo());
    let (bf16, f32, fp8) = (Precision::Bf16, Precision::F32, Precision::Fp8);
    for (what, precision, tower, words) in [
        ("token_embedding", bf16, Tower::Text, "the lookup of tokens in bf16"),
        ("patches", bf16, Tower::Vision, "cutting images into patches in bf16"),
        ("layer_norm", bf16, Tower::Text, "layer norm in bf16"),
        ("layer_norm_wide", bf16, Tower::Vision, "layer norm in bf16"),
        ("layer_norm_fp8", fp8, Tower::Text, "layer norm in fp8"),
        ("attention", bf16, Tower::Text, "attention in bf16"),
        ("attention_rows", f32, Tower::Text, "attention in f32"),
        ("attention_rows", bf16, Tower::Vision, "attention of one query in bf16"),
        ("bias", bf16, Tower::Text, "a product of"),
        ("bias", fp8, Tower::Text, "a product of"),
        ("gelu", bf16, Tower::Text, "a product of"),
        ("gelu", fp8, Tower::Text, "a product of"),
        ("added", Precision::F16, Tower::Text, "a product of"),
        ("added", f32, Tower::Vision, "a product of"),
    ] {
        emulator.compute_wrongly(what);
        let model = if precision == fp8 { &demo } else { &fixture };
        let options = Options { max_batch_size: 1, ..options(&emulator, precision) };
        let error = match tower {
            Tower::Text => builder::text(model.text.as_ref().unwrap(), &options).map(drop),
            Tower::Vision => builder::vision(model.vision.as_ref().unwrap(), &options).map(drop),
        };
        let error = error.expect_err(what);
        assert!(matches!(error, CudaError::Wrong { .. }), "{what}: {error}");
        assert!(error.to_string().contains(&format!("computes {words}")), "{what}: {error}");
        assert_eq!(emulator.in_use(), before, "{what}");
    }
}

/// Whatever fails while an engine is built is an error, and everything is given back.
#[test]
fn every_call_may_fail() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = open("text_f16");
    let weights = model.text.as_ref().unwrap();
    let before = emulator.in_use();
    let functions = [
        ("cuInit", 999),
        ("cuDeviceGet", 999),
        ("cuDeviceGetUuid_v2", 999),
        ("cuDevicePrimaryCtxRetain", 2),
        ("cuCtxSetCurrent", 201),
        ("cublasLtCreate", 1),
        ("cuMemGetInfo_v2", 999),
        ("nvrtcCreateProgram", 1),
        ("nvrtcCompileProgram", 6),
        ("cuModuleLoadData", 200),
        ("cuModuleGetFunction", 500),
        ("cuMemcpyHtoD_v2", 700),
        ("cuStreamCreate", 999),
        ("cuMemsetD8Async", 999),
        ("cuMemAllocHost_v2", 2),
        ("cuEventCreate", 999),
        ("cublasLtMatmulDescCreate", 15),
        ("cublasLtMatrixLayoutCreate", 7),
        ("cublasLtMatmulAlgoGetHeuristic", 15),
        ("cublasLtMatmul", 13),
        ("cuStreamBeginCapture_v2", 999),
        ("cuLaunchKernel", 1),
        ("cuStreamEndCapture", 901),
        ("cuGraphInstantiateWithFlags", 999),
        ("cuStreamSynchronize", 700),
        ("cuMemcpyDtoH_v2", 700),
        ("cuMemcpyDtoDAsync_v2", 700),
        ("cuEventRecord", 999),
        ("cuEventSynchronize", 700),
        ("cuEventElapsedTime", 999),
        ("cuGraphLaunch", 700),
        ("cublasLtMatmulPreferenceCreate", 3),
    ];
    for (function, code) in functions {
        let failing = emulator.fail(function, code, 0);
        let error = text_engine(weights, &options(&emulator, Precision::Bf16)).map(drop).unwrap_err();
        drop(failing);
        assert!(!error.to_string().is_empty());
        assert_eq!(emulator.in_use(), before, "{function}: {error}");
    }
    // Later calls fail where others have taken something already.
    for (function, code, after) in [
        ("cuStreamCreate", 999, 2),
        ("cuEventCreate", 999, 3),
        ("cuModuleLoadData", 200, 2),
        ("cublasLtMatrixLayoutCreate", 7, 2),
        ("cuStreamEndCapture", 901, 2),
        ("cuGraphInstantiateWithFlags", 999, 2),
    ] {
        let failing = emulator.fail(function, code, after);
        let error = text_engine(weights, &options(&emulator, Precision::Bf16)).map(drop).unwrap_err();
        drop(failing);
        assert_eq!(emulator.in_use(), before, "{function} after {after}: {error}");
    }
    for after in [0, 5, 17] {
        let failing = emulator.fail("cuMemAlloc_v2", 2, after);
        let error = text_engine(weights, &options(&emulator, Precision::Bf16)).map(drop).unwrap_err();
        drop(failing);
        assert!(matches!(error, CudaError::OutOfMemory { needed: 1.., .. }), "{error}");
        assert_eq!(emulator.in_use(), before);
    }
}

#[test]
fn a_failed_launch_is_an_error_and_the_engine_goes_on_if_the_card_does() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = open("text_f16");
    let mut engine = text_engine(model.text.as_ref().unwrap(), &options(&emulator, Precision::Bf16)).unwrap();
    let ids = vec![1; engine.info().input_len];
    let expected = embed(engine.as_mut(), Input::TokenIds(&ids));
    let mut out = vec![0.0; expected.len()];
    for function in ["cuGraphLaunch", "cuMemcpyHtoDAsync_v2", "cuEventSynchronize", "cuStreamSynchronize"] {
        let failing = emulator.fail(function, 2, 0);
        let error = engine.embed(Input::TokenIds(&ids), &mut out).unwrap_err();
        drop(failing);
        let EngineError::Device(words) = error else { panic!("{error}") };
        assert!(words.starts_with("card 0: the NVIDIA driver failed at cu"), "{words}");
        assert!(words.contains("CUDA_ERROR_OUT_OF_MEMORY (2)"), "{words}");
        assert_eq!(embed(engine.as_mut(), Input::TokenIds(&ids)), expected);
    }
}

fn text_engine(weights: &TextWeights, options: &Options) -> Result<Box<dyn Engine>, CudaError> {
    builder::text(weights, options).map(only)
}

fn vision_engine(weights: &VisionWeights, options: &Options) -> Result<Box<dyn Engine>, CudaError> {
    builder::vision(weights, options).map(only)
}

fn only(mut engines: Vec<CudaEngine>) -> Box<dyn Engine> {
    assert_eq!(engines.len(), 1);
    Box::new(engines.remove(0))
}

fn options(emulator: &Emulator, precision: Precision) -> Options {
    Options::new(emulator.libraries(), 0, precision, MAX_BATCH)
}

fn embed(engine: &mut dyn Engine, input: Input<'_>) -> Vec<f32> {
    let items = input.len() / engine.info().input_len;
    let mut output = vec![f32::NAN; items * engine.info().embedding_size];
    engine.embed(input, &mut output).unwrap();
    output
}

/// The lowest cosine of any row. Tiny models of random weights round worse than real ones: there are few terms over which
/// errors average out.
fn check(got: &[f32], (expected, width): &(Vec<f32>, usize), precision: Precision) {
    let lowest = match precision {
        Precision::F32 => 0.999_999,
        Precision::Fp8 => 0.999,
        _ => 0.999_8,
    };
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.chunks(*width).zip(expected.chunks(*width)) {
        let cosine = cosine(got, expected);
        assert!(cosine >= lowest, "{precision}: {cosine}");
    }
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
