//! Where the gRPC door differs from the recorded one on purpose, and what is not replayed.

/// Why an exchange is not replayed at all.
pub(crate) fn not_replayed(name: &str) -> Option<&'static str> {
    match name {
        "big_message_70MB" | "infer_vision_raw" | "infer_vision_typed" => {
            Some("the message was too large to be recorded")
        }
        "err_deadline_tiny" => Some("about what the client does"),
        _ => None,
    }
}

/// Why an exchange has another answer here; `None` if it has not.
pub(crate) fn chosen(name: &str) -> Option<&'static str> {
    Some(match name {
        "err_batch0_with_data" => "an empty batch is refused before it is queued",
        "reflection" => "reflection is served",
        "garbage_proto" => "other words for a message that is none",
        "infer_bytes_typed" => "a text that is not UTF-8 is an error",
        "model_config_embed_text" | "model_metadata_embed_text" => {
            "the embedding's size is known, and is stated"
        }
        "shm_infer_out_beyond" | "shm_infer_out_offset_beyond" => {
            "an output beyond its region is an error, as over HTTP; Triton writes past its end"
        }
        _ => return None,
    })
}
