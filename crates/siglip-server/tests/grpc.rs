//! Replays gRPC exchanges that were recorded with a real Triton, message by message, and compares every code, every
//! word and every field.

#[path = "grpc/chosen.rs"]
mod chosen;
#[path = "grpc/raw.rs"]
mod raw;
#[path = "exchanges/recording.rs"]
#[allow(dead_code, reason = "the HTTP test uses the rest of it")]
mod recording;
#[path = "exchanges/setup.rs"]
#[allow(dead_code, reason = "the HTTP test uses the rest of it")]
mod setup;

mod common;

use std::collections::BTreeMap;
use std::io::Read;

use common::client::Client;
use common::engines::{recorded_embed_text, recorded_model};
use common::{TestServer, options};
use flate2::read::GzDecoder;
use raw::RawClient;
use serde_json::Value;
use siglip_protocol::grpc::inference::infer_parameter::ParameterChoice;
use siglip_protocol::grpc::inference::model_infer_request::InferInputTensor;
use siglip_protocol::grpc::inference::{InferParameter, ModelInferRequest};
use siglip_server::{ModelControl, ServerOptions};

fn recording() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/grpc.jsonl.gz");
    let mut text = String::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the counts are what one wants to see of this test")]
async fn grpc_exchanges() {
    let _objects = setup::Objects::create_for_grpc();
    let explicit = ServerOptions { model_control: ModelControl::Explicit, ..options() };
    let main = TestServer::start(vec![recorded_model()], explicit);
    let embed_text = TestServer::start(vec![recorded_embed_text()], options());
    let (mut agree, mut differ, mut wrong) = (0, 0, Vec::new());
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    let mut client = RawClient::connect(main.grpc).await;
    let mut embed_client = RawClient::connect(embed_text.grpc).await;
    let is_fresh = |line: &Value| line["name"].as_str().unwrap().starts_with("model_stats");
    let (fresh, others): (Vec<_>, Vec<_>) = recording().into_iter().partition(is_fresh);
    for line in fresh.into_iter().chain(others) {
        let name = line["name"].as_str().unwrap().to_owned();
        if let Some(reason) = chosen::not_replayed(&name) {
            *skipped.entry(reason).or_default() += 1;
            continue;
        }
        setup::prepare_grpc(&name, &mut Client::connect(main.http));
        let client = if name.starts_with("infer_bytes") { &mut embed_client } else { &mut client };
        let result = match line.get("requests") {
            Some(requests) => compare_stream(client, &line, requests).await,
            None => compare_unary(client, &line).await,
        };
        match (result, chosen::chosen(&name)) {
            (Ok(()), None) => agree += 1,
            (Err(_), Some(_)) => differ += 1,
            (Ok(()), Some(_)) => wrong.push(format!("{name}: listed as different, but agrees")),
            (Err(difference), None) => wrong.push(format!("{name}: {difference}")),
        }
    }
    println!(
        "{agree} of {} replayed gRPC exchanges agree, {differ} differ on purpose",
        agree + differ + wrong.len()
    );
    for (reason, count) in skipped {
        println!("  {count} not replayed: {reason}");
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

async fn compare_unary(client: &mut RawClient, line: &Value) -> Result<(), String> {
    let rpc = line["rpc"].as_str().unwrap();
    let request = recording::base64(line["request_bytes_b64"].as_str().unwrap());
    let answer = client.unary(rpc, request).await;
    match (line.get("error"), answer) {
        (Some(error), Err(status)) => {
            let recorded = (error["code_num"].as_i64().unwrap(), error["details"].as_str().unwrap());
            let ours = (i64::from(i32::from(status.code())), status.message());
            if recorded == ours { Ok(()) } else { Err(format!("Triton {recorded:?}, we {ours:?}")) }
        }
        (Some(error), Ok(_)) => Err(format!("Triton {error}, we an answer")),
        (None, Err(status)) => Err(format!("Triton an answer, we {status:?}")),
        (None, Ok(ours)) => {
            let recorded = recording::base64(line["response_bytes_b64"].as_str().unwrap());
            raw::compare(rpc, &recorded, &ours, &setup::ADDITIONAL)
        }
    }
}

async fn compare_stream(client: &mut RawClient, line: &Value, requests: &Value) -> Result<(), String> {
    let requests = requests.as_array().unwrap().iter().map(infer_request).collect();
    let ours = client.stream(requests).await.map_err(|status| format!("we {status:?}"))?;
    let recorded = line["responses"].as_array().unwrap();
    if recorded.len() != ours.len() {
        return Err(format!("Triton {} responses, we {}", recorded.len(), ours.len()));
    }
    for (recorded, ours) in recorded.iter().zip(ours) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let response = ours.infer_response.unwrap_or_default();
        let recorded_response = &recorded["infer_response"];
        let last = response
            .parameters
            .get("triton_final_response")
            .is_some_and(|parameter| parameter.parameter_choice == Some(ParameterChoice::BoolParam(true)));
        let contents =
            response.raw_output_contents.iter().map(|contents| contents.to_vec()).collect::<Vec<_>>();
        let recorded_contents = recorded_response["raw_output_contents"].as_array();
        let recorded_contents =
            recorded_contents.into_iter().flatten().map(|contents| recording::base64(&text(contents)));
        let theirs = (
            text(&recorded["error_message"]),
            text(&recorded_response["id"]),
            text(&recorded_response["model_name"]),
            recorded_response["parameters"].get("triton_final_response").is_some(),
            recorded_contents.collect::<Vec<_>>(),
        );
        let ours = (ours.error_message, response.id, response.model_name, last, contents);
        if theirs != ours {
            return Err(format!(
                "Triton {:?}, we {:?}",
                (&theirs.0, &theirs.1, theirs.3),
                (&ours.0, &ours.1, ours.3)
            ));
        }
    }
    Ok(())
}

/// A request out of its recorded JSON form.
fn infer_request(recorded: &Value) -> ModelInferRequest {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let flag = |(name, value): (&String, &Value)| {
        let choice = value["bool_param"].as_bool().map(ParameterChoice::BoolParam);
        (name.clone(), InferParameter { parameter_choice: choice })
    };
    let input = |input: &Value| InferInputTensor {
        name: text(&input["name"]),
        datatype: text(&input["datatype"]),
        shape: list(&input["shape"]).iter().map(|dimension| text(dimension).parse().unwrap()).collect(),
        ..InferInputTensor::default()
    };
    let contents = list(&recorded["raw_input_contents"]);
    ModelInferRequest {
        model_name: text(&recorded["model_name"]),
        id: text(&recorded["id"]),
        parameters: recorded["parameters"].as_object().into_iter().flatten().map(flag).collect(),
        inputs: list(&recorded["inputs"]).iter().map(input).collect(),
        raw_input_contents: contents
            .iter()
            .map(|contents| recording::base64(&text(contents)).into())
            .collect(),
        ..ModelInferRequest::default()
    }
}
