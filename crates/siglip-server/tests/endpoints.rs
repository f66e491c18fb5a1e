//! The endpoints beside `siglip_text`: images, scores, the preparation by itself, and several models in one server.

mod common;

use common::client::{Client, Response, embeddings};
use common::engines::{CONTEXT, LengthTokenizer, Row, RowEngine, info};
use common::queued::metric;
use common::{TestServer, options};
use serde_json::{Value, json};
use siglip::engine::Tower;
use siglip::image::{ImageProcessor, Options};
use siglip::preprocessor::PreprocessorConfig;
use siglip_server::{
    Compat, LogControl, ModelControl, QueuePolicy, ServeError, ServedModel, ServedText, ServedVision,
    ServerOptions, Similarity,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The side of the images that the test's models take.
const SIDE: usize = 4;
const COLUMNS: usize = 3;

/// How often the engines were built and how many rows they have computed.
#[derive(Clone, Default)]
struct Counts {
    text_rows: Arc<AtomicUsize>,
    text_builds: Arc<AtomicUsize>,
}

impl Counts {
    fn text_rows(&self) -> usize {
        self.text_rows.load(Ordering::Relaxed)
    }
}

/// A model whose text embedding is [length of the text, `mark`, 1], and whose image embedding is [mean, 2, 0].
fn model(name: &str, mark: f32, counts: &Counts) -> ServedModel {
    let build_text = {
        let counts = counts.clone();
        move || {
            let rows = counts.text_rows.clone();
            counts.text_builds.fetch_add(1, Ordering::Relaxed);
            let mut info = info(Tower::Text, 4, CONTEXT, COLUMNS);
            info.vocab_size = 32_000;
            let embed = move |row: Row<'_>, output: &mut [f32]| match row {
                Row::Ids(ids) => {
                    rows.fetch_add(1, Ordering::Relaxed);
                    output.copy_from_slice(&[ids[0] as f32, mark, 1.0]);
                }
                Row::Pixels(_) => unreachable!(),
            };
            Box::new(RowEngine { info, embed }) as Box<dyn siglip::engine::Engine>
        }
    };
    let mean = |row: Row<'_>, output: &mut [f32]| match row {
        Row::Pixels(pixels) => {
            output.copy_from_slice(&[pixels.iter().sum::<f32>() / pixels.len() as f32, 2.0, 0.0]);
        }
        Row::Ids(_) => unreachable!(),
    };
    let vision = RowEngine { info: info(Tower::Vision, 4, 3 * SIDE * SIDE, COLUMNS), embed: mean };
    let config = br#"{"size":{"height":4,"width":4},"do_normalize":false}"#;
    let config = PreprocessorConfig::from_json(config).unwrap();
    ServedModel {
        name: name.to_owned(),
        text: Some(ServedText {
            engines: vec![build_text()],
            rebuild: Some(Arc::new(move || Ok(vec![build_text()]))),
            peak_flops: 0.0,
            tokenizer: Some(Arc::new(LengthTokenizer)),
        }),
        vision: Some(ServedVision {
            engines: vec![Box::new(vision)],
            rebuild: None,
            peak_flops: 0.0,
            dims: [3, SIDE, SIDE],
            processor: Some(ImageProcessor::with_size(&config, (SIDE, SIDE), Options::default()).unwrap()),
        }),
        similarity: Some(Similarity { logit_scale: 2_f32.ln(), logit_bias: -1.0 }),
    }
}

fn server(options: ServerOptions) -> (TestServer, Counts) {
    let counts = Counts::default();
    (TestServer::start(vec![model("org/one", 5.0, &counts)], options), counts)
}

/// A BMP of one colour.
fn bmp(level: u8) -> Vec<u8> {
    let (width, height) = (5_u32, 3_u32);
    let stride = (width * 3).div_ceil(4) * 4;
    let mut file = b"BM".to_vec();
    for value in [54 + stride * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, 0, 0, 0, 0, 0] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend(std::iter::repeat_n(level, (stride * height) as usize));
    file
}

/// The embedding of [`bmp`].
fn image_embedding(level: u8) -> [f32; COLUMNS] {
    // The mean is of 48 equal values; summing them in f32 may round.
    let value = (f64::from(level) / 255.0) as f32;
    [(0..48).map(|_| value).sum::<f32>() / 48.0, 2.0, 0.0]
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for at in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
        }
        text.push_str(&"=".repeat(3 - chunk.len()));
    }
    text
}

