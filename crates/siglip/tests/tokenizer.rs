//! Token ids against those of `transformers` and SentencePiece, on texts that are hard to get right.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use siglip::config::TextConfig;
use siglip::tokenizer::{TokenizeError, Tokenizer, TokenizerError};

/// A file made by `tools/make_tokenizer_fixtures.py`.
#[derive(Deserialize)]
struct Fixture {
    context: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    /// How many tokens the text has, end token included.
    tokens: usize,
    /// Those that are left when it is cut to the context.
    ids: Vec<u32>,
}

#[test]
fn siglip_from_spiece_model() {
    let tokenizer = Tokenizer::from_bytes(None, Some(&model_file("spiece.model")), &TextConfig::default());
    check(&tokenizer.unwrap(), "siglip.json", 1);
}

#[test]
fn siglip_ids_that_others_published() {
    let tokenizer = Tokenizer::from_bytes(None, Some(&model_file("spiece.model")), &TextConfig::default());
    check(&tokenizer.unwrap(), "published.json", 1);
}

#[test]
fn siglip_from_tokenizer_json() {
    let tokenizer = Tokenizer::from_bytes(Some(&model_file("tokenizer.json")), None, &TextConfig::default());
    check(&tokenizer.unwrap(), "siglip.json", 1);
}

#[test]
fn sentencepiece_with_byte_fallback() {
    check(&tiny("tiny_bytes"), "tiny_bytes.json", 1);
}

#[test]
fn sentencepiece_without_byte_fallback() {
    check(&tiny("tiny_unk"), "tiny_unk.json", 1);
}

#[test]
fn sentencepiece_with_user_defined_symbols() {
    check(&tiny("tiny_user"), "tiny_user.json", 1);
}

