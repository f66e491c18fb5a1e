//! Whether two responses say the same.

use std::io::Read;

use flate2::read::{GzDecoder, ZlibDecoder};
use serde_json::Value;

use crate::common::client::Response;
use crate::differences;
use crate::recording::{Exchange, Outcome};

pub(crate) fn compare(exchange: &Exchange, outcome: &Outcome) -> Result<(), String> {
    for (recorded, ours) in exchange.responses.iter().zip(&outcome.responses) {
        match (recorded, ours) {
            (Err(_), Err(_)) => {}
            (Ok(recorded), Ok(ours)) => compare_response(exchange, recorded, ours)?,
            (Ok(recorded), Err(error)) => return Err(format!("Triton {}, we {error}", recorded.status)),
            (Err(_), Ok(ours)) => return Err(format!("Triton nothing, we {}: {}", ours.status, ours.text())),
        }
    }
    if exchange.closed && !outcome.closed {
        return Err("Triton closes the connection, we do not".to_owned());
    }
    Ok(())
}

fn compare_response(exchange: &Exchange, recorded: &Response, ours: &Response) -> Result<(), String> {
    let line = |response: &Response| format!("{} {}", response.status, response.reason);
    if line(recorded) != line(ours) {
        return Err(format!("status: Triton {}, we {} {}", line(recorded), line(ours), clip(&ours.text())));
    }
    let encoding = recorded.header("content-encoding").map(str::to_owned);
    let numbers = recorded.header("content-type") == Some("application/json") && recorded.status == 200;
    let text = recorded.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; charset"));
    // A compressor, a writer of numbers and a set of metrics are free in the length of what they write.
    let length_is_free = encoding.is_some() || numbers || text;
    let headers = |response: &Response| -> Vec<(String, String)> {
        let ours_alone = |name: &str| name.to_ascii_lowercase().starts_with("x-siglip-");
        let kept = response.headers.iter().filter(|(name, _)| !ours_alone(name)).cloned();
        let mut kept: Vec<_> = kept
            .map(|(name, value)| match name.as_str() {
                "Content-Length" if length_is_free => (name, String::new()),
                _ => (name, value),
            })
            .collect();
        // The order of headers of different names means nothing.
        kept.sort();
        kept
    };
    if headers(recorded) != headers(ours) {
        return Err(format!("headers: Triton {:?}, we {:?}", headers(recorded), headers(ours)));
    }
    let (theirs, ours_body) = (decode(&encoding, &recorded.body), decode(&encoding, &ours.body));
    let header_length =
        recorded.header("inference-header-content-length").map(|length| length.parse().unwrap());
    match header_length {
        Some(length) => {
            let (theirs, their_data): (&[u8], &[u8]) = theirs.split_at(length);
            let (ours, our_data) = ours_body.split_at(length);
            compare_bodies(exchange, theirs, ours)?;
            if their_data == our_data { Ok(()) } else { Err("the binary data differ".to_owned()) }
        }
        None => compare_bodies(exchange, &theirs, &ours_body),
    }
}

fn compare_bodies(exchange: &Exchange, theirs: &[u8], ours: &[u8]) -> Result<(), String> {
    if theirs == ours {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if exchange.group == "metrics" {
        return compare_metrics(&text(theirs), &text(ours));
    }
    let (Ok(mut theirs_json), Ok(mut ours_json)) = (parse(theirs), parse(ours)) else {
        return Err(format!("body: Triton {}, we {}", clip(&text(theirs)), clip(&text(ours))));
    };
    differences::align_fields(&theirs_json, &mut ours_json);
    for json in [&mut theirs_json, &mut ours_json] {
        normalise(json);
    }
    if theirs_json == ours_json {
        return Ok(());
    }
    Err(format!("body: Triton {}, we {}", clip(&theirs_json.to_string()), clip(&ours_json.to_string())))
}

fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(bytes)
}

/// Numbers become what a client makes of them, single precision; times become 0.
fn normalise(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            *value = Value::from(number.as_f64().unwrap() as f32);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                match name.as_str() {
                    "ns" => *member = Value::from(0),
                    "last_inference" if *member != 0 => *member = Value::from(1),
                    _ => normalise(member),
                }
            }
        }
        _ => {}
    }
}

/// Every `nv_inference_` series of Triton's must be there, with the same help, type and labels.
fn compare_metrics(theirs: &str, ours: &str) -> Result<(), String> {
    let lines = |text: &str| -> Vec<String> {
        let ours = |line: &&str| line.contains("nv_inference_") && !differences::is_additional_metric(line);
        let without_value = |line: &str| match line.rsplit_once("} ") {
            Some((series, _)) => series.to_owned(),
            None => line.to_owned(),
        };
        let mut lines: Vec<String> = text.lines().filter(ours).map(without_value).collect();
        lines.sort();
        lines
    };
    let (theirs, ours) = (lines(theirs), lines(ours));
    if theirs == ours {
        return Ok(());
    }
    let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
    let additional: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
    Err(format!("metrics: missing {missing:?}, additional {additional:?}"))
}

fn decode(encoding: &Option<String>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match encoding.as_deref() {
        None => out.extend_from_slice(body),
        Some("gzip") => drop(GzDecoder::new(body).read_to_end(&mut out).unwrap()),
        Some("deflate") => drop(ZlibDecoder::new(body).read_to_end(&mut out).unwrap()),
        Some(other) => panic!("Content-Encoding: {other}"),
    }
    out
}

fn clip(text: &str) -> String {
    text.chars().take(600).collect()
}