fn infer(client: &mut Client, model: &str, body: &Value) -> Response {
    client.post(&format!("/v2/models/{model}/infer"), "", body.to_string().as_bytes())
}

fn tensor(name: &str, shape: &[usize], data: &[&str]) -> Value {
    json!({"name": name, "shape": shape, "datatype": "BYTES", "data": data})
}

fn image_request(images: &[&str], parameters: &Value) -> Value {
    json!({"inputs": [tensor("INPUT_IMAGE", &[images.len(), 1], images)], "parameters": parameters})
}

fn assert_error(response: &Response, words: &str) {
    assert_eq!(response.status, 400, "{}", response.text());
    assert!(response.text().contains(words), "{}", response.text());
}

#[test]
fn an_image_as_raw_bytes_as_a_binary_tensor_and_as_base64() {
    let (server, _) = server(options());
    let mut client = Client::connect(server.http);
    let image = bmp(100);

    let headers = "Inference-Header-Content-Length: 0\r\nContent-Type: application/octet-stream\r\n";
    let response = client.post("/v2/models/embed_image/infer", headers, &image);
    assert_eq!(response.status, 200, "{}", response.text());
    let length: usize = response.header("inference-header-content-length").unwrap().parse().unwrap();
    let (head, data) = response.body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head["outputs"][0]["shape"], json!([1, COLUMNS]));
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 12);
    let bytes: Vec<u8> = image_embedding(100).iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(data, bytes);

    // Two rows in a binary tensor.
    let other = bmp(200);
    let mut tensor = Vec::new();
    for image in [&image, &other] {
        tensor.extend_from_slice(&(image.len() as u32).to_le_bytes());
        tensor.extend_from_slice(image);
    }
    let head = json!({"inputs": [{"name": "INPUT_IMAGE", "shape": [2, 1], "datatype": "BYTES",
                                  "parameters": {"binary_data_size": tensor.len()}}]})
    .to_string();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    let response =
        client.post("/v2/models/embed_image/infer", &headers, &[head.as_bytes(), &tensor].concat());
    assert_eq!(embeddings(&response), [image_embedding(100), image_embedding(200)].concat());

    // Base64, with line breaks and in the other alphabet; `siglip_vision` takes images as well.
    let text = base64(&other);
    let broken: String =
        text.as_bytes().chunks(20).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
    let url_safe = text.replace('+', "-").replace('/', "_");
    for text in [text, broken, url_safe] {
        for endpoint in ["embed_image", "siglip_vision"] {
            let request = image_request(&[&text], &json!({"base64_encoded": true}));
            assert_eq!(embeddings(&infer(&mut client, endpoint, &request)), image_embedding(200));
        }
    }
}

#[test]
fn what_is_not_an_image_is_refused_by_name_and_nothing_else_is_lost() {
    let (server, _) = server(options());
    let mut client = Client::connect(server.http);
    let good = base64(&bmp(10));
    let base64_on = json!({"base64_encoded": true});
    let ask = |client: &mut Client, images: &[&str], parameters: &Value| {
        infer(client, "embed_image", &image_request(images, parameters))
    };
    assert_error(&ask(&mut client, &[&good, "!!!"], &base64_on), "row 1 of INPUT_IMAGE: base64: byte 0 is !");
    assert_error(&ask(&mut client, &[""], &base64_on), "row 0 of INPUT_IMAGE: the image is empty");
    assert_error(
        &ask(&mut client, &["hello, this is no image"], &json!({})),
        "row 0 of INPUT_IMAGE: not an image",
    );
    assert_error(&ask(&mut client, &[&good], &json!({})), "set the parameter 'base64_encoded' to true");
    assert_error(&ask(&mut client, &[&good], &json!({"base64_encoded": "yes"})), "must be true or false");
    let mut bomb = bmp(0);
    bomb[18..26].copy_from_slice(&[0x30, 0x75, 0, 0, 0x30, 0x75, 0, 0]);
    assert_error(&ask(&mut client, &[&base64(&bomb)], &base64_on), "30000");
    assert_error(&ask(&mut client, &[&base64(&bmp(0)[..60])], &base64_on), "row 0 of INPUT_IMAGE");
    assert_eq!(embeddings(&ask(&mut client, &[&good], &base64_on)), image_embedding(10));
    let stats = client.get("/v2/models/embed_image/stats").json()["model_stats"][0].clone();
    assert_eq!(
        (&stats["inference_count"], &stats["inference_stats"]["fail"]["count"]),
        (&json!(1), &json!(7))
    );
    let other = "nv_inference_request_failure{model=\"embed_image\",reason=\"OTHER\"";
    assert_eq!(metric(&server, other), 7.0);
}

