//! Requests that nobody recorded, answered with the status and words that a real Triton 24.10 had for them when
//! `tools/compare_triton.py` sent them to both.

mod common;

use common::client::{Client, Response};
use common::gated::Gate;
use common::{TestServer, options};

const INFER: &str = "/v2/models/siglip_text/infer";
const GENERATE: &str = "/v2/models/siglip_text/generate";
const TRACE: &str = "/v2/trace/setting";
const LOAD: &str = "/v2/repository/models/siglip_text/load";
const CUDA: &str = "/v2/cudasharedmemory/region/x/register";

#[test]
fn over_http() {
    let server = TestServer::start(vec![Gate::open().model(32)], options());
    let mut client = Client::connect(server.http);
    let ids = vec!["1"; 64].join(",");
    let tensor = |more: &str| {
        format!(r#"{{"name":"INPUT_IDS","shape":[1,64],"datatype":"INT64","data":[{ids}]{more}}}"#)
    };
    let infer = |tensors: &str, more: &str| format!(r#"{{"inputs":[{tensors}]{more}}}"#);
    let unknown = infer(&tensor(""), r#","outputs":[{"name":"Z"},{"name":"B"}]"#);
    let second = infer(&(tensor("") + r#",{"name":"X","shape":[1],"datatype":"INT64","data":[1]}"#), "");
    let offset = infer(&tensor(r#","parameters":{"shared_memory_offset":"x"}"#), "");
    let handle = format!(r#"{{"raw_handle":{{"b64":"{}=="}},"device_id":0,"byte_size":5}}"#, "A".repeat(86));
    for (path, headers, body, status, words) in [
        (
            INFER,
            "",
            "\u{feff}{}",
            500,
            "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'",
        ),
        (
            INFER,
            "",
            "{}\0what follows",
            500,
            "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'",
        ),
        (
            INFER,
            "",
            "{\"a\nb\":1}",
            500,
            "failed to parse the request JSON buffer: Invalid escape character in string. at 3",
        ),
        (INFER, "Content-Encoding: \r\n", "{}", 501, "Unsupported compression type"),
        (
            INFER,
            "",
            &offset,
            500,
            "Unable to parse 'shared_memory_offset': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        (INFER, "", &unknown, 400, "unexpected inference output 'B' for model 'siglip_text'"),
        (
            INFER,
            "",
            &second,
            400,
            "[request id: <id_unknown>] expected 1 inputs but got 2 inputs for model 'siglip_text'. Got input(s) ['X','INPUT_IDS'], but missing required input(s) ]. Please provide all required input(s).",
        ),
        (GENERATE, "", "null", 500, "attempt to get members for non-object"),
        (
            GENERATE,
            "",
            r#"{"INPUT_IDS":5}"#,
            400,
            "The schema can not convert input 'INPUT_IDS' to tensor with proper shape",
        ),
        (
            GENERATE,
            "",
            r#"{"INPUT_IDS":[]}"#,
            400,
            "[request id: <id_unknown>] input byte size mismatch for input 'INPUT_IDS' for model 'siglip_text'. Expected 512, got 0",
        ),
        (
            GENERATE,
            "",
            r#"{"parameters":{"INPUT_IDS":5}}"#,
            400,
            "Converting keyword: 'parameters': The schema can not convert input 'INPUT_IDS' to tensor with proper shape",
        ),
        (
            GENERATE,
            "Content-Encoding: gzip\r\n",
            "{}",
            400,
            "Unsupported content-encoding, only 'identity' is supported.",
        ),
        ("/v2/models/nope/generate", "", "{}", 404, "Request for unknown model: 'nope' is not found"),
        (
            TRACE,
            "",
            r#"{"trace_level":["TENSORS"]}"#,
            400,
            "Attempting to set invalid trace setting :trace file name is not given",
        ),
        (
            TRACE,
            "",
            r#"{"trace_level":["OFF","x"],"trace_rate":"z"}"#,
            400,
            "Expect only one trace level 'OFF' is specified",
        ),
        (
            TRACE,
            "",
            r#"{"trace_count":"-5"}"#,
            400,
            "Unable to parse 'trace_count'. Expecting value >= -1, got:-5",
        ),
        (
            TRACE,
            "",
            r#"{"log_frequency":{},"trace_rate":"4294967296"}"#,
            400,
            "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: 4294967296",
        ),
        (LOAD, "", "{}", 503, "explicit model load / unload is not allowed if polling is enabled"),
        (LOAD, "", r#"{"parameters":{"x":"1"}}"#, 500, "unexpected error on creating Triton parameter"),
        (CUDA, "", "{}", 400, "Shared memory register request has no 'raw_handle' field"),
        (CUDA, "", r#"{"raw_handle":5}"#, 500, "attempt to access non-existing object member 'b64'"),
        (
            CUDA,
            "",
            r#"{"raw_handle":{"b64":"AAAA"},"device_id":""}"#,
            500,
            "attempt to access non-existing object member 'byte_size'",
        ),
        (
            CUDA,
            "",
            r#"{"raw_handle":{"b64":"AAAA"},"device_id":0,"byte_size":5}"#,
            400,
            "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t",
        ),
        (CUDA, "", &handle, 400, "failed to register shared memory region: invalid args"),
    ] {
        let response = client.post(path, headers, body.as_bytes());
        assert_eq!(response.json()["error"], words, "{path} {body}");
        assert_eq!(response.status, status, "{path} {body}");
    }
    // No setting is touched by `null`, and of numbers 32 bits are kept, as signed ones.
    for (level, shown) in [("7", 7), ("null", 7), ("4294967297", 1), ("2147483648", 0)] {
        let response =
            client.post("/v2/logging", "", format!(r#"{{"log_verbose_level":{level}}}"#).as_bytes());
        assert_eq!(response.json()["log_verbose_level"], shown, "{level}");
    }
    for (rate, shown) in [("\" 5x\"", "5"), ("\"-1\"", "4294967295"), ("null", "1000")] {
        let response = client.post(TRACE, "", format!(r#"{{"trace_rate":{rate}}}"#).as_bytes());
        assert_eq!(response.json()["trace_rate"], shown, "{rate}");
    }
    // Two rows, flat, and classes of which 32 bits count.
    let response = client.post(GENERATE, "", format!(r#"{{"INPUT_IDS":[{ids},{ids}]}}"#).as_bytes());
    let one = client.post(GENERATE, "", format!(r#"{{"INPUT_IDS":[{ids}]}}"#).as_bytes());
    let columns = |response: &Response| response.json()["EMBEDDING"].as_array().unwrap().len();
    assert_eq!(columns(&response), 2 * columns(&one));
    let classes = |count: u64| {
        let outputs =
            format!(r#","outputs":[{{"name":"EMBEDDING","parameters":{{"classification":{count}}}}}]"#);
        infer(&tensor(""), &outputs)
    };
    let wrapped = client.post(INFER, "", classes((1 << 32) + 2).as_bytes());
    assert_eq!(wrapped.json()["outputs"][0]["shape"], serde_json::json!([1, 2]));
    let none = client.post(INFER, "", classes(1 << 32).as_bytes());
    assert_eq!(none.json()["outputs"][0]["datatype"], "FP32");
}
