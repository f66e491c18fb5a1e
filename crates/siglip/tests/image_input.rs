//! Image input: which error each kind of bad input gives, limits, Exif orientation, base64; and the reference images,
//! where there is a folder of them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use siglip::image::{Base64Error, ImageError, ImageProcessor, JpegError, Options, decode_base64};
use siglip::preprocessor::PreprocessorConfig;

fn processor(resample: u32, side: usize, options: Options) -> ImageProcessor {
    let json = format!(r#"{{"size": {{"height": {side}, "width": {side}}}, "resample": {resample}}}"#);
    let config = PreprocessorConfig::from_json(json.as_bytes()).unwrap();
    ImageProcessor::with_size(&config, (side, side), options).unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images").join(name)).unwrap()
}

fn refusal(bytes: &[u8]) -> ImageError {
    processor(3, 32, Options::default()).resize_rgb8(bytes).unwrap_err()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_bad_input_has_its_error() {
    assert!(matches!(refusal(b""), ImageError::Empty));
    assert!(matches!(refusal(b"hello, world"), ImageError::Unknown { start } if start == "hello, w"));
    for name in ["truncated_half", "truncated_end", "truncated_progressive", "truncated_header"] {
        let error = refusal(&fixture(&format!("jpeg/{name}.jpg")));
        assert!(matches!(error, ImageError::Jpeg(JpegError::Truncated)), "{name}: {error}");
    }
    assert!(matches!(refusal(&fixture("jpeg/zero_size.jpg")), ImageError::NoPixels { width: 0, height: 0 }));
    assert!(matches!(refusal(&fixture("bmp/truncated.bmp")), ImageError::Truncated { .. }));
    for name in ["png/truncated.png", "png/zero_size.png", "webp/truncated.webp", "gif/truncated.gif"] {
        assert!(matches!(refusal(&fixture(name)), ImageError::Decoder { .. }), "{name}");
    }
}

#[test]
fn a_format_that_is_not_read_is_named() {
    let cases: [(&[u8], &str); 6] = [
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF"),
        (b"%PDF-1.7", "PDF"),
        (b"  <svg xmlns=\"http://www.w3.org/2000/svg\"/>", "SVG"),
        (b"P6 1 1 255 abc", "PNM"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    ];
    for (bytes, name) in cases {
        let error = refusal(bytes);
        assert!(matches!(error, ImageError::Unsupported { format } if format == name), "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("WebP"), "{error}");
    }
}

#[test]
fn a_giant_is_refused_by_its_header() {
    for name in ["jpeg/huge_header.jpg", "png/huge_header.png"] {
        let error = refusal(&fixture(name));
        let expected = matches!(error, ImageError::TooManyPixels { width: 30_000, height: 30_000, .. });
        assert!(expected, "{name}: {error}");
    }
    let mut options = Options::default();
    options.limits.max_bytes = 100;
    let error = processor(3, 32, options).resize_rgb8(&fixture("png/extreme_1x10000.png")).unwrap_err();
    assert!(matches!(error, ImageError::TooManyBytes { allowed: 100, .. }));
    options.limits = Default::default();
    options.limits.max_pixels = 9_999;
    let error = processor(3, 32, options).resize_rgb8(&fixture("png/extreme_1x10000.png")).unwrap_err();
    assert!(matches!(error, ImageError::TooManyPixels { width: 1, height: 10_000, allowed: 9_999 }));
}

#[test]
fn a_side_beyond_the_limit_is_refused_by_the_header() {
    let bmp = |width: i32, height: i32| {
        let mut file = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        file.extend(width.to_le_bytes());
        file.extend(height.to_le_bytes());
        file.extend([1, 0, 24, 0]);
        file.resize(54, 0);
        file
    };
    for (width, height) in [(1, 65_536), (65_536, 1), (8_388_608, 1), (1, 67_108_864)] {
        let error = refusal(&bmp(width, height));
        let size = (width as u64, height as u64);
        assert!(
            matches!(error, ImageError::TooLong { width, height, allowed: 65_535 } if (width, height) == size),
            "{error}"
        );
    }
    let mut whole = bmp(1, 65_535);
    whole.resize(54 + 4 * 65_535, 7);
    assert_eq!(processor(3, 4, Options::default()).resize_rgb8(&whole).unwrap().1, [7; 4 * 4 * 3]);
}

#[test]
fn orientation_is_applied_when_asked_for() {
    let expected: Value = serde_json::from_slice(&fixture("expected.json")).unwrap();
    let mut options = Options::default();
    options.apply_exif_orientation = true;
    let upright = processor(3, 224, options);
    let mut compared = 0;
    for (name, entry) in expected["images"].as_object().unwrap() {
        if let Some(sha) = entry.get("upright224") {
            let (_, pixels) = upright.resize_rgb8(&fixture(name)).unwrap();
            assert_eq!(sha256(&pixels), sha.as_str().unwrap(), "{name}");
            compared += 1;
        }
    }
    assert!(compared >= 10);
    let (info, _) = upright.resize_rgb8(&fixture("jpeg/orientation6_60x35.jpg")).unwrap();
    assert_eq!((info.width, info.height), (35, 60));
}

/// `SIGLIP_REFERENCE_DIR` names a folder with `preproc_reference.json` and the images it lists.
#[test]
fn reference_images_are_those_of_pillow() {
    let Some(folder) = std::env::var_os("SIGLIP_REFERENCE_DIR").map(PathBuf::from) else { return };
    let text = std::fs::read(folder.join("preproc_reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&text).unwrap();
    let mut compared = 0;
    for (name, entry) in reference["images"].as_object().unwrap() {
        let Ok(bytes) = std::fs::read(folder.join(name)) else { continue };
        for (way, resample, side) in [("bicubic384", 3, 384), ("bicubic224", 3, 224), ("bilinear224", 2, 224)]
        {
            if let Some(sha) = entry[way]["sha256"].as_str() {
                let (_, pixels) = processor(resample, side, Options::default()).resize_rgb8(&bytes).unwrap();
                assert_eq!(sha256(&pixels), sha, "{name} {way}");
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "{} lists no image that is there", folder.display());
}

#[test]
fn base64_is_read_in_every_form() {
    let bytes: Vec<u8> = (0..=255).collect();
    let text = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(&bytes)
    };
    let lines: String =
        text.as_bytes().chunks(76).map(|line| format!("{}\r\n", str::from_utf8(line).unwrap())).collect();
    let safe = text.replace('+', "-").replace('/', "_");
    for form in [&text, &lines, &safe, &text.trim_end_matches('=').to_owned()] {
        assert_eq!(decode_base64(form.as_bytes()).unwrap(), bytes);
    }
    for length in 0..20 {
        use base64::Engine;
        let text = base64::engine::general_purpose::URL_SAFE.encode(&bytes[..length]);
        assert_eq!(decode_base64(text.as_bytes()).unwrap(), &bytes[..length]);
    }
    assert_eq!(decode_base64(b" \n").unwrap(), b"");
}

#[test]
fn base64_that_is_none_says_where() {
    let cases: [(&[u8], Base64Error); 5] = [
        (b"AAAA!AAA", Base64Error::Byte { position: 4, found: b'!' }),
        (b"AAA\xffAAAA", Base64Error::Byte { position: 3, found: 0xff }),
        (b"AA==AAAA", Base64Error::Padding { position: 4 }),
        (b"AAAA=", Base64Error::Padding { position: 4 }),
        (b"AAAAA", Base64Error::Length { position: 5 }),
    ];
    for (text, expected) in cases {
        assert_eq!(decode_base64(text).unwrap_err(), expected);
    }
}
