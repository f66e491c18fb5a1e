//! Model folders that are incomplete, damaged or hostile: each must give the one error that says what is wrong.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use siglip::model::{EmbeddedFiles, Model, ModelError};
use siglip::preprocessor::Resample;
use siglip::weights::{Dtype, Weights, WeightsError};

// ---- Whole folders.

#[test]
fn not_a_model_folder() {
    let folder = Folder::new("not_a_model");
    assert_eq!(
        folder.error(),
        format!("{} is not a model folder: it has no config.json", folder.0.display())
    );
    let nowhere = Model::open(&folder.0.join("nowhere")).unwrap_err();
    assert!(nowhere.to_string().ends_with("is not a model folder: there is no such folder"), "{nowhere}");
    assert!(matches!(nowhere, ModelError::NotAModel { .. }));
}

#[test]
fn a_config_without_weights() {
    let folder = Folder::copy("both", "no_weights");
    folder.remove("model.safetensors");
    assert_eq!(
        folder.error(),
        format!(
            "{} has no weights: neither model.safetensors nor model.safetensors.index.json is there",
            folder.0.display()
        )
    );
}

#[test]
fn one_tower_of_two_can_be_used() {
    for (kept, prefix, lacking) in [("text", "text_model.", "vision"), ("vision", "vision_model.", "text")] {
        let folder = Folder::copy("both", &format!("only_{kept}"));
        folder.edit_weights(|header| header.retain(|name, _| name.starts_with(prefix)));
        let model = Model::open(&folder.0).unwrap();
        assert_eq!((model.text.is_some(), model.vision.is_some()), (kept == "text", kept == "vision"));
        let sentence = format!(
            "There is no {lacking} tower: {} has no tensor under `{lacking}_model.`.",
            folder.0.join("model.safetensors").display()
        );
        assert!(model.missing.contains(&sentence), "{:?}", model.missing);
    }
}

#[test]
fn neither_tower() {
    let folder = Folder::copy("both", "no_tower");
    folder.edit_weights(|header| header.retain(|name, _| name.starts_with("logit")));
    assert!(folder.error().contains("holds no tower that the configuration describes"));
}

#[test]
fn every_tensor_of_a_tower_is_needed() {
    let complete = Weights::open(&fixtures().join("both")).unwrap();
    for name in complete.names().filter(|name| !name.starts_with("logit")) {
        let folder = Folder::copy("both", "one_tensor_less");
        folder.edit_weights(|header| drop(header.remove(name)));
        let file = folder.0.join("model.safetensors");
        assert_eq!(folder.error(), format!("{} has no tensor `{name}`", file.display()));
    }
}

#[test]
fn towers_of_different_widths() {
    let folder = Folder::copy("both", "widths");
    let config = fs::read_to_string(folder.0.join("config.json")).unwrap();
    folder.write(
        "config.json",
        config.replace("\"projection_size\": 54", "\"projection_size\": 53").as_bytes(),
    );
    folder.edit_weights(|header| {
        for (tensor, row) in [("text_model.head.weight", 54), ("text_model.head.bias", 1)] {
            let end = header[tensor]["data_offsets"][1].as_u64().unwrap();
            header[tensor]["shape"][0] = json!(53);
            header[tensor]["data_offsets"][1] = json!(end - row * 4);
        }
    });
    assert_eq!(
        folder.error(),
        format!(
            "{}: the text tower's embeddings have 53 values (`projection_size`) and the vision tower's 54 (`hidden_size`), \
             but must have as many",
            folder.0.display()
        )
    );
    // One tower alone is of any width.
    folder.edit_weights(|header| header.retain(|name, _| !name.starts_with("vision_model.")));
    Model::open(&folder.0).unwrap();
}

#[test]
fn numbers_that_make_no_score() {
    let folder = Folder::copy("both", "scalars");
    let file = folder.0.join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    let data = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&whole[8..data]).unwrap();
    let set = |name: &str, number: f32| {
        let mut bytes = whole.clone();
        let at = data + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        folder.write("model.safetensors", &bytes);
        Model::open(&folder.0)
    };
    for (name, number, found) in [
        ("logit_scale", f32::NAN, "NaN, but must be a finite number whose exponential is finite, too"),
        ("logit_scale", f32::INFINITY, "inf, but must be"),
        ("logit_scale", f32::NEG_INFINITY, "-inf, but must be"),
        ("logit_scale", 89.0, "89, but must be"),
        ("logit_bias", f32::NAN, "NaN, but must be a finite number"),
        ("logit_bias", f32::NEG_INFINITY, "-inf, but must be"),
    ] {
        let error = set(name, number).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: `{name}` is {found}", file.display())), "{error}");
    }
    assert_eq!(set("logit_scale", 4.7).unwrap().logit_scale, Some(4.7));
}

