//! Requests: stored, handled and answered, and the replies to callers when that takes long.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_cli::{
    client::{CallError, Event},
    stack::Stack,
};
use tidegate_shared::protocol::{Encoding, HistoryRequest};

use crate::support::{
    TOML, connect, connect_as, count, event, get, history, kept_toml, nothing_panicked, quick, raw_connected,
    settled, start,
};

#[tokio::test]
async fn a_request_is_stored_handled_and_answered() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let (client, _events) = connect_as(&stack, 0, "42", encoding).await;
        assert_eq!(client.rpc("echo", r#"{"n":1}"#).await.unwrap(), r#"{"n":1}"#);
        assert_eq!(
            client.rpc("echo", "").await.unwrap(),
            if encoding == Encoding::Json { "null" } else { "" }
        );
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn commands_of_one_frame_are_answered_together() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let mut client = raw_connected(&stack).await;
    let batch: Vec<String> =
        (2..52).map(|id| format!(r#"{{"id":{id},"rpc":{{"method":"echo","data":{id}}}}}"#)).collect();
    client.send_text(&batch.join("\n")).await.unwrap();
    let mut answered = Vec::new();
    while answered.len() < 50 {
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.rpc.unwrap().data, reply.id.to_string());
        answered.push(reply.id);
    }
    answered.sort_unstable();
    assert!(answered.iter().copied().eq(2..52));
}

#[tokio::test]
async fn a_later_request_gets_a_receipt_and_its_answer_on_the_personal_channel() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let receipt: Value = serde_json::from_slice(&client.rpc("later.echo", "\"x\"").await.unwrap()).unwrap();
    assert!(receipt["seq"].as_u64().unwrap() > 0 && receipt["duplicate"] == false);
    let (data, tags) = event(&mut events, |event| match event {
        Event::Publication { channel, data, tags, .. } if channel == "#42" => Some((data, tags)),
        _ => None,
    })
    .await;
    assert_eq!(data, "\"x\"");
    assert_eq!(tags["re"], receipt["id"].as_str().unwrap());
    assert_eq!(tags["status"], "ok");
    let again: Value = serde_json::from_slice(&client.rpc("later.echo", "\"y\"").await.unwrap()).unwrap();
    assert_ne!(again["id"], receipt["id"]);
    crate::support::publication(&mut events, "#42").await;
    assert_eq!(events.try_next(), None, "each answer comes once");
}

#[tokio::test]
async fn a_request_without_a_worker_is_accepted_and_answered_late() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    stack.stop("worker-1").await.unwrap();
    let (client, mut events) = connect(&stack, 0, "42").await;
    let error = client.rpc("echo", "\"late\"").await.unwrap_err();
    let CallError::Server { code: 1001, message, temporary: false } = error else { panic!("{error:?}") };
    stack.start_process("worker-1").await.unwrap();
    let (data, tags) = event(&mut events, |event| match event {
        Event::Publication { channel, data, tags, .. } if channel == "#42" => Some((data, tags)),
        _ => None,
    })
    .await;
    assert_eq!(data, "\"late\"");
    assert!(message.contains(&tags["re"]), "{message} names the request");
}

#[tokio::test]
async fn a_stopped_worker_loses_no_request() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    stack.stop("worker-1").await.unwrap();
    let (client, mut events) = connect(&stack, 0, "42").await;
    let accepted = Instant::now();
    let receipt = client.rpc("later.echo", "1").await.unwrap();
    assert!(
        accepted.elapsed() < Duration::from_secs(1),
        "accepting does not wait for workers: {:?}",
        accepted.elapsed()
    );
    let error = client.rpc("echo#a", "\"first\"").await.unwrap_err();
    assert!(matches!(&error, CallError::Server { code: 1001, temporary: true, .. }), "{error:?}");
    let other = client.rpc("echo#a", "\"other body\"");
    stack.start_process("worker-1").await.unwrap();
    let id = serde_json::from_slice::<Value>(&receipt).unwrap()["id"].as_str().unwrap().to_owned();
    event(&mut events, |event| {
        matches!(event, Event::Publication { tags, .. } if tags.get("re") == Some(&id)).then_some(())
    })
    .await;
    assert_eq!(other.await.unwrap_err().code(), Some(1003));
    assert_eq!(client.rpc("echo#a", "\"first\"").await.unwrap(), "\"first\"");
    assert_eq!(client.rpc("echo#a", "\"other\"").await.unwrap_err().code(), Some(1003));
}

#[tokio::test]
async fn a_send_is_stored_and_handled_without_a_reply() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    client.send("\"noted\"").await.unwrap();
    settled(&stack, "send").await;
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
    assert_eq!(events.try_next(), None, "it is answered to nobody");
    assert_eq!(count(&stack, "TIDE_REPLY").await, 0, "no plain answer is stored");
}

#[tokio::test]
async fn a_full_route_refuses_requests_with_error_1000_and_leaves_the_others_open() {
    let small = "[[route]]\nname = 'small'\nmatch = 'rpc.small'\nmax_bytes = '16 KiB'\n";
    let stack = start(quick(small).gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let body = format!("\"{}\"", "x".repeat(4000));
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(client.rpc("small", body.clone()).await.unwrap_err().code().unwrap());
    }
    assert_eq!(codes.first(), Some(&1001));
    assert_eq!(codes.last(), Some(&1000));
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_publish_beyond_the_limit_of_the_gateway_is_refused_at_once_and_the_others_keep_their_order() {
    let limits = "[gateway]\nanswer_timeout = '20s'\n[gateway.drain]\nsettle = '20s'\n\
                  [gateway.limits]\nmax_in_flight_total = 1\nmax_in_flight = 64\n";
    let toml = format!("{limits}{}{TOML}", kept_toml(100, ""));
    let stack = start(Stack::builder().config(&toml).gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let started = Instant::now();
    let calls = (0..60).map(|n: u32| {
        let client = client.clone();
        async move { client.publish("kept:a", n.to_string()).await }
    });
    let results = futures_util::future::join_all(calls).await;
    assert!(started.elapsed() < Duration::from_secs(10), "none waits for its deadline of 20 s");
    let stored: Vec<_> = (0..60).filter(|n| results[*n].is_ok()).map(|n| n.to_string()).collect();
    assert!((1..60).contains(&stored.len()), "{}", stored.len());
    for result in results.into_iter().filter_map(Result::err) {
        assert!(matches!(result, CallError::Server { code: 1000, temporary: true, .. }), "{result:?}");
    }
    let request = HistoryRequest { channel: "kept:a".into(), limit: -1, ..HistoryRequest::default() };
    let page = history(&client, request).await.unwrap();
    let read: Vec<_> = page.publications.iter().map(|p| String::from_utf8_lossy(&p.data)).collect();
    assert_eq!(read, stored, "in the order in which they were sent");
}

#[tokio::test]
async fn the_answer_to_a_message_that_nobody_waits_for_is_not_a_late_one() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    client.send("\"one way\"").await.unwrap();
    settled(&stack, "send").await;
    // Its answer would have come before this one, on the same subscription.
    client.rpc("echo", "1").await.unwrap();
    let page = get(&stack, "/metrics").await.1;
    assert!(page.contains("tidegate_gateway_late_answers_total 0"), "{page}");
}