#[test]
fn byte_pair_encoding_like_gemmas() {
    let bytes = fs::read(fixtures().join("tiny_gemma.tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_bytes(Some(&bytes), None, &TextConfig::default());
    check(&tokenizer.unwrap(), "tiny_gemma.json", 0);
}

/// Gemma's tokenizer has 34 MB and is not in the repository: `SIGLIP2_TOKENIZER_JSON` may name it.
#[test]
fn siglip2() {
    let Some(path) = std::env::var_os("SIGLIP2_TOKENIZER_JSON") else { return };
    let tokenizer = Tokenizer::from_bytes(Some(&fs::read(path).unwrap()), None, &TextConfig::default());
    check(&tokenizer.unwrap(), "siglip2.json", 0);
}

/// What converters make of SigLIP's file: no normalisation of its own, no byte fallback.
#[test]
fn a_converted_file_without_byte_fallback_is_told_and_put_right() {
    let mut file: serde_json::Value = serde_json::from_slice(&model_file("tokenizer.json")).unwrap();
    file["model"]["byte_fallback"] = false.into();
    let bytes = serde_json::to_vec(&file).unwrap();
    let tokenizer = Tokenizer::from_bytes(Some(&bytes), None, &TextConfig::default()).unwrap();
    assert!(tokenizer.warnings()[0].contains("byte_fallback: false"), "{:?}", tokenizer.warnings());
    check(&tokenizer, "siglip.json", 1);
}

#[test]
fn too_long_says_how_long() {
    let tokenizer = tiny("tiny_bytes");
    let error = tokenizer.encode(&"a".repeat(100)).unwrap_err();
    assert!(matches!(error, TokenizeError::TooLong { limit: 64, .. }));
    assert_eq!(
        TokenizeError::TooLong { tokens: 65, limit: 64 }.to_string(),
        "the text has 65 tokens, end token included, but the model takes at most 64"
    );
}

#[test]
fn a_text_of_megabytes_is_cut_or_refused_before_it_takes_memory() {
    let limit = Tokenizer::MAX_BYTES;
    let gemma = fs::read(fixtures().join("tiny_gemma.tokenizer.json")).unwrap();
    let gemma = Tokenizer::from_bytes(Some(&gemma), None, &TextConfig::default()).unwrap();
    for tokenizer in [tiny("tiny_bytes"), gemma] {
        let error = tokenizer.encode(&"a".repeat(limit + 1)).unwrap_err();
        assert_eq!(error, TokenizeError::TooManyBytes { bytes: limit + 1, limit });
        assert_eq!(
            error.to_string(),
            "the text has 1048577 bytes: beyond 1048576 its tokens are not even counted"
        );
        assert!(matches!(tokenizer.encode(&"é ".repeat(limit / 3)), Err(TokenizeError::TooLong { .. })));
        // Two bytes a character: the limit falls between the two of one.
        let long = format!("a{}", "é".repeat(limit));
        let start = format!("a{}", "é".repeat(200));
        assert_eq!(tokenizer.encode_truncated(&long), tokenizer.encode_truncated(&start));
    }
}

#[test]
fn other_contexts() {
    let spiece = model_file("spiece.model");
    for context in [1, 2, 7, 16] {
        let config = TextConfig { max_position_embeddings: context, ..TextConfig::default() };
        let tokenizer = Tokenizer::from_bytes(None, Some(&spiece), &config).unwrap();
        assert_eq!(tokenizer.context_length(), context);
        for text in ["", "a", "a photo of a cat", "</s>"] {
            assert_eq!(tokenizer.encode_truncated(text).len(), context, "{text:?} in {context}");
        }
    }
}

#[test]
fn files_that_are_no_tokenizer_are_errors() {
    let config = TextConfig::default();
    let reason = |json: Option<&[u8]>, spiece: Option<&[u8]>| {
        Tokenizer::from_bytes(json, spiece, &config).unwrap_err().to_string()
    };
    assert!(matches!(Tokenizer::from_bytes(None, None, &config), Err(TokenizerError::Absent)));
    assert!(reason(Some(b"{}"), None).starts_with("tokenizer.json is not a tokenizer that can be used: "));
    let word_piece = br#"{"model": {"type": "WordPiece", "vocab": {}}}"#;
    assert!(reason(Some(word_piece), None).contains("of type `WordPiece`"));
    let no_unknown = br#"{"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}"#;
    assert!(reason(Some(no_unknown), None).contains("no piece for unknown characters"));
    assert!(reason(None, Some(b"")).contains("no SentencePiece model"));
    assert!(reason(None, Some(b"not protobuf")).contains("protobuf"));

    let spiece = model_file("spiece.model");
    for length in (0..spiece.len()).step_by(20_011) {
        assert!(Tokenizer::from_bytes(None, Some(&spiece[..length]), &config).is_err(), "cut to {length}");
    }
}

/// Whatever single bytes of the file are wrong, encoding does not panic.
#[test]
fn damaged_files_do_not_panic() {
    let spiece = fs::read(fixtures().join("tiny_user.spiece.model")).unwrap();
    let charsmap = model_file("spiece.model");
    let mut state = 1_u64;
    let mut random = |bound: usize| {
        // Knuth's linear congruential generator.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for (original, rounds) in [(&spiece, 300), (&charsmap, 30)] {
        for _ in 0..rounds {
            let mut damaged = original.clone();
            // The normalisation table is at the end of the big file.
            let from = damaged.len().saturating_sub(240_000);
            for _ in 0..20 {
                let at = from + random(damaged.len() - from);
                damaged[at] = random(256) as u8;
            }
            if let Ok(tokenizer) = Tokenizer::from_bytes(None, Some(&damaged), &TextConfig::default()) {
                for text in ["", "a photo of a cat", "é ß 漢字 ＡＢＣ ﬁ a\u{301} 😀 </s> ▁", "\0\u{200b}"]
                {
                    assert_eq!(tokenizer.encode_truncated(text).len(), 64);
                }
            }
        }
    }
}

/// Every text must get exactly the fixture's ids, padded to the context with `padding`.
fn check(tokenizer: &Tokenizer, fixture: &str, padding: u32) {
    let fixture: Fixture = serde_json::from_slice(&fs::read(fixtures().join(fixture)).unwrap()).unwrap();
    assert!(!fixture.cases.is_empty());
    let mut wrong = Vec::new();
    for Case { text, tokens, ids } in &fixture.cases {
        let mut expected = ids.clone();
        expected.resize(fixture.context, padding);
        let cut = tokenizer.encode_truncated(text);
        let whole = tokenizer.encode(text);
        let whole_expected = if *tokens > fixture.context {
            Err(TokenizeError::TooLong { tokens: *tokens, limit: fixture.context })
        } else {
            Ok(expected.clone())
        };
        if cut != expected || whole != whole_expected {
            wrong.push(format!(
                "{text:?}\n  got      {cut:?}\n  expected {expected:?}\n  {:?} / {tokens}",
                whole.err()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), fixture.cases.len(), wrong.join("\n"));
}

fn tiny(name: &str) -> Tokenizer {
    let bytes = fs::read(fixtures().join(format!("{name}.spiece.model"))).unwrap();
    Tokenizer::from_bytes(None, Some(&bytes), &TextConfig::default()).unwrap()
}

/// A file of SigLIP 1's tokenizer, which the demo model has in both forms.
fn model_file(name: &str) -> Vec<u8> {
    fs::read(root().join("demo/model").join(name)).unwrap()
}

fn fixtures() -> PathBuf {
    root().join("fixtures/tokenizer")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