#[test]
fn a_preprocessor_that_does_not_fit() {
    let folder = Folder::copy("both", "preprocessor");
    let set = |field: &str, value: Value| {
        let mut config: Value =
            serde_json::from_slice(&fs::read(fixtures().join("both/preprocessor_config.json")).unwrap())
                .unwrap();
        config[field] = value;
        folder.write("preprocessor_config.json", config.to_string().as_bytes());
        folder.error()
    };
    assert_eq!(
        set("size", json!({"height": 224, "width": 224})),
        format!(
            "{}: preprocessor_config.json: `size` is 224 × 224, but must be the model's image_size, 23 × 23",
            folder.0.display()
        )
    );
    assert!(set("resample", json!(0)).ends_with("`resample` is 0, but must be 2 (bilinear) or 3 (bicubic)"));
    assert!(set("image_std", json!([0.5, 0.0, 0.5])).contains("none of them 0"));
    assert!(set("image_mean", json!([0.5])).contains("one number for each of image_mean, 1"));
    assert!(set("size", json!(23)).contains("preprocessor_config.json is not valid: "));
}

#[test]
fn a_config_that_is_refused() {
    let folder = Folder::copy("both", "config");
    folder.write("config.json", br#"{"model_type": "siglip2"}"#);
    let expected = format!("{}: config.json has `model_type` `siglip2`, ", folder.0.display());
    assert!(folder.error().starts_with(&expected), "{}", folder.error());
}

#[test]
fn open_clip_configs_that_are_refused() {
    let folder = Folder::copy("open_clip", "open_clip_config");
    let set = |pointer: &str, value: Value| {
        let bytes = fs::read(fixtures().join("open_clip/open_clip_config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        *config.pointer_mut(pointer).unwrap() = value;
        folder.write("open_clip_config.json", config.to_string().as_bytes());
        folder.error()
    };
    let name = "/model_cfg/vision_cfg/timm_model_name";
    assert!(set(name, json!("naflexvit_base_patch16_siglip")).contains("a SigLIP 2 NaFlex model"));
    for (pointer, value, words) in [
        (
            name,
            json!("vit_base_patch16_siglip_gap_224"),
            "`model_cfg.vision_cfg.timm_model_name` is `vit_base",
        ),
        (name, json!("vit_base_patch32_clip_224"), "must be one of timm's SigLIP towers with a pooling head"),
        (
            name,
            json!("vit_large_patch16_siglip_256"),
            "a tower whose width in the weights, 60, its 16 heads divide",
        ),
        (
            "/model_cfg/text_cfg/no_causal_mask",
            json!(false),
            "`model_cfg.text_cfg.no_causal_mask` is not true",
        ),
        ("/model_cfg/text_cfg/pool_type", json!("argmax"), "pool_type` is `argmax`, but must be `last`"),
        ("/model_cfg/text_cfg/heads", json!(7), "must be a divisor of width, 60"),
        ("/model_cfg/embed_dim", json!(61), "must be the width of the vision tower's weights, 60"),
        ("/preprocess_cfg/resize_mode", json!("shortest"), "`shortest`, but must be `squash`"),
        ("/preprocess_cfg/interpolation", json!("nearest"), "must be `bicubic` or `bilinear`"),
        ("/preprocess_cfg/std", json!([0.5, 0]), "must be one number for each of mean, 3, none of them 0"),
    ] {
        let error = set(pointer, value);
        assert!(error.contains("open_clip_config.json: ") && error.contains(words), "{error}");
    }
}

#[test]
fn what_an_open_clip_folder_lacks_is_said() {
    let folder = Folder::copy("open_clip", "open_clip_missing");
    let model = Model::open(&folder.0).unwrap();
    assert_eq!(model.missing.len(), 1);
    assert!(
        model.missing[0].ends_with(" open_clip takes it from timm/ViT-B-16-SigLIP."),
        "{:?}",
        model.missing
    );
    let preprocessor = model.preprocessor.unwrap();
    assert_eq!((preprocessor.size, preprocessor.resample), (Some((23, 23)), Resample::Bicubic));
    let bilinear = Model::open(&fixtures().join("open_clip2")).unwrap().preprocessor.unwrap();
    assert_eq!(bilinear.resample, Resample::Bilinear);
    // A folder that holds both layouts is read in the other.
    fs::copy(fixtures().join("both/config.json"), folder.0.join("config.json")).unwrap();
    fs::copy(fixtures().join("both/model.safetensors"), folder.0.join("model.safetensors")).unwrap();
    assert_eq!(Model::open(&folder.0).unwrap().config.text.unwrap().hidden_size, 54);
}

#[test]
fn a_tokenizer_that_is_none() {
    let folder = Folder::copy("both", "tokenizer");
    folder.write("tokenizer.json", b"{}");
    assert!(folder.error().contains("tokenizer.json is not a tokenizer that can be used: "));
}

#[test]
fn embedded_files() {
    let leak = |name: &str| -> &'static [u8] { fs::read(fixtures().join("both").join(name)).unwrap().leak() };
    let tokenizer = fixtures().join("../tokenizer/tiny_bytes.spiece.model");
    let files = EmbeddedFiles {
        name: "demo",
        config: leak("config.json"),
        weights: leak("model.safetensors"),
        tokenizer_json: None,
        spiece: Some(fs::read(tokenizer).unwrap().leak()),
        preprocessor: Some(leak("preprocessor_config.json")),
    };
    let model = Model::from_static(files).unwrap();
    assert_eq!((model.name.as_str(), model.missing.as_slice()), ("demo", &[][..]));
    // The tokenizer is another model's, with a larger vocabulary.
    assert!(model.tokenizer.as_ref().unwrap().warnings()[0].contains("the model's vocabulary has 97"));
    let opened = Model::open(&fixtures().join("both")).unwrap();
    assert_eq!(opened.name, "both");
    let weight = |model: &Model| model.text.as_ref().unwrap().head.weight.to_f32();
    assert_eq!(weight(&model), weight(&opened));
    assert_eq!((model.logit_scale, model.logit_bias), (Some(2.5), Some(-1.25)));

    let error = Model::from_static(EmbeddedFiles { weights: &files.weights[..1000], ..files }).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("(embedded) model.safetensors is not a valid safetensors file (1000 bytes)")
    );
}

// ---- One tensor.

#[test]
fn a_wrong_shape() {
    let folder = Folder::copy("both", "shape");
    folder.edit_weights(|header| header["text_model.head.weight"]["shape"] = json!([27, 108]));
    let file = folder.0.join("model.safetensors");
    assert_eq!(
        folder.error(),
        format!(
            "{}: tensor `text_model.head.weight` has the shape [27, 108], but the configuration asks for [54, 54]",
            file.display()
        )
    );
}

#[test]
fn a_wrong_type() {
    for dtype in ["I64", "F64", "F8_E4M3", "BOOL", "nonsense"] {
        let folder = Folder::copy("both", "dtype");
        folder.edit_weights(|header| header["vision_model.head.probe"]["dtype"] = json!(dtype));
        let file = folder.0.join("model.safetensors");
        assert_eq!(
            folder.error(),
            format!(
                "{}: tensor `vision_model.head.probe` has the type {dtype}, but weights must be F32, F16 or BF16",
                file.display()
            )
        );
    }
}

#[test]
fn every_type_converts_exactly() {
    let folder = Folder::new("types");
    // Zero, the smallest subnormal, one, the largest, infinity, not a number, of each type and sign.
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let bytes: Vec<u8> = halves.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let len = bytes.len();
    let header = json!({
        "bf16": {"dtype": "BF16", "shape": [256, 256], "data_offsets": [0, len]},
        "f16": {"dtype": "F16", "shape": [65536], "data_offsets": [len, 2 * len]},
        "f32": {"dtype": "F32", "shape": [2, 128, 128], "data_offsets": [2 * len, 3 * len]},
        "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [3 * len, 3 * len]},
        "none": {"dtype": "F32", "shape": [], "data_offsets": [3 * len, 3 * len + 4]},
    });
    let data = [bytes.as_slice(), &bytes, &bytes, &1.5_f32.to_le_bytes()].concat();
    folder.write("model.safetensors", &safetensors(&header, &data));
    let weights = Weights::open(&folder.0).unwrap();

    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let bf16 = weights.tensor("bf16", &[256, 256]).unwrap();
    assert_eq!(bits(&bf16.to_f32()), halves.iter().map(|half| u32::from(*half) << 16).collect::<Vec<_>>());
    let f16 = weights.tensor("f16", &[65_536]).unwrap();
    for (got, half) in f16.to_f32().into_iter().zip(&halves) {
        let expected = half::f16::from_bits(*half).to_f32();
        assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{half:x}");
    }
    let f32 = weights.tensor("f32", &[2, 128, 128]).unwrap();
    let (words, _) = bytes.as_chunks();
    assert_eq!(bits(&f32.to_f32()), words.iter().map(|word| u32::from_le_bytes(*word)).collect::<Vec<_>>());
    assert_eq!((f32.dtype(), f32.len(), f32.bytes().len()), (Dtype::F32, 32_768, len));
    assert!(weights.tensor("empty", &[0, 3]).unwrap().to_f32().is_empty());
    assert_eq!(weights.tensor("none", &[]).unwrap().to_f32(), [1.5]);

    // Runs that start and end anywhere, across the blocks in which F16 is converted.
    for tensor in [&bf16, &f16, &f32] {
        let all = tensor.to_f32();
        let end = all.len();
        for (start, length) in
            [(0, 1), (1, 1023), (1, 1024), (7_743, 2050), (5, 4_097), (end - 1, 1), (end, 0)]
        {
            let mut run = vec![0.0; length];
            tensor.copy_f32(start, &mut run);
            assert_eq!(bits(&run), bits(&all[start..start + length]));
            run.fill(0.0);
            tensor.read_f32(start, &mut run).unwrap();
            assert_eq!(bits(&run), bits(&all[start..start + length]));
        }
        assert!(std::panic::catch_unwind(|| tensor.copy_f32(end - 1, &mut [0.0; 2])).is_err());
        assert!(std::panic::catch_unwind(|| tensor.read_f32(end - 1, &mut [0.0; 2])).is_err());
    }
}

// ---- The file.

#[test]
fn a_file_cut_short_anywhere() {
    let whole = fs::read(fixtures().join("vision_gray/model.safetensors")).unwrap();
    let folder = Folder::copy("vision_gray", "cut");
    for length in (0..whole.len()).step_by(97).chain([7, 8, 9, whole.len() - 1]) {
        folder.write("model.safetensors", &whole[..length]);
        let error = folder.error();
        assert!(
            error.contains(&format!("is not a valid safetensors file ({length} bytes)")),
            "{length}: {error}"
        );
    }
    folder.write("model.safetensors", &[whole.as_slice(), b"x"].concat());
    assert!(folder.error().contains("it has something appended"));
}

#[test]
fn a_header_that_lies() {
    let f32 = |shape: Value, start: u64, end: u64| json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
    #[rustfmt::skip]
    let cases = [
        (json!({"a": f32(json!([2]), 0, 8), "b": f32(json!([2]), 4, 12)}), 12, "tensor `b` overlaps the one before it: it starts at 4, and the one before it ends at 8"),
        (json!({"a": f32(json!([1]), 0, 4), "b": f32(json!([1]), 8, 12)}), 12, "tensor `b` leaves a hole before it"),
        (json!({"a": f32(json!([1]), 4, 8)}), 8, "tensor `a` leaves a hole before it"),
        (json!({"a": f32(json!([3]), 0, 12)}), 8, "tensor `a` is said to be at 0 to 12 of 8 bytes of data"),
        (json!({"a": f32(json!([0]), 0, 0), "b": f32(json!([1]), 4, 0)}), 4, "tensor `b` leaves a hole"),
        (json!({"a": f32(json!([1]), 0, 8)}), 8, "tensor `a` of type F32 and shape [1] is said to take 8 bytes"),
        (json!({"a": f32(json!([1_u64 << 63, 4]), 0, 8)}), 8, "shape [9223372036854775808, 4] is said to take 8 bytes"),
        (json!({"a": f32(json!([1_u64 << 61]), 0, u64::MAX)}), 8, "tensor `a` is said to be at 0 to 18446744073709551615"),
        (json!({"a": f32(json!([1]), 0, 4)}), 8, "its tensors take 4 bytes, but 8 follow the header"),
        (json!({}), 1, "its tensors take 0 bytes, but 1 follow"),
        (json!({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), 4, "its header of"),
        (json!({"a": {"dtype": "F32", "shape": [1]}}), 4, "missing field `data_offsets`"),
        (json!({"a": 1}), 0, "its header of"),
        (json!([1]), 0, "its header of"),
    ];
    let folder = Folder::new("header");
    for (header, data, expected) in cases {
        folder.write("model.safetensors", &safetensors(&header, &vec![0; data]));
        let error = Weights::open(&folder.0).unwrap_err();
        assert!(matches!(error, WeightsError::Corrupt { .. }));
        assert!(error.to_string().contains(expected), "{header}: {error}");
    }
    for length in [u64::MAX, 1 << 40, 1_000, 3] {
        folder.write("model.safetensors", &[length.to_le_bytes().as_slice(), b"{}"].concat());
        let error = Weights::open(&folder.0).unwrap_err().to_string();
        assert!(
            error.contains(&format!("say that a header of {length} bytes follows, but 2 bytes do")),
            "{error}"
        );
    }
    folder.write("model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    assert_eq!(Weights::open(&folder.0).unwrap().names().count(), 0);
}

/// Whatever byte of a header is wrong, opening it does not panic.
#[test]
fn damaged_headers_do_not_panic() {
    let whole = fs::read(fixtures().join("vision_gray/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let folder = Folder::copy("vision_gray", "damaged");
    for at in (0..8 + header).step_by(5) {
        let mut damaged = whole.clone();
        damaged[at] = damaged[at].wrapping_add(1 + (at * 7 % 250) as u8);
        folder.write("model.safetensors", &damaged);
        drop(Model::open(&folder.0));
    }
}

// ---- Shards.

#[test]
fn a_shard_is_missing() {
    let folder = Folder::copy("sharded", "shard");
    folder.remove("model-00002-of-00003.safetensors");
    let file = folder.0.join("model-00002-of-00003.safetensors");
    let error = Model::open(&folder.0).unwrap_err();
    assert!(matches!(error, ModelError::Weights(WeightsError::Io { .. })));
    assert!(error.to_string().starts_with(&format!("{} cannot be read: ", file.display())), "{error}");
}

#[test]
fn an_index_that_names_a_tensor_that_is_not_there() {
    let folder = Folder::copy("sharded", "index_tensor");
    folder.edit_index(|map| map["extra"] = json!("model-00001-of-00003.safetensors"));
    let file = folder.0.join("model-00001-of-00003.safetensors");
    assert_eq!(folder.error(), format!("{} has no tensor `extra`", file.display()));
}

#[test]
fn an_index_that_leaves_a_tensor_out() {
    let folder = Folder::copy("sharded", "index_hole");
    folder.edit_index(|map| drop(map.as_object_mut().unwrap().remove("text_model.head.bias")));
    let file = folder.0.join("model.safetensors.index.json");
    assert_eq!(folder.error(), format!("{} has no tensor `text_model.head.bias`", file.display()));
}

#[test]
fn an_index_that_leads_out_of_the_folder() {
    let outside =
        ["../both/model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "./x", "..\\x", "x/"];
    for path in outside {
        let folder = Folder::copy("sharded", "index_path");
        folder.edit_index(|map| map["text_model.head.bias"] = json!(path));
        let error = folder.error();
        assert!(error.ends_with(&format!("`{path}` is not the name of a file beside it")), "{error}");
    }
}

#[test]
fn an_index_that_is_none() {
    let folder = Folder::copy("sharded", "index_json");
    for content in [&b"{"[..], b"{}", b"[]", br#"{"weight_map": {"a": 1}}"#] {
        folder.write("model.safetensors.index.json", content);
        assert!(folder.error().contains("is not a valid index of weights: its JSON: "), "{}", folder.error());
    }
}

// ---- What the tests are made of.

/// A folder of this test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("loading_{name}"));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// A copy of a fixture.
    fn copy(fixture: &str, name: &str) -> Folder {
        let folder = Folder::new(name);
        for file in fs::read_dir(fixtures().join(fixture)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.0.join(file.file_name())).unwrap();
        }
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }

    /// What opening the folder as a model says.
    fn error(&self) -> String {
        Model::open(&self.0).unwrap_err().to_string()
    }

    /// Changes the header of the weights, and leaves the bytes of removed tensors out.
    fn edit_weights(&self, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let file = fs::read(self.0.join("model.safetensors")).unwrap();
        let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&file[8..data]).unwrap();
        let header_fields = header.as_object_mut().unwrap();
        header_fields.remove("__metadata__");
        edit(header_fields);
        let mut kept = Vec::new();
        for tensor in header_fields.values_mut() {
            let offset = |index: usize| tensor["data_offsets"][index].as_u64().unwrap() as usize;
            let bytes = &file[data + offset(0)..data + offset(1)];
            tensor["data_offsets"] = json!([kept.len(), kept.len() + bytes.len()]);
            kept.extend_from_slice(bytes);
        }
        self.write("model.safetensors", &safetensors(&header, &kept));
    }

    fn edit_index(&self, edit: impl FnOnce(&mut Value)) {
        let file = self.0.join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        edit(&mut index["weight_map"]);
        fs::write(file, index.to_string()).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}
