//! What had happened on the recorded server before an exchange that depends on it.

use std::path::PathBuf;

use crate::common::client::Client;
use crate::recording::Exchange;

/// Endpoints of ours that the recorded server did not have.
pub(crate) const ADDITIONAL: [&str; 5] = [
    "siglip_text_model",
    "siglip_text_tokenize",
    "siglip_vision_model",
    "siglip_vision_process",
    "embed_image",
];

/// The shared-memory objects that the recorded clients had made.
pub(crate) struct Objects(Vec<PathBuf>);

impl Objects {
    pub(crate) fn create() -> Self {
        let ids = |range: std::ops::Range<i64>| range.flat_map(i64::to_le_bytes).collect::<Vec<u8>>();
        let objects = [
            ("labtriton_shm_17293", ids(0..64)),
            ("labtriton_in_18610", ids(0..64)),
            ("labtriton_t_18610", vec![0; 64]),
            // 64 ids from 5 on at byte 256.
            ("labtriton_big_18610", [vec![0; 256], ids(5..69), vec![0; 256]].concat()),
            ("labtriton_in_21222", ids(0..64)),
            ("labtriton_out_21222", vec![0; 8192]),
        ];
        Objects::write(objects)
    }

    /// Those of the recorded gRPC client.
    pub(crate) fn create_for_grpc() -> Self {
        let ids = (0..64).flat_map(i64::to_le_bytes).collect();
        Objects::write([("labtriton_in_20337", ids), ("labtriton_out_20337", vec![0; 8192 + 4608])])
    }

    fn write<const N: usize>(objects: [(&str, Vec<u8>); N]) -> Self {
        let create = |(name, bytes): (&str, Vec<u8>)| {
            let path = PathBuf::from("/dev/shm").join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        Objects(objects.into_iter().map(create).collect())
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Brings the server into the state in which the recorded one was.
pub(crate) fn prepare(exchange: &Exchange, client: &mut Client) {
    let name = exchange.name.as_str();
    match exchange.group.as_str() {
        "shm" => {
            client.post("/v2/systemsharedmemory/unregister", "", b"");
            for (region, key, size) in regions(name) {
                let body = format!(r#"{{"key":"/{key}","byte_size":{size}}}"#);
                let path = format!("/v2/systemsharedmemory/region/{region}/register");
                assert_eq!(client.post(&path, "", body.as_bytes()).status, 200);
            }
        }
        "repository" => set_loaded(client, &exchange.name),
        "logging" => {
            let (info, level, format) = match name {
                "logging_get" | "logging_post_empty_object" => (true, 1, "ISO8601"),
                "logging_post_unknown" => (false, 0, "default"),
                _ => (true, 0, "ISO8601"),
            };
            let body =
                format!(r#"{{"log_info":{info},"log_verbose_level":{level},"log_format":"{format}"}}"#);
            assert_eq!(client.post("/v2/logging", "", body.as_bytes()).status, 200);
        }
        "trace" => {
            let rate = if name.starts_with("trace_get") { "null" } else { "\"500\"" };
            let body = format!(r#"{{"trace_rate":{rate}}}"#);
            assert_eq!(client.post("/v2/trace/setting", "", body.as_bytes()).status, 200);
        }
        _ => {}
    }
}

/// Loads or unloads `siglip_vision`, as an exchange needs it.
pub(crate) fn set_loaded(client: &mut Client, exchange: &str) {
    let unloaded = exchange.starts_with("unloaded")
        || exchange.contains("one_unloaded")
        || ["unload_already_unloaded", "unload_again", "repo_index_after_unload_params_unknown"]
            .contains(&exchange);
    let action = if unloaded { "unload" } else { "load" };
    let mut control = |model: &str, action: &str| {
        let path = format!("/v2/repository/models/{model}/{action}");
        assert_eq!(client.post(&path, "", b"").status, 200);
    };
    // Statistics begin anew.
    if exchange.contains("stats") {
        for model in ["siglip_text", "embed_text", "siglip_vision"] {
            control(model, "unload");
            control(model, "load");
        }
    }
    control("siglip_vision", action);
}

/// The regions that were registered: name, key, size.
fn regions(name: &str) -> &'static [(&'static str, &'static str, usize)] {
    const FIRST: &[(&str, &str, usize)] = &[("in1", "labtriton_shm_17293", 512)];
    const BOTH: &[(&str, &str, usize)] =
        &[("in1", "labtriton_in_21222", 512), ("out1", "labtriton_out_21222", 8192)];
    const BIG: &[(&str, &str, usize)] = &[("big", "labtriton_big_18610", 1024)];
    const TWO: &[(&str, &str, usize)] =
        &[("big", "labtriton_big_18610", 1024), ("in1", "labtriton_in_18610", 512)];
    match name {
        "shm_register_dup" | "shm_region_status" => FIRST,
        "shm2_status_two" => BIG,
        "shm2_status_three" => TWO,
        "shm3_status" => BOTH,
        _ if name.starts_with("shm_infer") => FIRST,
        _ if name.starts_with("shm2_infer") => TWO,
        _ if name.starts_with("shm3_infer") => BOTH,
        _ => &[],
    }
}

/// The same before an exchange over gRPC; regions and settings are the same ones over HTTP.
pub(crate) fn prepare_grpc(name: &str, client: &mut Client) {
    if name.starts_with("shm") {
        client.post("/v2/systemsharedmemory/unregister", "", b"");
        let registered = |region: &str, offset: usize, size: usize, client: &mut Client| {
            let key = if region == "in1" { "in" } else { "out" };
            let body = format!(r#"{{"key":"/labtriton_{key}_20337","offset":{offset},"byte_size":{size}}}"#);
            let path = format!("/v2/systemsharedmemory/region/{region}/register");
            assert_eq!(client.post(&path, "", body.as_bytes()).status, 200);
        };
        if name.starts_with("shm_infer") || name == "shm_register_dup" {
            registered("in1", 0, 512, client);
        }
        if name.starts_with("shm_infer_out")
            || ["shm_infer_in_out", "shm_status_one", "shm_register_no_name"].contains(&name)
        {
            registered("out1", 4096, 4608, client);
        }
    }
    set_loaded(client, name);
    if name.starts_with("log") {
        let level = u32::from(name == "log_restore");
        let body = format!(r#"{{"log_info":true,"log_verbose_level":{level},"log_format":"ISO8601"}}"#);
        assert_eq!(client.post("/v2/logging", "", body.as_bytes()).status, 200);
    }
    if name.starts_with("trace") {
        let rate = if name == "trace_set_level_bad" { "\"500\"" } else { "null" };
        let body = format!(r#"{{"trace_rate":{rate}}}"#);
        assert_eq!(client.post("/v2/trace/setting", "", body.as_bytes()).status, 200);
    }
}
