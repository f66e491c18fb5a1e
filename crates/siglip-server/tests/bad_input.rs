//! What comes from the network may be anything.

mod common;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use common::client::{Client, Response, embeddings, ids_body};
use common::engines::LengthTokenizer;
use common::gated::{Gate, expected};
use common::{TestServer, options};
use siglip_server::{ServerOptions, Tokenize, TokenizeError};

const INFER: &str = "/v2/models/siglip_text/infer";
const EMBED: &str = "/v2/models/embed_text/infer";

fn server(options: ServerOptions) -> TestServer {
    TestServer::start(vec![Gate::open().model(32)], options)
}

fn assert_error(response: &Response, status: u16, words: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    let error = response.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains(words), "{error}");
}

#[test]
fn ids_outside_the_vocabulary() {
    let server = server(options());
    let mut client = Client::connect(server.http);
    for id in [-1, 32_000, i64::MAX, i64::MIN, 1 << 32] {
        let words =
            format!("token id {id} at row 1, position 0 of INPUT_IDS is outside the vocabulary (0 to 31999)");
        assert_error(&client.embed_ids(&[5, id]), 400, &words);
        let header = r#"{"inputs":[{"name":"INPUT_IDS","shape":[2,64],"datatype":"INT64","parameters":{"binary_data_size":1024}}]}"#;
        let mut body = header.as_bytes().to_vec();
        body.extend_from_slice(&5_i64.to_le_bytes().repeat(64));
        body.extend_from_slice(&id.to_le_bytes().repeat(64));
        let headers = format!("Inference-Header-Content-Length: {}\r\n", header.len());
        assert_error(&client.post(INFER, &headers, &body), 400, &words);
    }
    assert_eq!(embeddings(&client.embed_ids(&[31_999])), expected(31_999));
}

