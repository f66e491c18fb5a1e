//! Where this server differs from the recorded one on purpose, and what is not replayed.

use serde_json::{Value, json};

use crate::recording::Exchange;

/// Why an exchange is not replayed at all.
pub(crate) fn not_replayed(exchange: &Exchange) -> Option<&'static str> {
    let name = exchange.name.as_str();
    match exchange.group.as_str() {
        "repository" if unloads(name) => Some("after loading or unloading a model, which is refused here"),
        "stats_known_series" | "stats_after" => Some("statistics of a known series: in a test of their own"),
        _ if name.starts_with("generate") => Some("the generate extension (later)"),
        _ => None,
    }
}

/// Whether an exchange is about a model that was unloaded, or loaded with another configuration.
fn unloads(name: &str) -> bool {
    let after = ["unloaded", "reloaded", "config_after_override", "repo_index_after", "repo_index_one"];
    after.iter().any(|start| name.starts_with(start)) || name == "server_ready_one_unloaded"
}

/// Fields that have another value here wherever they occur: name, Triton's value, ours.
fn fields() -> Vec<(&'static str, Value, Value)> {
    vec![
        // A server says who it is.
        ("name", json!("triton"), json!("siglip")),
        ("version", json!("2.51.0"), json!(env!("CARGO_PKG_VERSION"))),
        ("platform", json!("python"), json!("siglip")),
        ("backend", json!("python"), json!("siglip")),
        // There is no file with the model's program.
        ("default_model_filename", json!("model.py"), json!("")),
        // The recorded queue has no bound. Ours has one, and the configuration says so.
        (
            "default_queue_policy",
            Value::Null,
            json!({
                "timeout_action": "REJECT",
                "default_timeout_microseconds": 0,
                "allow_timeout_override": false,
                "max_queue_size": 1024
            }),
        ),
    ]
}

/// Replaces our values of such fields by Triton's, where both are as listed.
pub(crate) fn align_fields(theirs: &Value, ours: &mut Value) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, their_value, our_value) in fields() {
                if ours.get(name) == Some(&our_value)
                    && theirs.get(name).unwrap_or(&Value::Null) == &their_value
                {
                    match their_value {
                        Value::Null => drop(ours.remove(name)),
                        value => drop(ours.insert(name.to_owned(), value)),
                    }
                }
            }
            for (name, ours) in ours.iter_mut() {
                if let Some(theirs) = theirs.get(name) {
                    align_fields(theirs, ours);
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            theirs.iter().zip(ours).for_each(|(theirs, ours)| align_fields(theirs, ours));
        }
        _ => {}
    }
}

/// Why an exchange has another answer here; `None` if it has not.
pub(crate) fn chosen(name: &str) -> Option<&'static str> {
    Some(match name {
        "err_shape_huge" | "err_shape_big_but_no_overflow" => "400 where Triton's process aborts",
        "infer_ids_int64_max" | "infer_ids_int64_min" => "an id outside the vocabulary is an error",
        "infer_bin_bytes_batch3" | "infer_raw_binary_bytes" => "a text that is not UTF-8 is an error",
        "infer_json_bad_utf8" => {
            "an id that is not UTF-8 is not given back as it is: replies are always UTF-8"
        }
        "model_config_embed_text" | "model_metadata_embed_text" => {
            "the embedding's size is known, and is stated"
        }
        "model_metadata_head" | "model_ready_head" => "the reply to HEAD has no body (RFC 9110, 9.3.2)",
        "cudashm_register" => "memory of a GPU cannot be registered",
        "load_after_dependents"
        | "load_already_loaded"
        | "load_already_loaded_empty_object"
        | "load_params_config_notjson"
        | "load_siglip_vision"
        | "load_unknown_model_json"
        | "load_with_config_override"
        | "unload_already_unloaded"
        | "unload_malformed"
        | "unload_params_bad_type"
        | "unload_params_unknown"
        | "unload_siglip_vision"
        | "unload_with_dependents" => "503: models are neither loaded nor unloaded here",
        "bad_version"
        | "content_length_negative"
        | "content_length_nonnumeric"
        | "dup_content_length_conflict"
        | "header_obs_fold"
        | "header_without_colon"
        | "http09_version" => "400 before the connection is closed; Triton only closes it",
        "chunked_plus_content_length" => "the connection is closed afterwards (RFC 9112, 6.1)",
        "expect_other" => "an expectation other than 100-continue is ignored, not promised to be met",
        "leading_crlf" => "an empty line before a request is skipped (RFC 9112, 2.2)",
        "pipelined_two" => "both are answered; Triton hangs",
        "header_100k" => "headers may have 128 KiB",
        "path_10k" => "a long path is answered like any other",
        "method_lowercase_get" => "an unknown method is answered with 405",
        "http2_prior_version" => "HTTP/2.0 in a request line is an error, as there is no such message",
        _ => return None,
    })
}
