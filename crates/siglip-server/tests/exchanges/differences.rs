//! Where this server differs from the recorded one on purpose, and what is not replayed.

use serde_json::{Value, json};

use crate::recording::Exchange;
use crate::setup::ADDITIONAL;

/// Why an exchange is not replayed at all.
pub(crate) fn not_replayed(exchange: &Exchange) -> Option<&'static str> {
    let name = exchange.name.as_str();
    match exchange.group.as_str() {
        "repository" if ["config_after_override", "reloaded_model_config"].contains(&name) => {
            Some("after another configuration was given to a model, which is refused here")
        }
        "stats_known_series" | "stats_after" => Some("statistics of a known series: in a test of their own"),
        _ => None,
    }
}

/// Whether a line of the metrics is about one of them.
pub(crate) fn is_additional_metric(line: &str) -> bool {
    ADDITIONAL.iter().any(|name| line.contains(&format!("model=\"{name}\"")))
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
            ours.retain(|item| !ADDITIONAL.iter().any(|name| item.get("name") == Some(&json!(name))));
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
        "repo_index_after_unload_params_unknown" => "an unloaded model is gone at once, and not UNLOADING",
        "load_with_config_override" => "a model's configuration is not a client's to change",
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
