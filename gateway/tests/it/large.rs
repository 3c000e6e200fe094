//! What is larger than a client's outbox: it gets a shorter reply, an error or a fresh start, and never a loop of disconnects.

use async_nats::jetstream;
use futures_util::StreamExt;
use serde_json::json;
use tidegate_cli::client::CallError;
use tidegate_cli::stack::Stack;
use tidegate_shared::broker::Broker;
use tidegate_shared::protocol::HistoryRequest;

use crate::{
    socket::{Socket, TEXT, frame},
    support::{
        admin, connect, fresh, history, http, kept_toml, next, quick, raw, resume, service, start, texts,
        unsubscribed,
    },
};

const OUTBOX: usize = 64 * 1024;

async fn small_outbox(more: &str) -> Stack {
    let limits =
        "[gateway.limits]\noutbox = '64 KiB'\nmessage = '256 KiB'\n[api]\nkey = 'a-test-key-for-the-api'\n";
    start(quick(&format!("{limits}{}", kept_toml(100, more))).gateways(1).workers(1)).await
}

/// Stores publications of this many bytes in `kept:a`, as a service does that publishes over NATS. Returns the offsets of the
/// first and of the last one. A milestone of the gateway may have any offset between other messages.
async fn store(stack: &Stack, count: usize, bytes: usize) -> (u64, u64) {
    store_in(stack, "a", count, bytes).await
}

async fn store_in(stack: &Stack, name: &str, count: usize, bytes: usize) -> (u64, u64) {
    let nats = jetstream::new(service(stack).await);
    let mut offsets = Vec::new();
    for n in 0..count {
        let data = json!({"n": n, "fill": "x".repeat(bytes)}).to_string();
        let stored = nats.publish(format!("tide.ch.kept.{name}"), data.into()).await.unwrap().await.unwrap();
        offsets.push(stored.sequence);
    }
    (offsets[0], offsets[count - 1])
}

/// Whether an offset is at the end of the stream, where only milestones may follow this publication.
async fn is_at_the_end(stack: &Stack, offset: u64, publication: u64) -> bool {
    let stream = jetstream::new(admin(stack).await).get_stream("TIDE_CH_kept").await.unwrap();
    (publication..=stream.cached_info().state.last_sequence).contains(&offset)
}

#[tokio::test]
async fn a_backlog_that_fits_is_recovered_whole() {
    let stack = small_outbox("").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let epoch = fresh(&client, "kept:b").await.epoch;
    store(&stack, 3, 8_000).await;
    let result = resume(&client, "kept:a", 0, &epoch).await;
    assert!(result.recovered && texts(&result).len() == 3);
}

#[tokio::test]
async fn a_page_of_history_is_as_long_as_the_outbox_allows() {
    let stack = small_outbox("").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let (first, last) = store(&stack, 20, 8_000).await;
    for reverse in [false, true] {
        let all = HistoryRequest { channel: "kept:a".into(), limit: -1, reverse, ..Default::default() };
        let page = history(&client, all).await.unwrap();
        assert!((1..8).contains(&page.publications.len()), "{}", page.publications.len());
        assert_eq!(page.publications[0].offset, if reverse { last } else { first });
        assert!(is_at_the_end(&stack, page.offset, last).await, "{} is the offset of the page", page.offset);
    }
}

#[tokio::test]
async fn an_answer_larger_than_the_outbox_is_an_error_and_the_connection_stays() {
    let stack = small_outbox("").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let body = json!("x".repeat(OUTBOX + 1)).to_string();
    let Err(CallError::Server { code, message, .. }) = client.rpc("echo", body).await else {
        panic!("the answer does not fit")
    };
    assert!(code == 106 && message.contains("65536"), "{code} {message}");
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
}

