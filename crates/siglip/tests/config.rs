//! Configurations of every published SigLIP model of a fixed resolution, and of what must be refused.

use serde_json::{Value, json};
use siglip::config::{Activation, Config, ConfigError, TextConfig, VisionConfig};

/// Width, MLP width, layers and heads of a tower.
type Shape = (usize, usize, usize, usize);
const BASE: Shape = (768, 3072, 12, 12);
const LARGE: Shape = (1024, 4096, 24, 16);
const SO400M: Shape = (1152, 4304, 27, 16);
const GIANT: Shape = (1536, 6144, 40, 16);

/// Name, image size, patch size, patches, vision shape, text shape, vocabulary, context, embedding size.
type Row = (&'static str, usize, usize, usize, Shape, Shape, usize, usize, usize);

#[rustfmt::skip]
const FAMILY: &[Row] = &[
    ("siglip-base-patch16-224", 224, 16, 196, BASE, BASE, 32_000, 64, 768),
    ("siglip-base-patch16-256", 256, 16, 256, BASE, BASE, 32_000, 64, 768),
    ("siglip-base-patch16-384", 384, 16, 576, BASE, BASE, 32_000, 64, 768),
    ("siglip-base-patch16-512", 512, 16, 1024, BASE, BASE, 32_000, 64, 768),
    ("siglip-large-patch16-256", 256, 16, 256, LARGE, LARGE, 32_000, 64, 1024),
    ("siglip-large-patch16-384", 384, 16, 576, LARGE, LARGE, 32_000, 64, 1024),
    ("siglip-so400m-patch14-224", 224, 14, 256, SO400M, SO400M, 32_000, 16, 1152),
    ("siglip-so400m-patch14-384", 384, 14, 729, SO400M, SO400M, 32_000, 64, 1152),
    ("siglip-base-patch16-256-multilingual", 256, 16, 256, BASE, BASE, 250_000, 64, 768),
    ("siglip-so400m-patch16-256-i18n", 256, 16, 256, SO400M, SO400M, 250_000, 64, 1152),
    ("siglip2-base-patch32-256", 256, 32, 64, BASE, BASE, 256_000, 64, 768),
    ("siglip2-base-patch16-224", 224, 16, 196, BASE, BASE, 256_000, 64, 768),
    ("siglip2-base-patch16-256", 256, 16, 256, BASE, BASE, 256_000, 64, 768),
    ("siglip2-base-patch16-384", 384, 16, 576, BASE, BASE, 256_000, 64, 768),
    ("siglip2-base-patch16-512", 512, 16, 1024, BASE, BASE, 256_000, 64, 768),
    ("siglip2-large-patch16-256", 256, 16, 256, LARGE, LARGE, 256_000, 64, 1024),
    ("siglip2-large-patch16-384", 384, 16, 576, LARGE, LARGE, 256_000, 64, 1024),
    ("siglip2-large-patch16-512", 512, 16, 1024, LARGE, LARGE, 256_000, 64, 1024),
    ("siglip2-so400m-patch14-224", 224, 14, 256, SO400M, SO400M, 256_000, 64, 1152),
    ("siglip2-so400m-patch14-384", 384, 14, 729, SO400M, SO400M, 256_000, 64, 1152),
    ("siglip2-so400m-patch16-256", 256, 16, 256, SO400M, SO400M, 256_000, 64, 1152),
    ("siglip2-so400m-patch16-384", 384, 16, 576, SO400M, SO400M, 256_000, 64, 1152),
    ("siglip2-so400m-patch16-512", 512, 16, 1024, SO400M, SO400M, 256_000, 64, 1152),
    ("siglip2-giant-opt-patch16-256", 256, 16, 256, GIANT, SO400M, 256_000, 64, 1536),
    ("siglip2-giant-opt-patch16-384", 384, 16, 576, GIANT, SO400M, 256_000, 64, 1536),
];

/// Each file holds only what differs from the defaults, as the published ones do.
#[test]
fn the_whole_family() {
    for &(name, image, patch, patches, vision, text, vocabulary, context, embedding) in FAMILY {
        let mut text_config = tower(text);
        differs(&mut text_config, "vocab_size", vocabulary, 32_000);
        differs(&mut text_config, "max_position_embeddings", context, 64);
        differs(&mut text_config, "projection_size", embedding, text.0);
        let mut vision_config = tower(vision);
        differs(&mut vision_config, "image_size", image, 224);
        differs(&mut vision_config, "patch_size", patch, 16);
        let file =
            json!({"model_type": "siglip", "text_config": text_config, "vision_config": vision_config});

        let config = parse(&file).unwrap();
        let (got_text, got_vision) = (config.text.unwrap(), config.vision.unwrap());
        let expected = TextConfig {
            vocab_size: vocabulary,
            hidden_size: text.0,
            intermediate_size: text.1,
            num_hidden_layers: text.2,
            num_attention_heads: text.3,
            max_position_embeddings: context,
            projection_size: embedding,
            layer_norm_eps: 1e-6,
            hidden_act: Activation::GeluTanh,
        };
        assert_eq!(got_text, expected, "{name}");
        assert_eq!(got_text.head_dim(), text.0 / text.3, "{name}");
        let expected = VisionConfig {
            hidden_size: vision.0,
            intermediate_size: vision.1,
            num_hidden_layers: vision.2,
            num_attention_heads: vision.3,
            num_channels: 3,
            image_size: image,
            patch_size: patch,
            layer_norm_eps: 1e-6,
            hidden_act: Activation::GeluTanh,
        };
        assert_eq!(got_vision, expected, "{name}");
        assert_eq!(got_vision.num_patches(), patches, "{name}");
        // The joint space has one size, though giant-opt's towers have two.
        assert_eq!(got_vision.hidden_size, got_text.projection_size, "{name}");
    }
}

/// google/siglip-so400m-patch14-384's file as it is.
#[test]
fn a_published_file() {
    let file = br#"{
      "architectures": ["SiglipModel"],
      "initializer_factor": 1.0,
      "model_type": "siglip",
      "text_config": {
        "hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_text_model",
        "num_attention_heads": 16, "num_hidden_layers": 27
      },
      "torch_dtype": "float32",
      "transformers_version": "4.37.0.dev0",
      "vision_config": {
        "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "model_type": "siglip_vision_model",
        "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14
      }
    }"#;
    let config = Config::from_json(file).unwrap();
    let (text, vision) = (config.text.unwrap(), config.vision.unwrap());
    assert_eq!((text.head_dim(), text.projection_size, text.vocab_size), (72, 1152, 32_000));
    assert_eq!((vision.grid(), vision.num_patches(), vision.head_dim()), (27, 729, 72));
}

