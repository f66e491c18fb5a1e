//! The reference pass against `transformers`, on the models that `tools/make_fixtures.py` made.

use std::path::{Path, PathBuf};

use siglip::engine::EngineError;
use siglip::model::Model;
use siglip::reference;
use siglip::similarity::{cosine, score, sigmoid};
use siglip::weights::{TextWeights, VisionWeights, Weights};

#[test]
fn both_towers_of_one_file() {
    let model = open("both");
    assert_eq!(check_text(&model, "both"), 3);
    assert_eq!(check_images(&model, "both"), 2);
    check_logits(&model, "both");
    assert_eq!(model.missing.len(), 1, "{:?}", model.missing);
    assert!(model.missing[0].contains("no tokenizer"));
    assert!(model.preprocessor.is_some());
}

#[test]
fn shards_with_an_index() {
    let model = open("sharded");
    assert_eq!(check_text(&model, "sharded"), 2);
    assert_eq!(check_images(&model, "sharded"), 3);
    check_logits(&model, "sharded");
}

#[test]
fn f16_text_tower_without_prefix() {
    let model = open("text_f16");
    assert_eq!(check_text(&model, "text_f16"), 4);
    assert!(model.vision.is_none());
    assert!(model.missing.iter().any(|sentence| sentence.contains("no vision tower")), "{:?}", model.missing);
}

#[test]
fn bf16_text_tower_with_prefix() {
    assert_eq!(check_text(&open("text_bf16"), "text_bf16"), 2);
}

#[test]
fn bf16_vision_tower() {
    let model = open("vision_bf16");
    assert_eq!(check_images(&model, "vision_bf16"), 1);
    assert!(model.text.is_none() && model.tokenizer.is_none());
}

#[test]
fn one_channel_and_no_prefix() {
    assert_eq!(check_images(&open("vision_gray"), "vision_gray"), 3);
}

#[test]
fn many_patches() {
    assert_eq!(check_images(&open("vision_patches"), "vision_patches"), 2);
}

/// open_clip's names and configuration: one layer for queries, keys and values, and sizes that no file says.
#[test]
fn open_clip_layout() {
    for name in ["open_clip", "open_clip2", "open_clip_i18n"] {
        let model = open(name);
        assert_eq!(check_text(&model, name), 3);
        assert_eq!(check_images(&model, name), 2);
        check_logits(&model, name);
    }
}

/// Pages that were given back come back from the file.
#[test]
fn released_weights_can_be_read_again() {
    let model = open("both");
    let text = model.text.as_ref().unwrap();
    let before = text.blocks[1].fc1.weight.to_f32();
    for tensor in [&text.token_embedding, &text.blocks[1].fc1.weight, &text.head.bias] {
        tensor.release();
    }
    assert_eq!(before, text.blocks[1].fc1.weight.to_f32());
    assert_eq!(check_text(&model, "both"), 3);
}

#[test]
fn wrong_inputs_are_errors() {
    let model = open("both");
    let (text, vision) = (model.text.unwrap(), model.vision.unwrap());
    let message = |result: Result<Vec<f32>, EngineError>| result.unwrap_err().to_string();
    assert_eq!(
        message(reference::text_embedding(&text, &[1; 63])),
        "the text tower takes 64 token ids, got 63"
    );
    assert_eq!(
        message(reference::image_embedding(&vision, &[0.0; 3 * 23 * 22])),
        "the vision tower takes 3 × 23 × 23 pixel values, got 1518"
    );
    let mut ids = [1; 64];
    ids[5] = 97;
    assert_eq!(
        message(reference::text_embedding(&text, &ids)),
        "token id 97 at row 0, position 5 is outside the vocabulary (0 to 96)"
    );
    let mut pixels = [0.0; 3 * 23 * 23];
    pixels[7] = f32::NAN;
    assert!(matches!(reference::image_embedding(&vision, &pixels), Err(EngineError::NotFinite { row: 0 })));
}

/// Checks every text of a fixture and returns how many there are.
fn check_text(model: &Model, fixture: &str) -> usize {
    let embeddings = text_embeddings(model.text.as_ref().unwrap(), fixture);
    check("text_embeds", fixture, &embeddings);
    embeddings.len()
}

/// Checks every image of a fixture and returns how many there are.
fn check_images(model: &Model, fixture: &str) -> usize {
    let embeddings = image_embeddings(model.vision.as_ref().unwrap(), fixture);
    check("image_embeds", fixture, &embeddings);
    embeddings.len()
}

fn check_logits(model: &Model, fixture: &str) {
    let texts = text_embeddings(model.text.as_ref().unwrap(), fixture);
    let images = image_embeddings(model.vision.as_ref().unwrap(), fixture);
    let (scale, bias) = (model.logit_scale.unwrap(), model.logit_bias.unwrap());
    let (expected, _) = expected(fixture, "logits_per_image");
    let mut expected = expected.iter();
    for image in &images {
        for text in &texts {
            let (got, expected) =
                (score(cosine(image, text), scale, bias), sigmoid(*expected.next().unwrap()));
            assert!((got - expected).abs() < 1e-6, "{fixture}: {got} instead of {expected}");
        }
    }
}

fn text_embeddings(text: &TextWeights, fixture: &str) -> Vec<Vec<f32>> {
    let (ids, length) = expected(fixture, "input_ids");
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    ids.chunks(length).map(|ids| reference::text_embedding(text, ids).unwrap()).collect()
}

fn image_embeddings(vision: &VisionWeights, fixture: &str) -> Vec<Vec<f32>> {
    let (pixels, size) = expected(fixture, "pixel_values");
    pixels.chunks(size).map(|pixels| reference::image_embedding(vision, pixels).unwrap()).collect()
}

fn check(name: &str, fixture: &str, got: &[Vec<f32>]) {
    let (expected, size) = expected(fixture, name);
    assert_eq!(expected.len(), got.len() * size);
    for (row, (got, expected)) in got.iter().zip(expected.chunks(size)).enumerate() {
        let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let error = got.iter().zip(expected).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
        assert!(error <= 1e-5 * largest, "{fixture}, {name} {row}: error {error}, largest value {largest}");
        assert!(cosine(got, expected) >= 0.999_999);
    }
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
