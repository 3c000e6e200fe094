//! Connections and subscriptions that services create and end, on any gateway.

use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_cli::{
    client::{Event, Events, Options, raw::RawClient},
    stack::Stack,
};
use tidegate_shared::protocol::Encoding;

use super::{Doors, code};
use crate::{
    stream_client::StreamClient,
    support::{
        connect, connect_as, event, eventually, fresh, http, kept_toml, publication, quick, start, token, url,
    },
};

async fn closed(events: &mut Events) -> (u16, String) {
    event(events, |event| match event {
        Event::Disconnected(closed) => Some((closed.code, closed.reason)),
        _ => None,
    })
    .await
}

async fn unsubscribed(events: &mut Events) -> (String, u32, String) {
    event(events, |event| match event {
        Event::Unsubscribed { channel, code, reason } => Some((channel, code, reason)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn connections_are_ended_on_whichever_gateway_they_are() {
    let stack = start(quick(&kept_toml(20, "")).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let (first, mut first_events) = connect(&stack, 0, "42").await;
    let (_second, mut second_events) = connect_as(&stack, 1, "42", Encoding::Protobuf).await;
    let (other, mut other_events) = connect(&stack, 0, "43").await;
    let first_id = first.connected().client.clone();
    doors.http("disconnect", json!({"user": "42", "whitelist": [first_id]})).await;
    assert_eq!(closed(&mut second_events).await, (3503, "force disconnect".to_owned()));
    // The connection of another user is not affected.
    doors.http("disconnect", json!({"user": "43", "client": first_id})).await;
    fresh(&first, "chat:a").await;
    let own = json!({"code": 4100, "reason": "moved to another plan"});
    doors.nats("disconnect", json!({"client": first_id, "disconnect": own})).await;
    assert_eq!(closed(&mut first_events).await, (4100, "moved to another plan".to_owned()));
    // A plain message is enough; no reply is needed.
    doors.nats.publish("tide.ctl.disconnect", json!({"user": "43"}).to_string().into()).await.unwrap();
    assert_eq!(closed(&mut other_events).await.0, 3503);
    drop(other);
    for (ask, expected) in [
        (json!({}), 107),
        (json!({"user": "42", "disconnect": {"code": 1000}}), 107),
        (json!({"user": "42", "disconnect": {"code": 3503, "reason": "x".repeat(124)}}), 107),
    ] {
        assert_eq!(code(&doors.http("disconnect", ask.clone()).await), Some(expected), "{ask}");
    }
}

#[tokio::test]
async fn one_connection_that_posts_its_commands_is_known_by_its_session() {
    let stack = start(quick(&kept_toml(20, "")).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let connect_command =
        |user: &str| json!({"id": 1, "connect": {"token": token(&stack, user)}}).to_string();
    let gateway = stack.gateways()[0].public;
    let mut meant = StreamClient::post(gateway, "/connection/http_stream", &connect_command("42")).await;
    let (_other, mut other_events) = connect(&stack, 0, "42").await;
    let connected = meant.message().await.unwrap();
    let session = connected["connect"]["session"].as_str().unwrap();
    doors.http("disconnect", json!({"session": session})).await;
    let end = meant.end().await;
    assert_eq!(end["push"]["disconnect"]["code"], 3503, "{end}");
    doors.http("publish", json!({"channel": "#42", "data": 1})).await;
    assert_eq!(publication(&mut other_events, "#42").await, "1");
}

#[tokio::test]
async fn subscriptions_are_made_and_ended_from_outside() {
    let inbox = "[[namespace]]\nname = 'inbox'\npersonal = true\n";
    let stack = start(quick(&(kept_toml(20, "") + "\n" + inbox)).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let ask = json!({"user": "42", "channel": "kept:a", "data": {"role": "guest"}});
    assert_eq!(doors.http("subscribe", ask).await, json!({"result": {}}));
    eventually("it is subscribed", || async {
        doors.nats("channels", json!({"pattern": "kept:*"})).await["result"]["channels"]["kept:a"].is_object()
    })
    .await;
    doors.http("publish", json!({"channel": "kept:a", "data": 1})).await;
    assert_eq!(publication(&mut events, "kept:a").await, "1");
    for channel in ["#43", "inbox:#43", "inbox:#x,42"] {
        let personal = json!({"user": "42", "channel": channel});
        assert_eq!(code(&doors.http("subscribe", personal.clone()).await), Some(103), "{channel}");
        assert_eq!(code(&doors.http("unsubscribe", personal).await), Some(103), "{channel}");
    }
    doors.nats("unsubscribe", json!({"user": "42", "channel": "kept:a"})).await;
    assert_eq!(unsubscribed(&mut events).await, ("kept:a".to_owned(), 2000, "server unsubscribe".to_owned()));
    fresh(&client, "kept:a").await;
    doors.http("unsubscribe", json!({"user": "42", "channel": "kept:a", "code": 2502})).await;
    assert_eq!(unsubscribed(&mut events).await, ("kept:a".to_owned(), 2502, "state invalidated".to_owned()));
    assert_eq!(code(&doors.http("unsubscribe", json!({"user": "42"})).await), Some(107));
    let odd = json!({"user": "42", "channel": "kept:a", "code": 3000});
    assert_eq!(code(&doors.http("unsubscribe", odd).await), Some(107));
}

#[tokio::test]
async fn the_expiry_and_the_information_of_a_connection_can_be_changed() {
    let stack =
        start(quick(&format!("[auth]\nrefresh_grace = '0s'\n{}", kept_toml(20, ""))).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    fresh(&client, "chat:a").await;
    doors.http("refresh", json!({"user": "42", "info": {"name": "Ann"}})).await;
    client.publish("chat:a", "1").await.unwrap();
    let info = event(&mut events, |event| match event {
        Event::Publication { info, .. } => info,
        _ => None,
    })
    .await;
    assert_eq!(info.conn_info, r#"{"name":"Ann"}"#);
    doors.nats("refresh", json!({"client": client.connected().client, "expire_at": 1})).await;
    assert_eq!(closed(&mut events).await, (3005, "connection expired".to_owned()));
    for (ask, expected) in [(json!({"user": "42", "expired": true}), 3005), (json!({"user": "42"}), 3014)] {
        let (_client, mut events) = connect(&stack, 0, "42").await;
        doors.nats.publish("tide.ctl.refresh", ask.to_string().into()).await.unwrap();
        assert_eq!(closed(&mut events).await.0, expected);
    }
}

#[tokio::test]
async fn an_answer_names_the_gateways_that_did_not_reply() {
    let stack = start(quick(&kept_toml(20, "")).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    eventually("the gateways know each other", || async {
        doors.http("info", json!({})).await["result"]["nodes"].as_array().unwrap().len() == 2
    })
    .await;
    stack.pause("gateway-1").unwrap();
    // A signal takes a moment to stop every thread.
    eventually("its silence is told", || async {
        let answer = doors.http("disconnect", json!({"user": "42"})).await;
        code(&answer) == Some(100) && answer["error"]["temporary"] == true
    })
    .await;
    let channels = doors.http("channels", json!({})).await;
    assert_eq!(code(&channels), Some(100), "half of the channels is no answer: {channels}");
    let known = doors.http("info", json!({})).await["result"]["nodes"].as_array().unwrap().len();
    assert_eq!(known, 1, "who is missing is seen");
    stack.resume("gateway-1").unwrap();
    eventually("asking again helps", || async {
        doors.http("disconnect", json!({"user": "42"})).await == json!({"result": {}})
    })
    .await;
}

/// Leases longer than any test.
const LONG_LEASES: &str = "[presence]\nlease = '2m'\n";

async fn all_are_known(doors: &Doors, gateways: usize) {
    eventually("the gateways know each other", || async {
        doors.http("info", json!({})).await["result"]["nodes"].as_array().unwrap().len() == gateways
    })
    .await;
}

async fn metrics(stack: &Stack, gateway: usize) -> String {
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    http(stack.gateways()[gateway].internal, request).await.1
}

/// Sends commands that match no connection, and returns how long they took.
async fn orders(doors: &Doors, count: usize) -> Duration {
    let began = Instant::now();
    for _ in 0..count {
        assert_eq!(doors.http("disconnect", json!({"user": "nobody"})).await, json!({"result": {}}));
    }
    began.elapsed()
}

#[tokio::test]
async fn a_killed_gateway_fails_no_command_and_delays_one_at_most() {
    let stack = start(quick(&format!("{LONG_LEASES}{}", kept_toml(20, ""))).gateways(3)).await;
    let doors = Doors::of(&stack).await;
    all_are_known(&doors, 3).await;
    let (_client, mut events) = connect(&stack, 1, "42").await;
    stack.hold("gateway-1").await.unwrap();
    let began = Instant::now();
    assert_eq!(doors.http("disconnect", json!({"user": "42"})).await, json!({"result": {}}));
    let first = began.elapsed();
    assert_eq!(closed(&mut events).await.0, 3503);
    let further = orders(&doors, 20).await;
    println!("the first order took {first:?}, 20 further ones {further:?}");
    assert!(further < Duration::from_secs(7), "{further:?}");
    assert!(metrics(&stack, 2).await.contains("presence_gateways 3"), "its lease still lives");
    // A replacement gateway receives commands.
    stack.start_process("gateway-1").await.unwrap();
    all_are_known(&doors, 3).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    assert_eq!(doors.http("disconnect", json!({"user": "42"})).await, json!({"result": {}}));
    assert_eq!(closed(&mut events).await.0, 3503);
}

#[tokio::test]
async fn a_gateway_that_drains_delays_and_fails_no_command() {
    let stack = start(quick(&format!("{LONG_LEASES}{}", kept_toml(20, ""))).gateways(3)).await;
    let doors = Doors::of(&stack).await;
    all_are_known(&doors, 3).await;
    let (stopped, ()) = tokio::join!(stack.stop("gateway-1"), async {
        orders(&doors, 20).await;
    });
    assert!(stopped.unwrap().success());
    let further = orders(&doors, 20).await;
    assert!(further < Duration::from_secs(7), "{further:?}");
    eventually("its lease has ended with it", || async {
        metrics(&stack, 2).await.contains("presence_gateways 2")
    })
    .await;
}

#[tokio::test]
async fn an_answered_command_has_run_on_every_gateway_even_right_after_a_broker_outage() {
    let stack = start(quick(&format!("{LONG_LEASES}{}", kept_toml(20, ""))).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    all_are_known(&doors, 2).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    stack.hold("nats").await.unwrap();
    stack.start_process("nats").await.unwrap();
    eventually("it is answered", || async {
        doors.http("disconnect", json!({"user": "42"})).await == json!({"result": {}})
    })
    .await;
    assert_eq!(closed(&mut events).await.0, 3503);
}

#[tokio::test]
async fn a_command_for_a_user_reaches_a_connection_that_is_being_set_up() {
    let toml = "[[namespace]]\nname = 'news'\nautomatic = ['all']\n";
    let stack = start(quick(toml).gateways(1)).await;
    let doors = Doors::of(&stack).await;
    // Without an answer of the broker no channel is ready.
    stack.pause("nats").unwrap();
    let mut raw = RawClient::open(&Options::new(url(&stack, 0))).await.unwrap();
    let connect = json!({"id": 1, "connect": {"token": token(&stack, "42")}});
    raw.send_text(&connect.to_string()).await.unwrap();
    eventually("it is told to go", || async {
        doors.http("disconnect", json!({"user": "42"})).await;
        metrics(&stack, 0).await.contains(r#"disconnects_total{code="3503"} 1"#)
    })
    .await;
    stack.resume("nats").unwrap();
}