#[test]
fn preparation_alone() {
    let (server, _) = server(options());
    let mut client = Client::connect(server.http);
    let request = json!({"inputs": [tensor("INPUT_TEXT", &[2, 1], &["hello", "hi"])]});
    let output = infer(&mut client, "siglip_text_tokenize", &request).json()["outputs"][0].clone();
    assert_eq!((&output["name"], &output["datatype"]), (&json!("INPUT_IDS"), &json!("INT64")));
    assert_eq!(output["shape"], json!([2, CONTEXT]));
    assert_eq!((&output["data"][0], &output["data"][CONTEXT]), (&json!(5), &json!(2)));

    let request = image_request(&[&base64(&bmp(255))], &json!({"base64_encoded": true}));
    let output = infer(&mut client, "siglip_vision_process", &request).json()["outputs"][0].clone();
    assert_eq!((&output["name"], &output["shape"]), (&json!("PIXEL_VALUES"), &json!([1, 3, SIDE, SIDE])));
    assert_eq!(output["data"], json!(vec![1.0; 48]));
    // What it gives is what `siglip_vision` takes.
    let pixels = json!({"inputs": [{"name": "PIXEL_VALUES", "shape": [1, 3, SIDE, SIDE], "datatype": "FP32",
                                    "data": output["data"]}]});
    for endpoint in ["siglip_vision", "siglip_vision_model"] {
        assert_eq!(embeddings(&infer(&mut client, endpoint, &pixels)), image_embedding(255));
    }
    let stats = client.get("/v2/models/siglip_text_tokenize/stats").json()["model_stats"][0].clone();
    assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(2), &json!(1)));
}

#[test]
fn scores_are_the_sigmoid_of_scaled_cosines_and_labels_are_embedded_once() {
    let (server, counts) = server(options());
    let mut client = Client::connect(server.http);
    let labels = ["cat", "horse", "cat", "a bird", "ox", "tapir"];
    let ask = |client: &mut Client, images: &[&str], labels: &[&str], prompt: Option<&str>| {
        let mut parameters = json!({"base64_encoded": true});
        if let Some(prompt) = prompt {
            parameters["prompt"] = json!(prompt);
        }
        let mut request = image_request(images, &parameters);
        let rows = images.len();
        request["inputs"].as_array_mut().unwrap().push(tensor(
            "LABELS",
            &[rows, labels.len() / rows],
            labels,
        ));
        infer(client, "zero_shot_image", &request)
    };
    let image = base64(&bmp(51));
    let response = ask(&mut client, &[&image], &labels, None);
    assert_eq!(response.status, 200, "{}", response.text());
    let output = &response.json()["outputs"][0];
    assert_eq!((&output["name"], &output["shape"]), (&json!("SCORE"), &json!([1, 6])));
    let scores: Vec<f32> = serde_json::from_value(output["data"].clone()).unwrap();
    for (label, score) in labels.iter().zip(&scores) {
        let text = [f64::from("A photo of a .".len() as u32 + label.len() as u32), 5.0, 1.0];
        let image = image_embedding(51).map(f64::from);
        let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&text, &image) / (dot(&text, &text) * dot(&image, &image)).sqrt();
        let expected = 1.0 / (1.0 + (-(2.0 * cosine - 1.0)).exp());
        assert!((f64::from(*score) - expected).abs() < 1e-6, "{label}: {score} {expected}");
    }
    assert_eq!(counts.text_rows(), 5, "one label is there twice");

    // Known labels cost nothing, whatever image they are held against, and in any order.
    let two = ask(&mut client, &[&image, &image], &["ox", "cat", "cat", "horse"], None);
    let data: Vec<f32> = serde_json::from_value(two.json()["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(data, [scores[4], scores[0], scores[0], scores[1]]);
    assert_eq!(counts.text_rows(), 5);
    ask(&mut client, &[&image], &["ox"], Some("{text}"));
    assert_eq!(counts.text_rows(), 6, "another prompt is another text");
    let stats = client.get("/v2/models/zero_shot_image/stats").json()["model_stats"][0].clone();
    assert_eq!(stats["inference_count"], 4, "images, not labels");

    assert_error(&ask(&mut client, &[&image], &[], None), "LABELS is empty");
    assert_error(&ask(&mut client, &[&image], &["ox", " "], None), "label 1 of row 0 of LABELS is empty");
    assert_error(&ask(&mut client, &[&image], &["ox"], Some("a photo")), "has no {text}");
    let long = "x".repeat(100);
    assert_error(&ask(&mut client, &[&image], &["ox", &long], None), "tokens and the model takes 64");
    assert_error(&ask(&mut client, &["?"], &["ox"], None), "row 0 of INPUT_IMAGE");
}

#[test]
fn many_clients_with_the_same_labels_compute_them_once() {
    let (server, counts) = server(options());
    let labels: Vec<String> = (1..=40).map(|length| "x".repeat(length)).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let mut request = image_request(&[&base64(&bmp(1))], &json!({"base64_encoded": true}));
    request["inputs"].as_array_mut().unwrap().push(tensor("LABELS", &[1, labels.len()], &labels));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                assert_eq!(infer(&mut Client::connect(server.http), "zero_shot_image", &request).status, 200)
            });
        }
    });
    assert_eq!(counts.text_rows(), labels.len());
}