#[tokio::test]
async fn a_request_larger_than_the_broker_takes_is_refused_for_good_with_the_numbers() {
    let config =
        "[api]\nkey = 'a-test-key-for-the-api'\nrequest = '4 MiB'\n[gateway.limits]\noutbox = '8 MiB'";
    let stack = start(quick(config).gateways(1)).await;
    let fill = "x".repeat(1_100_000);
    for (method, ask) in [
        ("rpc", json!({"method": "echo", "data": fill})),
        ("publish", json!({"channel": "chat:lobby", "data": fill})),
    ] {
        let body = ask.to_string();
        let head = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: a-test-key-for-the-api\r\n";
        let request = format!("POST /api/{method} {head}content-length: {}\r\n\r\n{body}", body.len());
        let (_, answer) = http(stack.gateways()[0].internal, &request).await;
        let error = &serde_json::from_str::<serde_json::Value>(&answer).unwrap()["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert_eq!((error["code"].as_u64(), error["temporary"].as_bool()), (Some(106), None), "{answer}");
        assert!(message.contains("1048576") && !message.contains("try again"), "{answer}");
    }
}

#[tokio::test]
async fn a_publication_that_no_client_could_receive_is_refused_where_it_is_published() {
    let stack = small_outbox("").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    for data in ["x".repeat(OUTBOX), "\"".repeat(OUTBOX / 2)] {
        let data = json!(data).to_string();
        let Err(CallError::Server { code, message, .. }) = client.publish("kept:a", data.clone()).await
        else {
            panic!("refused")
        };
        assert!(code == 106 && message.contains("65536"), "{code} {message}");
        let body = format!(r#"{{"channel":"kept:a","data":{data}}}"#);
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nhost: x\r\nx-api-key: a-test-key-for-the-api\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, answer) = http(stack.gateways()[0].internal, &request).await;
        assert!(status == 200 && answer.contains(r#""code":106"#) && answer.contains("65536"), "{answer}");
    }
    let all = HistoryRequest { channel: "kept:a".into(), limit: -1, ..Default::default() };
    assert!(history(&client, all).await.unwrap().publications.is_empty(), "nothing is stored");
}

#[tokio::test]
async fn a_publication_over_nats_that_no_client_could_receive_ends_the_subscription_and_not_the_connection() {
    let stack = small_outbox("").await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let epoch = fresh(&client, "kept:a").await.epoch;
    let (too_large, _) = store(&stack, 1, OUTBOX).await;
    assert_eq!(unsubscribed(&mut events).await, 2500);
    let result = resume(&client, "kept:a", 0, &epoch).await;
    assert!(!result.recovered && is_at_the_end(&stack, result.offset, too_large).await, "{result:?}");
    let (behind, _) = store(&stack, 1, 10).await;
    assert_eq!(next(&mut events).await.1, behind);
}

#[tokio::test]
async fn an_answer_of_the_server_api_that_nats_cannot_carry_is_an_error() {
    let stack = small_outbox("").await;
    store(&stack, 15, 90_000).await;
    let page = r#"{"history":{"channel":"kept:a","limit":100}}"#;
    let request = format!(r#"{{"commands":[{page},{page},{page}]}}"#);
    let answer = service(&stack).await.request("tide.ctl.batch", request.into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    let message = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(answer["error"]["code"] == 106 && message.contains("1048576"), "{answer}");
}

#[tokio::test]
async fn the_results_of_a_batch_are_bounded_together_and_small_ones_are_always_told() {
    let stack = small_outbox("").await;
    let (_, last) = store(&stack, 20, 90_000).await;
    let page = r#"{"history":{"channel":"kept:a","limit":100}}"#;
    let publish = r#"{"publish":{"channel":"kept:b","data":1}}"#;
    let body = format!(r#"{{"commands":[{}{publish}]}}"#, format!("{page},").repeat(20));
    let request = format!(
        "POST /api/batch HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: a-test-key-for-the-api\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, answer) = http(stack.gateways()[0].internal, &request).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let replies = answer["replies"].as_array().unwrap();
    let refused = replies.iter().filter(|reply| reply["error"]["code"] == 106).count();
    assert!(status == 200 && replies.len() == 21 && (1..20).contains(&refused), "{refused}");
    let offset = replies[20]["publish"]["offset"].as_u64().unwrap();
    assert!(is_at_the_end(&stack, offset, last + 1).await, "{offset} behind {last}");
}

#[tokio::test]
async fn a_reply_to_connect_that_a_hook_makes_too_large_is_refused_for_good_with_the_numbers() {
    let config = "[hooks]\nconnect = true\n[gateway.limits]\noutbox = '64 KiB'";
    let stack = start(quick(config).gateways(1)).await;
    let login = &stack.config().nats;
    let back_end = Broker::connect(login, &login.worker, "back-end", 1, true).await.unwrap();
    let nats = back_end.client();
    let mut questions = nats.subscribe("tide.hook.connect").await.unwrap();
    back_end.settled().await.unwrap();
    let answers = async {
        while let Some(question) = questions.next().await {
            let answer = json!({"result": {"user": "42", "data": "x".repeat(OUTBOX)}}).to_string();
            nats.publish(question.reply.unwrap(), answer.into()).await.unwrap();
        }
    };
    let connected = async {
        let mut client = raw(&stack).await;
        client.send_text("{\"id\":1,\"connect\":{}}").await.unwrap();
        client.reply().await.unwrap().error.unwrap()
    };
    let error = tokio::select! {
        error = connected => error,
        () = answers => panic!("the subscription ended"),
    };
    assert_eq!((error.code, error.temporary), (106, false), "{error:?}");
    assert!(error.message.contains("65536"), "{error:?}");
}

/// SDKs subscribe to all their channels in one message after a reconnect.
#[tokio::test]
async fn replies_that_are_together_larger_than_the_outbox_are_all_written_to_a_client_that_reads() {
    const CHANNELS: usize = 12;
    let stack = small_outbox("").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:none").await;
    for n in 0..CHANNELS {
        store_in(&stack, &n.to_string(), 3, 8_000).await;
    }
    let mut socket = Socket::connected(&stack).await;
    let mut commands = Vec::new();
    for n in 0..CHANNELS {
        let (id, channel) = (10 * n, format!("kept:{n}"));
        let resume =
            json!({"channel": channel, "recover": true, "offset": start.offset, "epoch": start.epoch});
        commands.push(json!({"id": id + 11, "subscribe": resume}));
        commands.push(json!({"id": id + 12, "history": {"channel": channel, "limit": 10}}));
        commands.push(json!({"id": id + 13, "rpc": {"method": "echo", "data": "x".repeat(8_000)}}));
        commands.extend(
            (4..10).map(|more| json!({"id": id + 10 + more, "unsubscribe": {"channel": "kept:none"}})),
        );
    }
    let lines: Vec<_> = commands.iter().map(ToString::to_string).collect();
    socket.write(&frame(TEXT, lines.join("\n").as_bytes())).await;
    let replies = socket.replies(commands.len()).await;
    let recovered = replies.iter().filter(|reply| reply["subscribe"]["recovered"] == json!(true)).count();
    let full = |reply: &&serde_json::Value| {
        reply["history"]["publications"].as_array().is_some_and(|all| all.len() == 3)
    };
    assert_eq!((recovered, replies.iter().filter(full).count()), (CHANNELS, CHANNELS));
    assert!(replies.iter().all(|reply| reply.get("error").is_none()));
}

#[tokio::test]
async fn clients_that_ask_for_much_and_do_not_read_keep_no_other_client_waiting() {
    let stack = start(quick(&kept_toml(100, "")).gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let begin = fresh(&client, "kept:none").await;
    store(&stack, 60, 8_000).await;
    let mut stuck = Vec::new();
    for _ in 0..6 {
        let mut socket = Socket::connected(&stack).await;
        let asks = (2..60).step_by(3).map(|id| {
            let resume =
                json!({"channel": "kept:a", "recover": true, "offset": begin.offset, "epoch": begin.epoch});
            let ask = json!({"id": id, "history": {"channel": "kept:a", "limit": 60}});
            let again = json!({"id": id + 1, "subscribe": resume});
            format!("{ask}\n{again}\n{}", json!({"id": id + 2, "unsubscribe": {"channel": "kept:a"}}))
        });
        socket.write(&frame(TEXT, asks.collect::<Vec<_>>().join("\n").as_bytes())).await;
        stuck.push(socket);
    }
    for user in ["1", "2", "3", "4"] {
        let (other, _events) = connect(&stack, 0, user).await;
        let ask = HistoryRequest { channel: "kept:a".into(), limit: 1, ..HistoryRequest::default() };
        assert_eq!(history(&other, ask).await.unwrap().publications.len(), 1);
        assert_eq!(resume(&other, "kept:a", begin.offset, &begin.epoch).await.publications.len(), 60);
    }
    drop(stuck);
}