#[test]
fn sizes_that_no_memory_holds() {
    let server = server(options());
    let mut client = Client::connect(server.http);
    for shape in
        ["[1000000000,64]", "[9223372036854775807,64]", "[18446744073709551615,18446744073709551615]"]
    {
        let body =
            format!(r#"{{"inputs":[{{"name":"INPUT_IDS","shape":{shape},"datatype":"INT64","data":[1]}}]}}"#);
        assert_error(&client.post(INFER, "", body.as_bytes()), 400, "too many elements");
        let texts =
            body.replace("INT64", "BYTES").replace("[1]", "[\"a\"]").replace("INPUT_IDS", "INPUT_TEXT");
        assert_error(&client.post(EMBED, "", texts.as_bytes()), 400, "batch-size must be <= 32");
    }
    for size in ["9223372036854775807", "18446744073709551615"] {
        let body = format!(
            r#"{{"inputs":[{{"name":"INPUT_IDS","shape":[1,64],"datatype":"INT64","parameters":{{"binary_data_size":{size}}}}}]}}"#
        );
        assert_error(
            &client.post(INFER, "", body.as_bytes()),
            400,
            "additional bytes for model 'siglip_text'",
        );
    }
}

/// A shared-memory object with holes is as large as its owner likes and takes no room.
struct Sparse(std::path::PathBuf);

impl Sparse {
    fn create(name: &str, length: u64) -> Self {
        let path = std::path::Path::new("/dev/shm").join(name);
        std::fs::File::create(&path).unwrap().set_len(length).unwrap();
        Sparse(path)
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn shared_memory_that_no_memory_holds() {
    const LENGTH: u64 = 1 << 46;
    let name = format!("siglip_sparse_{}", std::process::id());
    let _object = Sparse::create(&name, LENGTH);
    let server = server(ServerOptions { max_body_bytes: 1 << 20, ..options() });
    let mut client = Client::connect(server.http);
    let region = format!(r#"{{"key":"/{name}","byte_size":{LENGTH}}}"#);
    let path = "/v2/systemsharedmemory/region/sparse/register";
    assert_eq!(client.post(path, "", region.as_bytes()).status, 200);
    let mut ask = |path: &str, input: &str, shape: &str, bytes: u64| {
        let span = format!(r#"{{"shared_memory_region":"sparse","shared_memory_byte_size":{bytes}}}"#);
        let body = format!(r#"{{"inputs":[{{{input},"shape":{shape},"parameters":{span}}}]}}"#);
        client.post(path, "", body.as_bytes())
    };
    let ids = r#""name":"INPUT_IDS","datatype":"INT64""#;
    for bytes in [LENGTH, 1 << 31, 1024] {
        let words = format!(
            "input byte size mismatch for input 'INPUT_IDS' for model 'siglip_text'. Expected 512, got {bytes}"
        );
        assert_error(&ask(INFER, ids, "[1,64]", bytes), 400, &words);
    }
    assert_error(
        &ask(INFER, ids, &format!("[{},64]", LENGTH / 512), LENGTH),
        400,
        "batch-size must be <= 32",
    );
    let text = r#""name":"INPUT_TEXT","datatype":"BYTES""#;
    let words = "strings may have 1048576 bytes there, a limit that is set by --max-body-mb";
    assert_error(&ask(EMBED, text, "[1,1]", LENGTH), 400, words);
    // What the model takes is read as ever; there are zeros in it.
    assert_eq!(embeddings(&ask(INFER, ids, "[1,64]", 512)), expected(0));
    assert_eq!(embeddings(&ask(INFER, ids, "[2,64]", 1024)), [expected(0), expected(0)].concat());
}

#[test]
fn deep_nesting() {
    let server = server(options());
    let mut client = Client::connect(server.http);
    let deep = "[".repeat(1_000_000);
    assert_error(&client.post(INFER, "", deep.as_bytes()), 400, "Nesting deeper than 1000");
    let inside = format!(r#"{{"inputs":[{{"data":{deep}"#);
    assert_error(&client.post(INFER, "", inside.as_bytes()), 400, "Nesting deeper than 1000");
}

#[test]
fn bodies_that_are_too_large() {
    let server = server(ServerOptions { max_body_bytes: 100_000, ..options() });
    let words = "larger than 100000 bytes; the limit is set by --max-body-mb";
    let mut client = Client::connect(server.http);
    client
        .send(format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n").as_bytes())
        .unwrap();
    assert_error(&client.receive().unwrap(), 413, words);
    assert!(client.is_closed_within(Duration::from_secs(30)));

    let mut client = Client::connect(server.http);
    client
        .send(format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes())
        .unwrap();
    for _ in 0..4 {
        let _ = client.send(format!("8000\r\n{}\r\n", "x".repeat(0x8000)).as_bytes());
    }
    assert_error(&client.receive().unwrap(), 413, words);

    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 50_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    let response = Client::connect(server.http).post(INFER, "Content-Encoding: gzip\r\n", &bomb);
    assert_error(&response, 413, "larger than 100000 bytes when decompressed");
}

#[test]
fn names_and_parameters() {
    let server = server(options());
    let mut client = Client::connect(server.http);
    let mut ask = |inputs: &str, rest: &str| {
        let text = r#"{"name":"INPUT_TEXT","shape":[1,1],"datatype":"BYTES","data":["hello"]}"#;
        let body = format!(r#"{{"inputs":[{}]{rest}}}"#, if inputs.is_empty() { text } else { inputs });
        client.post(EMBED, "", body.as_bytes())
    };
    let wrong_name = r#"{"name":"TEXT","shape":[1,1],"datatype":"BYTES","data":["a"]}"#;
    assert_error(&ask(wrong_name, ""), 400, "unexpected inference input 'TEXT' for model 'embed_text'");
    let two = format!(r#"{wrong_name},{}"#, wrong_name.replace("TEXT\"", "INPUT_TEXT\""));
    assert_error(&ask(&two, ""), 400, "expected 1 inputs but got 2 inputs for model 'embed_text'");
    assert_eq!(ask("", r#","parameters":{"embed_model":"siglip_text"}"#).status, 200);
    assert_eq!(ask("", r#","parameters":{"embed_model":"gated/model","truncation":false}"#).status, 200);
    assert_error(
        &ask("", r#","parameters":{"embed_model":"other"}"#),
        400,
        "parameter 'embed_model' is 'other', which is not served here; it can be gated/model, model, siglip",
    );
    assert_error(
        &ask("", r#","parameters":{"truncation":1}"#),
        400,
        "parameter 'truncation' must be true or false",
    );
    assert_error(&ask("", r#","parameters":{"triton_x":1}"#), 400, "reserved for Triton usage");
}

#[test]
fn texts_that_are_too_long_and_texts_for_siglip_text() {
    let server = server(options());
    let mut client = Client::connect(server.http);
    for length in [64, 100, 5000] {
        let text = "x".repeat(length);
        let body = format!(
            r#"{{"inputs":[{{"name":"INPUT_TEXT","shape":[2,1],"datatype":"BYTES","data":["a","{text}"]}}]}}"#
        );
        let words = format!("row 1 of INPUT_TEXT: the text has {} tokens and the model takes 64", length + 1);
        assert_error(&client.post(EMBED, "", body.as_bytes()), 400, &words);
        assert_error(&client.post(INFER, "", body.as_bytes()), 400, &words);
        let cut = body.replacen('{', r#"{"parameters":{"truncation":true},"#, 1);
        let cut = embeddings(&client.post(EMBED, "", cut.as_bytes()));
        assert_eq!(cut[..2], [0.001, 1.0 + 1.0 * 0.001]);
    }
    let not_utf8 = [
        &br#"{"inputs":[{"name":"INPUT_TEXT","shape":[1,1],"datatype":"BYTES","data":["ab"#[..],
        b"\xff\"]}]}",
    ]
    .concat();
    assert_error(&client.post(EMBED, "", &not_utf8), 400, "row 0 of INPUT_TEXT is not UTF-8: byte 2");
}

/// A tokenizer with a bug.
struct Fragile;

impl Tokenize for Fragile {
    fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>, TokenizeError> {
        if text.starts_with("trap") {
            // Without the hook that would print it.
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        LengthTokenizer.encode(text, truncate)
    }
}

#[test]
fn texts_that_make_the_tokenizer_panic() {
    let mut model = Gate::open().model(32);
    if let Some(text) = &mut model.text {
        text.tokenizer = Some(Arc::new(Fragile));
    }
    let server = TestServer::start(vec![model], options());
    let mut client = Client::connect(server.http);
    let mut ask = |text: &str| {
        let body = format!(
            r#"{{"inputs":[{{"name":"INPUT_TEXT","shape":[1,1],"datatype":"BYTES","data":["{text}"]}}]}}"#
        );
        client.post(EMBED, "", body.as_bytes())
    };
    // Short texts and long ones are tokenised on different threads.
    for text in ["trap".to_owned(), "trap".repeat(1000)] {
        assert_error(&ask(&text), 500, "the server's log has the reason");
        assert_eq!(ask("hello").status, 200, "the connection lives on");
    }
}

#[test]
fn a_gigabyte_in_a_megabyte() {
    let limit = 4 << 20;
    let server = server(ServerOptions { max_body_bytes: limit, ..options() });
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..1024 {
        bomb.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let mut client = Client::connect(server.http);
    let response = client.post(INFER, "Content-Encoding: gzip\r\n", &bomb);
    assert_error(&response, 413, "larger than 4194304 bytes when decompressed");
    assert_eq!(embeddings(&client.embed_ids(&[7])), expected(7));
}

#[test]
fn bodies_longer_than_announced() {
    let server = server(options());
    let body = ids_body(&[5]);
    for extra in ["x", "}}}}", "\r\n\r\n\0\0\0\0", &"y".repeat(300_000)] {
        let mut client = Client::connect(server.http);
        let head = format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        // A long rest is not read to its end: the connection is cut while it is sent.
        let _ = client.send(format!("{head}{body}{extra}\r\n\r\n").as_bytes());
        assert_eq!(embeddings(&client.receive().unwrap()), expected(5));
        // The rest is taken for another request, and is none.
        assert!(client.receive().map_or(true, |response| response.status >= 400), "{extra:.10}");
        assert!(client.is_closed_within(Duration::from_secs(30)));
    }
}

#[test]
fn keys_that_are_there_twice() {
    let server = server(options());
    let mut client = Client::connect(server.http);
    let body = ids_body(&[5]);
    let other = ids_body(&[6]);
    let inputs = &other[1..other.len() - 1];
    // As in Triton, the first counts.
    let twice = body.replacen('{', r#"{"id":"a","id":"b","#, 1).replace("]}]}", &format!("]}}],{inputs}}}"));
    let response = client.post(INFER, "", twice.as_bytes());
    assert_eq!(embeddings(&response), expected(5));
    assert_eq!(response.json()["id"], "a");
    let names = body.replacen(r#""name":"INPUT_IDS""#, r#""name":"INPUT_IDS","name":"OTHER""#, 1);
    assert_eq!(embeddings(&client.post(INFER, "", names.as_bytes())), expected(5));
}

#[test]
fn bytes_that_are_not_utf8() {
    let server = server(options());
    let mut client = Client::connect(server.http);
    let swap = |from: &str, to: &[u8]| {
        let body = ids_body(&[5]).into_bytes();
        let at = body.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&body[..at], to, &body[at + from.len()..]].concat()
    };
    assert_error(&client.post(INFER, "", &swap("INPUT_IDS", b"\xff\xc0")), 400, "'\u{fffd}\u{fffd}'");
    assert_error(&client.post(INFER, "", &swap("INT64", b"INT\xff")), 400, "invalid datatype");
    assert_error(&client.post(INFER, "", &swap("{", b"\xff")), 500, "Invalid value");
    let with_id = swap("{", b"{\"id\":\"a\xffb\",");
    assert_eq!(client.post(INFER, "", &with_id).json()["id"], "a\u{fffd}b");
    let length = "Inference-Header-Content-Length: \u{fffd}\r\n";
    assert_eq!(client.post(INFER, length, ids_body(&[5]).as_bytes()).status, 400);
    client.send(b"GET /v2/models/\xff HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(client.receive().unwrap().status >= 400);
    assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[7])), expected(7));
}

#[test]
fn garbage_of_all_kinds_is_answered_or_cut_off_and_nothing_breaks() {
    let server = server(options());
    let valid = format!(
        "POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nInference-Header-Content-Length: 40\r\n\r\n{}",
        ids_body(&[1]).len(),
        ids_body(&[1])
    )
    .into_bytes();
    // Every prefix length and every byte position once, in a pattern that repeats exactly.
    for index in 0..valid.len() {
        let mut message = valid.clone();
        message[index] ^= 1 << (index % 8);
        let mut client = Client::connect(server.http);
        client.set_timeout(Duration::from_millis(20));
        let _ = client.send(&message);
        if index % 16 == 0 {
            let _ = client.receive();
        }
    }
    assert_eq!(embeddings(&Client::connect(server.http).embed_ids(&[7])), expected(7));
}