/// A model whose text engine does `act` at every row.
fn model_with_text_engine(act: impl Fn(&[u32]) + Send + 'static) -> ServedModel {
    let mut model = model("org/one", 5.0, &Counts::default());
    let mut info = info(Tower::Text, 4, CONTEXT, COLUMNS);
    info.vocab_size = 32_000;
    let embed = move |row: Row<'_>, output: &mut [f32]| match row {
        Row::Ids(ids) => {
            act(ids);
            output.copy_from_slice(&[ids[0] as f32, 5.0, 1.0]);
        }
        Row::Pixels(_) => unreachable!(),
    };
    if let Some(text) = &mut model.text {
        text.engines = vec![Box::new(RowEngine { info, embed })];
        text.rebuild = None;
    }
    model
}

/// Scores of one image for labels, as a request with further parameters.
fn score_request(labels: &[String], parameters: &[(&str, Value)]) -> Value {
    let mut request = image_request(&[&base64(&bmp(1))], &json!({"base64_encoded": true}));
    for (name, value) in parameters {
        request["parameters"][name] = value.clone();
    }
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    request["inputs"].as_array_mut().unwrap().push(tensor("LABELS", &[1, labels.len()], &labels));
    request
}

#[test]
fn who_has_many_new_labels_lets_others_have_their_turn() {
    let model = model_with_text_engine(|_| std::thread::sleep(Duration::from_millis(10)));
    let server = TestServer::start(vec![model], options());
    let labels: Vec<String> = (0..2000).map(|number| format!("label {number}")).collect();
    let (many, one) = (score_request(&labels, &[]), score_request(&["another".to_owned()], &[]));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| infer(&mut Client::connect(server.http), "zero_shot_image", &many).status);
        // Long enough for it to have begun; it takes five seconds at least.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(infer(&mut Client::connect(server.http), "zero_shot_image", &one).status, 200);
        assert!(!first.is_finished());
        assert_eq!(first.join().unwrap(), 200);
    });
}

