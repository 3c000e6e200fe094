//! The server API: the same over HTTP and over NATS, and on every gateway.

use std::{collections::BTreeSet, future::ready, net::SocketAddr, time::Duration};

use async_nats::jetstream;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tidegate_cli::{client::Event, stack::Stack};
use tokio::time::timeout;

use self::document::Document;
use crate::support::{
    admin, connect, event, eventually, fresh, get, http, kept_toml, nothing_panicked, publication, quick,
    service, start,
};

mod control;
mod document;
mod enqueue;
mod history;
mod job;
mod schedule;
mod schedule_faults;

const KEY: &str = "dev-api-key";

/// The server API of a stack over HTTP and NATS. Every answer is checked against the `OpenAPI` document.
struct Doors {
    document: Document,
    gateways: Vec<SocketAddr>,
    nats: async_nats::Client,
}

impl Doors {
    async fn of(stack: &Stack) -> Self {
        let (status, page) = get(stack, "/api/openapi.json").await;
        assert_eq!(status, 200);
        let gateways = stack.gateways().iter().map(|gateway| gateway.internal).collect();
        Self { document: Document::read(&page), gateways, nats: service(stack).await }
    }

    /// Sends a request over HTTP, to another gateway than the one of the tests' clients if there is one.
    async fn http(&self, method: &str, ask: Value) -> Value {
        let address = *self.gateways.last().unwrap();
        let (status, body) = post(address, method, Some(KEY), &ask.to_string()).await;
        assert_eq!(status, 200, "{method}: {body}");
        self.checked(method, body.as_bytes())
    }

    async fn nats(&self, method: &str, ask: Value) -> Value {
        let subject = format!("tide.ctl.{method}");
        let answer = self.nats.request(subject, ask.to_string().into()).await.unwrap();
        self.checked(method, &answer.payload)
    }

    fn checked(&self, method: &str, answer: &[u8]) -> Value {
        let answer: Value = serde_json::from_slice(answer).unwrap();
        self.document.check(method, &answer);
        answer
    }
}

async fn post(address: SocketAddr, method: &str, key: Option<&str>, body: &str) -> (u16, String) {
    let key = key.map(|key| format!("x-api-key: {key}\r\n")).unwrap_or_default();
    let head = format!("POST /api/{method} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{key}");
    http(address, &format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await
}

fn code(answer: &Value) -> Option<u64> {
    answer["error"]["code"].as_u64()
}

#[tokio::test]
async fn a_request_whose_reply_subject_is_no_inbox_is_not_carried_out() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let id = tidegate_shared::id::RequestId::keyed("42", "echo", "a-key");
    let place = stack.config().subjects().reply(&id);
    let service = service(&stack).await;
    // One message: NATS lets the gateway answer once, on whatever subject a message names.
    service.publish_with_reply("tide.ctl.info", place, "{}".into()).await.unwrap();
    // Requests are served in their order, so this answer comes after the one before it.
    service.request("tide.ctl.info", "{}".into()).await.unwrap();
    let jetstream = jetstream::new(admin(&stack).await);
    let stored = jetstream.get_stream("TIDE_REPLY").await.unwrap().cached_info().state.messages;
    assert_eq!(stored, 0, "no answer of the server API is stored as the answer of a request");
    assert_eq!(client.rpc("echo#a-key", "1").await.unwrap(), "1", "the place of its answer is free");
}

