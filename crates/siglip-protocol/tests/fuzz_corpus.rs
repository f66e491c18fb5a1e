//! What the fuzzers do with an input, done once with every input of their corpora: a change that breaks one of them is
//! seen by whoever runs the tests, without a fuzzer.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that fails here has failed, and says where"
)]

#[path = "../../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a crate of its own, to the fuzzers")]
mod targets;

use std::path::Path;

#[test]
fn infer_json() {
    run("infer_json", targets::infer_json);
}

#[test]
fn infer_binary() {
    run("infer_binary", targets::infer_binary);
}

#[test]
fn bytes_tensor() {
    run("bytes_tensor", targets::bytes_tensor);
}

#[test]
fn grpc_request() {
    run("grpc_request", targets::grpc_request);
}

fn run(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        // Shown if the test fails; the last line names the culprit.
        eprintln!("{}", path.display());
        body(&input);
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {target} is empty");
}