#[test]
fn the_wait_for_labels_has_its_bounds() {
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let model = model_with_text_engine(move |_| {
        let _ = begun.send(());
        let _ = may_go_on.lock().unwrap().recv();
    });
    let queue_policy = QueuePolicy { allow_timeout_override: true, ..QueuePolicy::default() };
    let server =
        TestServer::start(vec![model], ServerOptions { max_queue_size: 2, queue_policy, ..options() });
    let ask = |label: &str, parameters: &[(&str, Value)]| {
        let request = score_request(&[label.to_owned()], parameters);
        infer(&mut Client::connect(server.http), "zero_shot_image", &request)
    };
    let rejected = "nv_inference_request_failure{model=\"zero_shot_image\",reason=\"REJECTED\"";
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask("first", &[]));
        is_begun.recv().unwrap();
        // Its labels are being computed, and this one waits for its turn, but not for ever.
        let second = ask("second", &[("timeout", json!(50_000))]);
        assert_eq!((second.status, second.text().as_str()), (503, r#"{"error":"Request timeout expired"}"#));
        assert_eq!(metric(&server, rejected), 1.0);
        // Two may be there, which are the first and one that waits; whoever else comes is one too many.
        let others: Vec<_> =
            (0..3).map(|other| scope.spawn(move || ask(&format!("other {other}"), &[]))).collect();
        wait_for_metric(&server, rejected, 3.0);
        drop(go_on);
        assert_eq!(first.join().unwrap().status, 200);
        let others: Vec<Response> = others.into_iter().map(|other| other.join().unwrap()).collect();
        let refused = others.iter().filter(|other| other.text().contains("Exceeds maximum queue size"));
        assert_eq!(refused.count(), 2);
        assert_eq!(others.iter().filter(|other| other.status == 200).count(), 1);
    });
}