#[tokio::test]
async fn http_calls_without_the_key_are_refused() {
    let stack = start(quick(&kept_toml(20, "")).gateways(1)).await;
    let address = stack.gateways()[0].internal;
    for key in [None, Some(""), Some("dev-api-ke"), Some("dev-api-key0")] {
        assert_eq!(post(address, "info", key, "{}").await.0, 401, "{key:?}");
    }
    assert_eq!(post(address, "info", Some(KEY), "{}").await.0, 200);
    assert_eq!(post(address, "nothing", Some(KEY), "{}").await.0, 404);
    assert_eq!(get(&stack, "/api/info").await.0, 405);
    // Refused by its length alone. The body is not sent: the connection may be closed before it is.
    let long = format!(
        "POST /api/publish HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {KEY}\r\ncontent-length: {}\r\n\r\n",
        2 << 20
    );
    assert_eq!(http(address, &long).await.0, 413);
    let (_, body) = post(address, "publish", Some(KEY), "[").await;
    assert_eq!(code(&serde_json::from_str(&body).unwrap()), Some(107));
    let (status, _) = http(
        stack.gateways()[0].public,
        "POST /api/info HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(status, 404, "not on the clients' side");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn without_a_configured_key_the_api_is_served_over_nats_only() {
    let stack = start(quick(&format!("[api]\nkey = ''\n{}", kept_toml(20, ""))).gateways(1)).await;
    assert_eq!(post(stack.gateways()[0].internal, "info", Some(""), "{}").await.0, 404);
    let doors = Doors::of(&stack).await;
    assert_eq!(doors.nats("info", json!({})).await["result"]["nodes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_publication_reaches_subscribers_and_is_stored_once_for_each_key() {
    let stack = start(quick(&kept_toml(20, "")).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let begun = fresh(&client, "kept:a").await;
    fresh(&client, "chat:a").await;
    let ask =
        json!({"channel": "kept:a", "data": {"n": 1}, "tags": {"lang": "en"}, "idempotency_key": "7f3c"});
    let first = doors.http("publish", ask.clone()).await;
    let again = doors.nats("publish", ask.clone()).await;
    assert_eq!(first, again, "one publication");
    assert_eq!(first["result"]["epoch"], begun.epoch);
    let other =
        doors.nats("publish", json!({"channel": "kept:b", "data": 1, "idempotency_key": "7f3c"})).await;
    assert_ne!(first["result"]["offset"], other["result"]["offset"], "a key belongs to its channel");
    let tags = event(&mut events, |event| match event {
        Event::Publication { data, tags, .. } => (data == r#"{"n":1}"#).then_some(tags),
        _ => None,
    })
    .await;
    assert_eq!(tags["lang"], "en");
    let live = doors.http("publish", json!({"channel": "chat:a", "b64data": "aGVsbG8="})).await;
    assert_eq!(live["result"], json!({"offset": 0, "epoch": ""}));
    assert_eq!(publication(&mut events, "chat:a").await, "\"hello\"");
    let many = doors
        .nats("broadcast", json!({"channels": ["chat:a", "unknown:a", "kept:a", "#42"], "data": [2]}))
        .await;
    let responses = many["result"]["responses"].as_array().unwrap();
    assert_eq!(responses.iter().map(code).collect::<Vec<_>>(), [None, Some(102), None, None]);
    let mut reached = BTreeSet::new();
    while reached.len() < 3 {
        reached.insert(
            event(&mut events, |event| match event {
                Event::Publication { channel, data, .. } => (data == "[2]").then_some(channel),
                _ => None,
            })
            .await,
        );
    }
    for (ask, expected) in [
        (json!({"channel": "kept:a"}), 107),
        (json!({"data": 1}), 107),
        (json!({"channel": "unknown:a", "data": 1}), 102),
        (json!({"channel": "kept:a", "data": 1, "skip_history": true}), 107),
        (json!({"channel": "kept:a", "data": 1, "dta": 1}), 107),
    ] {
        assert_eq!(code(&doors.http("publish", ask.clone()).await), Some(expected), "{ask}");
    }
}

#[tokio::test]
async fn figures_of_all_gateways_are_added_up() {
    let stack = start(quick(&kept_toml(20, "")).gateways(3)).await;
    let doors = Doors::of(&stack).await;
    eventually("the gateways know each other", || async {
        doors.http("info", json!({})).await["result"]["nodes"].as_array().unwrap().len() == 3
    })
    .await;
    let mut clients = Vec::new();
    for (gateway, user) in [(0, "42"), (1, "42"), (1, "43")] {
        let (client, events) = connect(&stack, gateway, user).await;
        fresh(&client, "chat:a").await;
        clients.push((client, events));
    }
    let all = doors.nats("channels", json!({})).await;
    assert_eq!(
        all["result"]["channels"],
        json!({"#42": {"num_clients": 2}, "#43": {"num_clients": 1}, "chat:a": {"num_clients": 3}})
    );
    let some = doors.http("channels", json!({"pattern": "chat:*"})).await;
    assert_eq!(some["result"]["channels"], json!({"chat:a": {"num_clients": 3}}));
    let nodes = doors.http("info", json!({})).await;
    let sum = |field: &str| {
        let nodes = nodes["result"]["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node[field].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!([sum("num_clients"), sum("num_users"), sum("num_subs"), sum("num_channels")], [3, 3, 6, 5]);
    // The API does not wait much longer for a gateway that has ended.
    stack.kill("gateway-3").await.unwrap();
    eventually("its silence is noticed", || async {
        let answer = doors.nats("disconnect", json!({"user": "nobody"})).await;
        answer == json!({"result": {}})
    })
    .await;
}

#[tokio::test]
async fn presence_is_served_over_http_and_nats() {
    let toml = "[[namespace]]\nname = 'room'\nallow_subscribe = 'authenticated'\npresence = true\n";
    let stack = start(quick(toml).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let mut clients = Vec::new();
    for (gateway, user) in [(0, "42"), (1, "42"), (1, "43")] {
        let (client, events) = connect(&stack, gateway, user).await;
        fresh(&client, "room:a").await;
        clients.push((client, events));
    }
    let here = doors.nats("presence", json!({"channel": "room:a"})).await;
    let members = here["result"]["presence"].as_object().unwrap();
    assert_eq!(members[&clients[2].0.connected().client]["user"], "43");
    assert_eq!(members.len(), 3);
    let stats = doors.http("presence_stats", json!({"channel": "room:a"})).await;
    assert_eq!(stats["result"], json!({"num_clients": 3, "num_users": 2}));
    assert_eq!(code(&doors.http("presence", json!({"channel": "chat:a"})).await), Some(108));
    assert_eq!(code(&doors.nats("presence_stats", json!({"channel": "nowhere:a"})).await), Some(102));
}

#[tokio::test]
async fn a_service_asks_a_worker_like_a_client_does() {
    let stack = start(quick(&kept_toml(20, "")).gateways(1).workers(1)).await;
    let doors = Doors::of(&stack).await;
    let answer = doors.http("rpc", json!({"method": "echo", "data": {"a": 1}})).await;
    assert_eq!(answer, json!({"result": {"data": {"a": 1}}}));
    let answer = doors.nats("rpc", json!({"method": "echo", "params": "x"})).await;
    assert_eq!(answer, json!({"result": {"data": "x"}}));
    for (ask, expected) in [
        (json!({"method": "unknown"}), 104),
        (json!({"method": "nobody"}), 1001),
        (json!({"method": "later.echo"}), 103),
        (json!({"method": "echo#key"}), 107),
        (json!({"method": "echo", "user": "42"}), 107),
    ] {
        assert_eq!(code(&doors.nats("rpc", ask.clone()).await), Some(expected), "{ask}");
    }
}

#[tokio::test]
async fn each_command_of_a_batch_has_its_own_answer() {
    let stack = start(quick(&kept_toml(20, "")).gateways(1)).await;
    let doors = Doors::of(&stack).await;
    for parallel in [false, true] {
        let commands = json!([
            {"publish": {"channel": "kept:a", "data": 1}},
            {"publish": {"channel": "unknown:a", "data": 1}},
            {"channels": {}},
            {"batch": {"commands": []}},
        ]);
        let answer = doors.http("batch", json!({"commands": commands, "parallel": parallel})).await;
        let replies = answer["replies"].as_array().unwrap();
        assert!(replies[0]["publish"]["offset"].as_u64().unwrap() > 0);
        assert_eq!(code(&replies[1]), Some(102));
        assert_eq!(replies[2], json!({"channels": {"channels": {}}}));
        assert_eq!(code(&replies[3]), Some(107));
    }
    assert_eq!(code(&doors.nats("batch", json!({"commands": [{"nothing": {}}]})).await), Some(104));
    assert_eq!(code(&doors.nats("batch", json!({"commands": [{}]})).await), Some(107));
    let answer = doors.nats.request("tide.ctl.info", "".into()).await.unwrap();
    assert!(
        answer.payload.starts_with(b"{\"result\""),
        "a method that needs nothing may be asked with nothing"
    );
    let metrics = get(&stack, "/metrics").await.1;
    for line in [
        r#"tidegate_gateway_api_commands_total{method="publish",code="0"} 2"#,
        r#"tidegate_gateway_api_commands_total{method="publish",code="102"} 2"#,
        r#"tidegate_gateway_api_command_duration_seconds_count{method="publish"} 4"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn retries_with_a_key_lose_no_publication_while_a_gateway_leaves() {
    let stack = start(quick(&kept_toml(20, "")).gateways(2)).await;
    let doors = Doors::of(&stack).await;
    let stream = jetstream::new(admin(&stack).await).get_stream("TIDE_CH_kept").await.unwrap();
    let asking = async {
        for n in 1..=200_u64 {
            let ask = json!({"channel": "kept:a", "data": n, "idempotency_key": n.to_string()});
            // A request that is in transit when the gateway leaves may stay unanswered.
            let asked = || timeout(Duration::from_secs(2), doors.nats("publish", ask.clone()));
            eventually("it is answered", || async { asked().await.is_ok() }).await;
        }
    };
    let ((), stopped) = tokio::join!(asking, async { stack.stop("gateway-2").await });
    assert!(stopped.unwrap().success());
    let subjects = stream.info_with_subjects("tide.ch.kept.*").await.unwrap();
    let last = subjects.info.state.last_sequence;
    let milestones = subjects.map(Result::unwrap).filter(|(subject, _)| ready(subject.contains(".=m")));
    let stored = last - u64::try_from(milestones.count().await).unwrap();
    assert_eq!(stored, 200, "each was stored once");
    nothing_panicked(&stack);
}

/// A back end opens its connection when it starts, and uses it when it has something to say.
#[tokio::test]
async fn a_socket_that_waited_long_for_its_first_request_is_kept_for_the_next_ones() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let limits = "[gateway.limits]\nhandshake = '2s'\n";
    let stack = start(quick(limits).gateways(1)).await;
    let mut socket = tokio::net::TcpStream::connect(stack.gateways()[0].internal).await.unwrap();
    let mut answer = [0; 4096];
    for pause in [1900, 500, 500] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let read = timeout(crate::support::PATIENCE, socket.read(&mut answer)).await.unwrap().unwrap();
        assert!(
            answer[..read].starts_with(b"HTTP/1.1 200"),
            "{pause}: {}",
            String::from_utf8_lossy(&answer[..read])
        );
    }
}
