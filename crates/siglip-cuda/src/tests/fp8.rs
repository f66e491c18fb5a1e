//! Towers in fp8: those of the demo model, which was trained, and whose widths are those of fp8 products.

use std::path::Path;

use siglip::engine::{Input, Precision};
use siglip::model::Model;
use siglip::reference;

use super::{MAX_BATCH, check, embed, open, options, scatter, text_engine, vision_engine};
use crate::emulator::Emulator;
use crate::{CudaError, Options};

const TEXTS: [&str; 6] = [
    "a red circle",
    "two blue squares beside a green triangle",
    "a photo of a cat",
    "three yellow stars on a dark background",
    "",
    "stripes",
];

pub(super) fn demo() -> Model {
    Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")).unwrap()
}

fn in_fp8(emulator: &Emulator, max_batch_size: usize) -> Options {
    Options { max_batch_size, ..options(emulator, Precision::Fp8) }
}

/// Coloured discs on backgrounds, as the demo model knows them, normalised.
fn images(count: usize, side: usize) -> Vec<f32> {
    let pixel = |i: usize| {
        let (plane, x, y) = (i / (side * side), i % side, i / side % side);
        let inside = x.abs_diff(side / 2).pow(2) + y.abs_diff(side / 3).pow(2) < (plane / 3 + 4).pow(3);
        let noise = (scatter(i) >> 24) as f32 / 2550.0;
        let shade = [-0.9, 0.8, 0.1, -0.3][(plane + plane / 3) % 4];
        if inside { shade + noise } else { 0.4 - shade / 2.0 - noise }
    };
    (0..count * 3 * side * side).map(pixel).collect()
}

#[test]
fn both_towers_agree_with_the_reference_pass() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = demo();
    let weights = model.text.as_ref().unwrap();
    let tokenizer = model.tokenizer.as_ref().unwrap();
    let texts: Vec<Vec<u32>> = TEXTS.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let mut engine = text_engine(weights, &in_fp8(&emulator, texts.len())).unwrap();
    let got = embed(engine.as_mut(), Input::TokenIds(&texts.concat()));
    let expected = texts.iter().flat_map(|ids| reference::text_embedding(weights, ids).unwrap()).collect();
    check(&got, &(expected, engine.info().embedding_size), Precision::Fp8);

    let weights = model.vision.as_ref().unwrap();
    let side = weights.config.image_size;
    let pixels = images(4, side);
    let mut engine = vision_engine(weights, &in_fp8(&emulator, 4)).unwrap();
    let got = embed(engine.as_mut(), Input::PixelValues(&pixels));
    let images = pixels.chunks(3 * side * side);
    let expected = images.flat_map(|image| reference::image_embedding(weights, image).unwrap()).collect();
    check(&got, &(expected, engine.info().embedding_size), Precision::Fp8);
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = demo();
    let weights = model.text.as_ref().unwrap();
    let mut engine = text_engine(weights, &in_fp8(&emulator, MAX_BATCH)).unwrap();
    let len = engine.info().input_len;
    let ids: Vec<u32> = (0..MAX_BATCH * len).map(|i| scatter(i) % 32_000).collect();
    let together = embed(engine.as_mut(), Input::TokenIds(&ids));
    let mut alone = Vec::new();
    for ids in ids.chunks(len) {
        alone.extend(embed(engine.as_mut(), Input::TokenIds(ids)));
    }
    assert!(together == alone);
    // fp8 it is, and not something else.
    let bf16 = Options { precision: Precision::Bf16, ..in_fp8(&emulator, 1) };
    let in_bf16 = embed(text_engine(weights, &bf16).unwrap().as_mut(), Input::TokenIds(&ids[..len]));
    assert!(in_bf16 != alone[..in_bf16.len()]);
}

#[test]
fn cards_and_models_without_fp8_are_refused() {
    let Some(emulator) = Emulator::lock() else { return };
    let before = emulator.in_use();
    emulator.machine(1, 12040, 86, 1 << 30);
    let model = demo();
    let refused = |model: &Model| {
        text_engine(model.text.as_ref().unwrap(), &in_fp8(&emulator, 1)).map(drop).unwrap_err()
    };
    let error = refused(&model);
    assert!(matches!(error, CudaError::NoFp8 { .. }) && error.is_usage(), "{error}");
    assert_eq!(
        error.to_string(),
        "card 0 (Emulated card) has compute capability 8.6, and fp8 needs 8.9 (Ada) or later: take --precision bf16"
    );
    let peak = crate::measure_peak(&in_fp8(&emulator, 1), std::time::Duration::ZERO).unwrap_err();
    assert_eq!(peak.to_string(), error.to_string());
    emulator.machine(1, 12040, 89, 1 << 30);
    let error = refused(&open("both"));
    assert!(error.to_string().contains("multiples of 16, and this tower has one of 54"), "{error}");
    assert_eq!(emulator.in_use(), before);
}
