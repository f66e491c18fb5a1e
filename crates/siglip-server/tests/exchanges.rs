//! Replays exchanges that were recorded with a real Triton, and compares every status, header and body.
//!
//! Where this server differs on purpose, [`differences`] says why; any other difference fails the test, and so does a
//! listed one that is none any more.

#[path = "exchanges/compare.rs"]
mod compare;
#[path = "exchanges/differences.rs"]
mod differences;
#[path = "exchanges/recording.rs"]
mod recording;
#[path = "exchanges/setup.rs"]
#[allow(dead_code, reason = "the gRPC test uses the rest of it")]
mod setup;

mod common;

use std::collections::BTreeMap;

use common::client::Client;
use common::engines::{recorded_embed_text, recorded_model};
use common::{TestServer, options};
use recording::{Exchange, Outcome};
use siglip_server::{ModelControl, ServerOptions};

#[test]
#[expect(clippy::print_stdout, reason = "the counts are what one wants to see of this test")]
fn http_exchanges() {
    let explicit = ServerOptions { model_control: ModelControl::Explicit, ..options() };
    let main = TestServer::start(vec![recorded_model()], explicit);
    let embed_text = TestServer::start(vec![recorded_embed_text()], options());
    let _objects = setup::Objects::create();
    let mut agree = 0;
    let mut chosen = Vec::new();
    let mut wrong = Vec::new();
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    // Statistics of a server that has done nothing are asked for first.
    let (fresh, others): (Vec<_>, Vec<_>) = recording::read().into_iter().partition(|exchange| {
        exchange.name.contains("stats_fresh") || exchange.name.contains("stats_all_fresh")
    });
    for exchange in fresh.into_iter().chain(others) {
        if let Some(reason) = differences::not_replayed(&exchange) {
            *skipped.entry(reason).or_default() += 1;
            continue;
        }
        let addr = match () {
            () if exchange.group == "metrics" => main.metrics,
            () if exchange.asks_embed_text_to_infer() => embed_text.http,
            () => main.http,
        };
        setup::prepare(&exchange, &mut Client::connect(main.http));
        let outcome = exchange.replay(Client::connect(addr));
        let result = compare::compare(&exchange, &outcome);
        match (result, differences::chosen(&exchange.name)) {
            (Ok(()), None) => agree += 1,
            (Err(_), Some(_)) => chosen.push(exchange.name),
            (Ok(()), Some(_)) => wrong.push(format!("{}: listed as different, but agrees", exchange.name)),
            (Err(difference), None) => wrong.push(format!("{}: {difference}", exchange.name)),
        }
    }
    let replayed = agree + chosen.len() + wrong.len();
    println!("{agree} of {replayed} replayed exchanges agree, {} differ on purpose", chosen.len());
    for (reason, count) in skipped {
        println!("  {count} not replayed: {reason}");
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// The recorded server's statistics after the same requests: which counters count what.
#[test]
fn statistics_count_as_triton_counts() {
    let server = TestServer::start(vec![recorded_model()], options());
    let mut client = Client::connect(server.http);
    let exchanges: BTreeMap<String, Exchange> =
        recording::read().into_iter().map(|exchange| (exchange.name.clone(), exchange)).collect();
    for name in ["series_1_single", "series_2_single", "infer_nested_data_batch2_as_8x16", "series_4_batch32"]
    {
        let outcome = exchanges[name].replay(Client::connect(server.http));
        assert!(matches!(&outcome.responses[..], [Ok(response)] if response.status == 200));
    }
    for name in ["series_5_bad_shape", "series_6_bad_output"] {
        exchanges[name].replay(Client::connect(server.http));
    }
    let outcome = Outcome { responses: vec![Ok(client.get("/v2/models/siglip_text/stats"))], closed: false };
    compare::compare(&exchanges["series_8_stats"], &outcome).unwrap();
}