fn wait_for_metric(server: &TestServer, series: &str, value: f64) {
    let start = std::time::Instant::now();
    while metric(server, series) != value {
        assert!(start.elapsed() < Duration::from_secs(60), "{series} did not become {value}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn labels_that_the_engine_fails_at_are_a_failure_of_the_endpoint() {
    let model = model_with_text_engine(|ids| {
        if ids[0] == 50 {
            // Without the hook that would print it.
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    });
    let server = TestServer::start(vec![model], options());
    let request = score_request(&["x".repeat(50)], &[("prompt", json!("{text}"))]);
    let response = infer(&mut Client::connect(server.http), "zero_shot_image", &request);
    assert_eq!(response.status, 500);
    assert!(response.text().contains("on purpose"), "{}", response.text());
    let failed = "nv_inference_request_failure{model=\"zero_shot_image\",reason=\"BACKEND\"";
    assert_eq!(metric(&server, failed), 1.0);
    let stats = Client::connect(server.http).get("/v2/models/zero_shot_image/stats").json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 0);
}

#[test]
fn more_labels_than_one_request_may_have() {
    let (server, counts) = server(options());
    let labels: Vec<String> = (0..=32_768).map(|number| number.to_string()).collect();
    let ask = |labels: &[String]| {
        infer(&mut Client::connect(server.http), "zero_shot_image", &score_request(labels, &[]))
    };
    assert_error(
        &ask(&labels),
        "LABELS has more than 32768 different labels: ask for them in several requests",
    );
    assert_eq!(counts.text_rows(), 0);
    // The same ones again are no more labels.
    let again = [&labels[..10], &labels[..10]].concat();
    assert_eq!(ask(&again).status, 200);
}

#[test]
fn several_models_in_one_server() {
    let counts = Counts::default();
    let mut text_only = model("org/three", 9.0, &counts);
    text_only.vision = None;
    let models = vec![model("org/one", 5.0, &counts), model("org/two", 7.0, &counts), text_only];
    let server = TestServer::start(models, options());
    let mut client = Client::connect(server.http);
    let ask = |client: &mut Client, endpoint: &str, name: &str| {
        let request = json!({"inputs": [tensor("INPUT_TEXT", &[1, 1], &["hello"])],
                             "parameters": {"embed_model": name}});
        infer(client, endpoint, &request)
    };
    for endpoint in ["embed_text", "siglip_text"] {
        for (name, mark) in
            [("siglip_text", 5.0), ("org/one", 5.0), ("org/two", 7.0), ("two", 7.0), ("three", 9.0)]
        {
            assert_eq!(embeddings(&ask(&mut client, endpoint, name)), [5.0, mark, 1.0], "{name}");
        }
    }
    let words = "'four', which is not served here; it can be org/one, one, siglip, siglip_text, siglip_vision, org/two, two, org/three";
    assert_error(&ask(&mut client, "embed_text", "four"), words);
    let request =
        image_request(&[&base64(&bmp(9))], &json!({"base64_encoded": true, "embed_model": "org/three"}));
    let words = "'org/three', which is not served here; it can be org/one, one, siglip, siglip_text, siglip_vision, org/two, two";
    assert_error(&infer(&mut client, "embed_image", &request), words);
    let metrics = Client::connect(server.metrics).get("/metrics").text();
    for model in ["org/one", "org/two", "org/three"] {
        assert!(
            metrics.contains(&format!("siglip_queue_rows{{model=\"{model}\",tower=\"text\"}} 0")),
            "{metrics}"
        );
    }
    assert!(!metrics.contains("model=\"org/three\",tower=\"vision\""));
}

#[test]
fn two_models_of_one_name_are_refused() {
    let counts = Counts::default();
    // A model's name and what follows the slash in it both mean it.
    for (first, second) in [("a", "a"), ("org/a", "a"), ("a", "org/a"), ("one/a", "other/a")] {
        let models = vec![model(first, 1.0, &counts), model(second, 2.0, &counts)];
        let server = TestServer::start(models, options());
        assert!(matches!(server.join(), Err(ServeError::DuplicateModel(name)) if name == "a"));
    }
}

/// The original's names mean the first model, but not where another one is called so.
#[test]
fn a_model_that_has_one_of_the_default_names() {
    let counts = Counts::default();
    let server =
        TestServer::start(vec![model("org/one", 5.0, &counts), model("org/siglip", 7.0, &counts)], options());
    let mut client = Client::connect(server.http);
    for (name, mark) in [("siglip", 7.0), ("org/siglip", 7.0), ("siglip_text", 5.0), ("siglip_vision", 5.0)] {
        let request = json!({"inputs": [tensor("INPUT_TEXT", &[1, 1], &["hello"])],
                             "parameters": {"embed_model": name}});
        assert_eq!(embeddings(&infer(&mut client, "embed_text", &request)), [5.0, mark, 1.0], "{name}");
    }
}

#[test]
fn metadata_in_the_forms_of_both_generations() {
    let inputs = |compat: Compat, model: &str| {
        let (server, _) = server(ServerOptions { compat, ..options() });
        let metadata = Client::connect(server.http).get(&format!("/v2/models/{model}")).json();
        metadata["inputs"].clone()
    };
    let ids = json!([{"name": "INPUT_IDS", "datatype": "INT64", "shape": [-1, CONTEXT]}]);
    let text = json!([{"name": "INPUT_TEXT", "datatype": "BYTES", "shape": [-1, 1]}]);
    let pixels = json!([{"name": "PIXEL_VALUES", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}]);
    let image = json!([{"name": "INPUT_IMAGE", "datatype": "BYTES", "shape": [-1, 1]}]);
    assert_eq!(inputs(Compat::Page, "siglip_text"), ids);
    assert_eq!(inputs(Compat::Page, "siglip_vision"), pixels);
    assert_eq!(inputs(Compat::Ensemble, "siglip_text"), text);
    assert_eq!(inputs(Compat::Ensemble, "siglip_vision"), image);
    assert_eq!(inputs(Compat::Ensemble, "siglip_text_model"), ids);
    assert_eq!(inputs(Compat::Ensemble, "siglip_vision_model"), pixels);

    // Either input works in either form.
    for compat in [Compat::Page, Compat::Ensemble] {
        let (server, _) = server(ServerOptions { compat, ..options() });
        let mut client = Client::connect(server.http);
        let request = json!({"inputs": [tensor("INPUT_TEXT", &[1, 1], &["hello"])]});
        assert_eq!(embeddings(&infer(&mut client, "siglip_text", &request)), [5.0, 5.0, 1.0]);
        assert_eq!(embeddings(&client.embed_ids(&[7])), [7.0, 5.0, 1.0]);
    }
}

#[test]
fn a_tower_that_no_endpoint_uses_is_freed_and_built_again() {
    let (server, counts) = server(ServerOptions { model_control: ModelControl::Explicit, ..options() });
    let mut client = Client::connect(server.http);
    let mut control = |model: &str, action: &str| {
        let path = format!("/v2/repository/models/{model}/{action}");
        let response = client.post(&path, "", b"");
        (response.status, response.text())
    };
    let builds = || counts.text_builds.load(Ordering::Relaxed);
    let has_tower = || Client::connect(server.metrics).get("/metrics").text().contains("tower=\"text\"");
    let users = ["siglip_text", "siglip_text_model", "siglip_text_tokenize", "embed_text", "zero_shot_image"];
    for user in users {
        assert!(has_tower());
        assert_eq!(control(user, "unload").0, 200);
    }
    assert!(!has_tower());
    assert_eq!(builds(), 1);
    let mut other = Client::connect(server.http);
    let response = other.embed_ids(&[3]);
    assert_eq!(response.status, 404);
    assert!(response.text().contains("'siglip_text' has no available versions"));
    assert_eq!(control("siglip_text", "load").0, 200);
    assert_eq!(embeddings(&other.embed_ids(&[3])), [3.0, 5.0, 1.0]);
    assert_eq!(control("embed_text", "load").0, 200);
    assert_eq!(builds(), 2, "both use one tower");
    assert!(has_tower());
    let (status, text) = control("nope", "load");
    assert_eq!(
        (status, text.as_str()),
        (500, r#"{"error":"failed to load 'nope', failed to poll from model repository"}"#)
    );
}

/// Whether a liveness probe and a scrape are answered is what decides whether a process is left alone.
#[test]
fn while_a_tower_is_built_the_server_says_how_it_fares() {
    let counts = Counts::default();
    let mut model = model("org/one", 5.0, &counts);
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    if let Some(text) = &mut model.text {
        let build = text.rebuild.take().unwrap();
        text.rebuild = Some(Arc::new(move || {
            begun.send(()).unwrap();
            let _ = may_go_on.lock().unwrap().recv();
            build()
        }));
    }
    model.vision = None;
    let options = ServerOptions { model_control: ModelControl::Explicit, ..options() };
    let server = TestServer::start(vec![model], options);
    let control = |model: &str, action: &str| {
        let path = format!("/v2/repository/models/{model}/{action}");
        Client::connect(server.http).post(&path, "", b"").status
    };
    for user in ["siglip_text", "siglip_text_model", "siglip_text_tokenize", "embed_text"] {
        assert_eq!(control(user, "unload"), 200);
    }
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| control("siglip_text", "load"));
        is_begun.recv().unwrap();
        // More than the server has threads.
        let probes: Vec<_> = (0..8)
            .map(|probe| {
                let addr = if probe % 2 == 0 { server.http } else { server.metrics };
                let path = if probe % 2 == 0 { "/v2/health/live" } else { "/metrics" };
                let mut client = Client::connect(addr);
                client.set_timeout(Duration::from_secs(20));
                client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
                client
            })
            .collect();
        let answers: Vec<_> = probes.into_iter().map(|mut client| client.receive()).collect();
        drop(go_on);
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)));
        assert_eq!(loading.join().unwrap(), 200);
    });
    assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[3])), [3.0, 5.0, 1.0]);
}