#[test]
fn absent_and_null_are_the_default() {
    for file in [json!({"model_type": "siglip"}), json!({"model_type": "siglip", "text_config": null})] {
        let config = parse(&file).unwrap();
        assert_eq!(config.text, Some(TextConfig::default()));
        assert_eq!(config.vision, Some(VisionConfig::default()));
    }
    let file = json!({"model_type": "siglip", "text_config": {"hidden_size": 24, "projection_size": null}});
    assert_eq!(parse(&file).unwrap().text.unwrap().projection_size, 24);
}

#[test]
fn one_tower() {
    let config =
        parse(&json!({"model_type": "siglip_text_model", "hidden_size": 1152, "num_attention_heads": 16}));
    let config = config.unwrap();
    assert_eq!(config.vision, None);
    assert_eq!(config.text.unwrap().projection_size, 1152);

    let config = parse(&json!({"model_type": "siglip_vision_model", "image_size": [384, 384]})).unwrap();
    assert_eq!(config.text, None);
    assert_eq!(config.vision.unwrap().image_size, 384);
}

#[test]
fn what_is_refused_and_how_it_is_said() {
    let text = |fields: Value| json!({"model_type": "siglip", "text_config": fields});
    let vision = |fields: Value| json!({"model_type": "siglip", "vision_config": fields});
    let whole = "but must be a whole number from 1 to";
    #[rustfmt::skip]
    let cases = [
        (json!([]), "config.json: `(the whole file)` is [], but must be a JSON object"),
        (json!({}), "config.json has no `model_type`; "),
        (json!({"model_type": "clip"}), "config.json has `model_type` `clip`; `siglip`, "),
        (json!({"model_type": 1}), "config.json: `model_type` is 1, but must be a string"),
        (json!({"model_type": "siglip2"}), "config.json has `model_type` `siglip2`, a SigLIP 2 NaFlex model, which is not supported yet"),
        (text(json!([])), "config.json: `text_config` is [], but must be a JSON object"),
        (text(json!({"hidden_size": 0})), &format!("config.json: `text_config.hidden_size` is 0, {whole} 65536")),
        (text(json!({"hidden_size": -1})), &format!("config.json: `text_config.hidden_size` is -1, {whole} 65536")),
        (text(json!({"hidden_size": 1.5})), &format!("config.json: `text_config.hidden_size` is 1.5, {whole} 65536")),
        (text(json!({"hidden_size": "768"})), &format!("config.json: `text_config.hidden_size` is \"768\", {whole} 65536")),
        (text(json!({"hidden_size": 1_u64 << 63})), &format!("config.json: `text_config.hidden_size` is 9223372036854775808, {whole} 65536")),
        (text(json!({"hidden_size": 770})), "config.json: `text_config.num_attention_heads` is 12, but must be a divisor of hidden_size, 770"),
        (text(json!({"hidden_size": 8})), "config.json: `text_config.num_attention_heads` is 12, but must be a whole number from 1 to 8"),
        (text(json!({"num_hidden_layers": 100_000})), &format!("config.json: `text_config.num_hidden_layers` is 100000, {whole} 1024")),
        (text(json!({"vocab_size": 1_u64 << 40})), &format!("config.json: `text_config.vocab_size` is 1099511627776, {whole} 16777216")),
        (text(json!({"layer_norm_eps": 0})), "config.json: `text_config.layer_norm_eps` is 0, but must be a number above 0 and at most 1"),
        (text(json!({"layer_norm_eps": 1e-60})), "config.json: `text_config.layer_norm_eps` is 1"),
        (text(json!({"hidden_act": "quick_gelu"})), "config.json: `text_config.hidden_act` is `quick_gelu`, but must be `gelu_pytorch_tanh`"),
        (vision(json!({"hidden_act": "gelu"})), "config.json: `vision_config.hidden_act` is `gelu`, but must be"),
        (vision(json!({"patch_size": 225})), "config.json: `vision_config.patch_size` is 225, but must be at most image_size, 224"),
        (vision(json!({"image_size": [224, 256]})), "config.json: `vision_config.image_size` is [224,256], but must be one number: only square"),
        (vision(json!({"image_size": 16_384, "patch_size": 1})), "config.json: `vision_config.image_size` is 16384, but must be a size that gives at most 65536 patches"),
        (vision(json!({"vision_use_head": false})), "config.json: `vision_config.vision_use_head` is false, but must be true"),
    ];
    for (file, expected) in cases {
        let message = parse(&file).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{file}: {message}");
    }
    assert!(matches!(Config::from_json(b"{"), Err(ConfigError::Json { .. })));
}

fn parse(file: &Value) -> Result<Config, ConfigError> {
    Config::from_json(&serde_json::to_vec(file).unwrap())
}

fn tower((hidden, mlp, layers, heads): Shape) -> Value {
    let mut config = json!({});
    differs(&mut config, "hidden_size", hidden, 768);
    differs(&mut config, "intermediate_size", mlp, 3072);
    differs(&mut config, "num_hidden_layers", layers, 12);
    differs(&mut config, "num_attention_heads", heads, 12);
    config
}

/// Sets a field, if it is not the default.
fn differs(config: &mut Value, field: &str, value: usize, default: usize) {
    if value != default {
        config[field] = value.into();
    }
}
