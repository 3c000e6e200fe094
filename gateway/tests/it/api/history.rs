//! Reading and removing the history of channels.

use async_nats::jetstream;
use serde_json::json;

use super::{Doors, code};
use crate::support::{
    admin, connect, eventually, fresh, kept_toml, nothing_panicked, publication, quick, resume, start,
};

#[tokio::test]
async fn history_can_be_read_and_removed() {
    let stack = start(quick(&kept_toml(20, "")).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let begun = fresh(&client, "kept:a").await;
    // Older than all publications that are removed, so the stream still reaches back before it.
    doors.http("publish", json!({"channel": "kept:other", "data": 0})).await;
    let mut offsets = Vec::new();
    for n in 1..=3 {
        let stored = doors.http("publish", json!({"channel": "kept:a", "data": n})).await;
        offsets.push(stored["result"]["offset"].as_u64().unwrap());
        assert_eq!(publication(&mut events, "kept:a").await, n.to_string());
    }
    let page = doors.nats("history", json!({"channel": "kept:a", "limit": 2})).await;
    let data: Vec<_> =
        page["result"]["publications"].as_array().unwrap().iter().map(|p| &p["data"]).collect();
    assert_eq!(data, [1, 2]);
    assert_eq!(page["result"]["offset"], offsets[2]);
    let newest = doors.http("history", json!({"channel": "kept:a", "limit": 1, "reverse": true})).await;
    assert_eq!(newest["result"]["publications"][0]["data"], 3);
    let foreign = json!({"channel": "kept:a", "limit": 1, "since": {"offset": 1, "epoch": "another"}});
    assert_eq!(code(&doors.http("history", foreign).await), Some(112));
    assert_eq!(code(&doors.http("history", json!({"channel": "chat:a", "limit": 1})).await), Some(108));
    assert_eq!(code(&doors.http("history_remove", json!({"channel": "chat:a"})).await), Some(108));

    // A client has just recovered, so the publications to be removed are in the gateway's memory.
    let (resumed, _events) = connect(&stack, 0, "43").await;
    assert!(resume(&resumed, "kept:a", offsets[0], &begun.epoch).await.recovered);
    assert_eq!(doors.http("history_remove", json!({"channel": "kept:a"})).await, json!({"result": {}}));
    let page = doors.nats("history", json!({"channel": "kept:a", "limit": -1})).await;
    assert_eq!(page["result"]["publications"], json!([]));
    for gateway in [0, 1] {
        for offset in [0, offsets[0], offsets[2]] {
            let (back, _events) = connect(&stack, gateway, "44").await;
            let result = resume(&back, "kept:a", offset, &begun.epoch).await;
            assert!(!result.recovered && result.was_recovering, "{gateway} {offset}: {result:?}");
            assert!(result.publications.is_empty() && result.offset > offsets[2]);
        }
    }
    let (late, mut late_events) = connect(&stack, 1, "45").await;
    let position = fresh(&late, "kept:a").await;
    doors.http("publish", json!({"channel": "kept:a", "data": 4})).await;
    assert_eq!(publication(&mut events, "kept:a").await, "4", "who was there stays there");
    assert_eq!(publication(&mut late_events, "kept:a").await, "4");
    let (back, _events) = connect(&stack, 0, "46").await;
    let result = resume(&back, "kept:a", position.offset, &begun.epoch).await;
    assert!(result.recovered && result.publications.len() == 1, "from behind the removal: {result:?}");
    let page = doors.nats("history", json!({"channel": "kept:a", "limit": -1})).await;
    assert_eq!(page["result"]["publications"].as_array().unwrap().len(), 1);
    nothing_panicked(&stack);
}

#[tokio::test]
async fn removing_history_needs_its_own_nats_permission() {
    let stack = start(quick(&kept_toml(20, "")).gateways(1)).await;
    let doors = Doors::of(&stack).await;
    doors.http("publish", json!({"channel": "kept:a", "data": 1})).await;
    let ask = json!({"channel": "kept:a"}).to_string();
    doors.nats.publish("tide.ctl.history_remove", ask.into()).await.unwrap();
    eventually("the broker says so", || async { stack.log_of("nats").contains("tide.ctl.history_remove") })
        .await;
    // Nor through a method that the service may call.
    let batch = json!({"commands": [{"history_remove": {"channel": "kept:a"}}, {"info": {}}]});
    let answer = doors.nats("batch", batch.clone()).await;
    assert_eq!(code(&answer["replies"][0]), Some(103), "{answer}");
    assert!(answer["replies"][1]["info"]["nodes"].is_array());
    let page = doors.nats("history", json!({"channel": "kept:a", "limit": -1})).await;
    assert_eq!(page["result"]["publications"].as_array().unwrap().len(), 1);
    assert_eq!(doors.http("batch", batch).await["replies"][0], json!({"history_remove": {}}));
}

#[tokio::test]
async fn a_removed_history_leaves_nothing_behind_and_no_client_recovers_across_it() {
    let kept = kept_toml(20, "history_ttl = '1s'");
    let stack = start(quick(&kept).gateways(1)).await;
    let doors = Doors::of(&stack).await;
    let setup = jetstream::new(admin(&stack).await);
    let copies = setup.get_stream("TIDE_LAST_kept").await.unwrap();
    let copy = async || copies.get_last_raw_message_by_subject("tide.ch.kept.a").await.ok();
    let stored = doors.http("publish", json!({"channel": "kept:a", "data": "secret"})).await;
    let offset = stored["result"]["offset"].as_u64().unwrap();
    eventually("it is copied", || async { copy().await.is_some() }).await;
    doors.http("history_remove", json!({"channel": "kept:a"})).await;
    eventually("the copy has no content", || async { copy().await.is_some_and(|c| c.payload.is_empty()) })
        .await;
    doors.http("publish", json!({"channel": "kept:other", "data": 0})).await;
    let channels = setup.get_stream("TIDE_CH_kept").await.unwrap();
    eventually("all expires", || async { channels.get_info().await.unwrap().state.messages == 0 }).await;
    let (back, _events) = connect(&stack, 0, "42").await;
    let result = resume(&back, "kept:a", offset, "").await;
    assert!(!result.recovered, "{result:?}");
}