#[test]
fn models_are_not_loaded_or_unloaded_unless_the_server_was_told_so() {
    let (server, _) = server(options());
    let mut client = Client::connect(server.http);
    for action in ["load", "unload"] {
        let response = client.post(&format!("/v2/repository/models/siglip_text/{action}"), "", b"");
        assert_eq!(response.status, 503);
        assert!(response.text().contains("explicit model load / unload is not allowed"));
    }
    assert_eq!(client.embed_ids(&[1]).status, 200);
}

#[test]
fn log_settings_change_the_level_of_the_log() {
    let levels = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = levels.clone();
    let log = LogControl::new(move |level| seen.lock().unwrap().push(level.map(|level| level.to_string())));
    let (server, _) = server(ServerOptions { log: Some(log), ..options() });
    let mut client = Client::connect(server.http);
    for settings in [
        r#"{"log_verbose_level":1}"#,
        r#"{"log_verbose_level":0}"#,
        r#"{"log_info":false}"#,
        r#"{"log_warning":false,"log_error":false}"#,
        r#"{"log_verbose_level":"a lot"}"#,
    ] {
        client.post("/v2/logging", "", settings.as_bytes());
    }
    let expected = [Some("DEBUG"), Some("INFO"), Some("WARN"), None];
    assert_eq!(*levels.lock().unwrap(), expected.map(|level| level.map(str::to_owned)));
}
