//! Channels with history: clients miss no publication, or learn that they did.

use std::time::Duration;

use bytes::Bytes;
use tidegate_shared::protocol::{Encoding, HistoryRequest, HistoryResult, StreamPosition};

use crate::support::{
    admin, connect, connect_as, eventually, fresh, get, history, in_both_fanouts, kept, kept_by, kept_toml,
    next, quick, resume, service, start, texts,
};

in_both_fanouts!(
    a_client_recovers_its_backlog_on_another_gateway,
    recovery_from_offset_zero_works_until_history_is_trimmed,
    publications_during_a_subscribe_are_delivered_exactly_once,
    publications_during_a_gateways_broker_outage_are_filled_in,
    clients_that_recover_one_channel_share_a_history_read,
);

async fn a_client_recovers_its_backlog_on_another_gateway(fanout: &str) {
    let stack = kept_by(fanout, 2).await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let channel = format!("kept:{encoding:?}");
        let (publisher, _e) = connect(&stack, 0, "publisher").await;
        let (client, mut events) = connect_as(&stack, 0, "42", encoding).await;
        let start = fresh(&client, &channel).await;
        assert!(start.recoverable && start.positioned && !start.was_recovering && !start.epoch.is_empty());
        publisher.publish(&channel, "1").await.unwrap();
        let (data, offset) = next(&mut events).await;
        assert_eq!(data, "1");
        assert!(offset > start.offset);
        client.close().await;
        for n in 2..=5 {
            publisher.publish(&channel, n.to_string()).await.unwrap();
        }
        let (back, mut events) = connect_as(&stack, 1, "42", encoding).await;
        let result = resume(&back, &channel, offset, &start.epoch).await;
        assert!(result.recovered && result.was_recovering && result.offset == offset, "{result:?}");
        assert!(result.publications.is_sorted_by_key(|p| p.offset));
        publisher.publish(&channel, "6").await.unwrap();
        // The other gateway may receive the last publications a moment after the stream.
        let mut missed = texts(&result);
        while missed.len() < 5 {
            missed.push(next(&mut events).await.0);
        }
        assert_eq!(missed, ["2", "3", "4", "5", "6"]);
    }
}

async fn recovery_from_offset_zero_works_until_history_is_trimmed(fanout: &str) {
    let stack = kept_by(fanout, 1).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    for n in 0..5 {
        client.publish("kept:a", n.to_string()).await.unwrap();
    }
    let result = resume(&client, "kept:a", 0, "").await;
    assert!(result.recovered, "{result:?}");
    assert_eq!(texts(&result), ["0", "1", "2", "3", "4"]);
}

async fn publications_during_a_subscribe_are_delivered_exactly_once(fanout: &str) {
    const COUNT: usize = 300;
    let stack = start(quick(&kept_toml(1000, &format!("fanout = '{fanout}'"))).gateways(2)).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let (witness, _events) = connect(&stack, 0, "witness").await;
    // No client has the channel yet: the first subscriber starts the NATS subscription and the read of the stream during
    // publishing.
    for channel in ["kept:a", "kept:b", "kept:c"] {
        let begin =
            history(&witness, HistoryRequest { channel: channel.to_owned(), ..Default::default() }).await;
        let begin = begin.unwrap();
        let subject = channel.replace("kept:", "tide.ch.kept.");
        let (published, count) = tokio::sync::watch::channel(0);
        let publishing = async {
            for n in 0..COUNT {
                nats.publish(subject.clone(), n.to_string().into()).await.unwrap().await.unwrap();
                published.send_replace(n + 1);
            }
        };
        let listening = futures_util::future::join_all((0..30).map(|n| {
            let (stack, epoch, mut count) = (&stack, begin.epoch.as_str(), count.clone());
            async move {
                let (client, mut events) = connect(stack, n % 2, &format!("user-{n}")).await;
                count.wait_for(|count| *count >= n * COUNT / 30).await.unwrap();
                let result = resume(&client, channel, begin.offset, epoch).await;
                assert!(result.recovered, "{result:?}");
                let mut heard = texts(&result);
                while heard.len() < COUNT {
                    heard.push(next(&mut events).await.0);
                }
                heard
            }
        }));
        let ((), heard) = tokio::join!(publishing, listening);
        let all: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
        for heard in heard {
            assert_eq!(heard, all, "{channel}");
        }
    }
}

#[tokio::test]
async fn publications_between_two_recoveries_arrive_with_the_second() {
    let stack = kept(2).await;
    let (publisher, _e) = connect(&stack, 0, "publisher").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    client.close().await;
    let (mut offset, mut heard) = (start.offset, Vec::new());
    for round in 0..6 {
        publisher.publish("kept:a", format!("{}", 2 * round)).await.unwrap();
        publisher.publish("kept:a", format!("{}", 2 * round + 1)).await.unwrap();
        let (client, _events) = connect(&stack, round % 2, "42").await;
        let result = resume(&client, "kept:a", offset, &start.epoch).await;
        assert!(result.recovered, "{result:?}");
        heard.extend(texts(&result));
        offset = result.publications.last().unwrap().offset;
        // This client leaves without having received a live publication.
        client.close().await;
    }
    assert_eq!(heard, (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_publication_repeated_under_one_id_is_delivered_once_live_and_recovered() {
    let stack = kept(2).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let (client, mut events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    for (id, text, again) in
        [("1", "one", false), ("1", "one", true), ("2", "two", false), ("1", "one", true)]
    {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        let sent = nats.publish_with_headers("tide.ch.kept.a", headers, text.into()).await.unwrap();
        assert_eq!(sent.await.unwrap().duplicate, again);
    }
    client.publish("kept:a", "\"end\"").await.unwrap();
    for text in ["one", "two"] {
        assert_eq!(next(&mut events).await.0, format!("\"{text}\""));
    }
    assert_eq!(next(&mut events).await.0, "\"end\"");
    let (again, _events) = connect(&stack, 1, "43").await;
    let result = resume(&again, "kept:a", start.offset, &start.epoch).await;
    assert_eq!(texts(&result), ["\"one\"", "\"two\"", "\"end\""]);
}

#[tokio::test]
async fn a_personal_channel_is_recovered_with_the_connection() {
    let stack = kept(2).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let publish = |text: &'static str| {
        let nats = nats.clone();
        async move { nats.publish("tide.ch.user.42", Bytes::from(text)).await.unwrap().await.unwrap() }
    };
    let (client, mut events) = connect(&stack, 0, "42").await;
    let sub = client.connected().subs.first().unwrap().result.clone().unwrap();
    assert!(sub.recoverable && sub.positioned);
    publish("1").await;
    let (data, offset) = next(&mut events).await;
    assert_eq!(data, "1");
    client.close().await;
    publish("2").await;
    publish("3").await;
    let mut back = crate::support::raw(&stack).await;
    let token = crate::support::token(&stack, "42");
    let subs = serde_json::json!({"#42": {"recover": true, "offset": offset, "epoch": sub.epoch}});
    let connect = serde_json::json!({"id": 1, "connect": {"token": token, "subs": subs}});
    // Further commands in the same frame wait for the connect command.
    let frame = format!("{connect}\n{}", serde_json::json!({"id": 2, "subscribe": {"channel": "chat:x"}}));
    back.send_text(&frame).await.unwrap();
    let reply = back.reply().await.unwrap();
    let result = reply.connect.unwrap().subs.first().unwrap().result.clone().unwrap();
    assert!(result.recovered && texts(&result) == ["2", "3"], "{result:?}");
    assert!(back.reply().await.unwrap().subscribe.is_some());
    publish("4").await;
    assert_eq!(back.reply().await.unwrap().push.unwrap().publication.unwrap().data, "4");
}

#[tokio::test]
async fn a_later_answer_is_recovered_by_a_user_that_was_disconnected() {
    let stack = start(quick("").gateways(2).workers(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    client.rpc("later.echo", "\"first\"").await.unwrap();
    let (_, offset) = next(&mut events).await;
    let epoch = client.connected().subs.first().unwrap().result.clone().unwrap().epoch;
    stack.pause("worker-1").unwrap();
    client.rpc("later.echo", "\"second\"").await.unwrap();
    stack.kill("gateway-1").await.unwrap();
    stack.resume("worker-1").unwrap();
    let dead = async_nats::jetstream::new(admin(&stack).await);
    let personal = dead.get_stream("TIDE_CH_user").await.unwrap();
    let newest = || personal.get_last_raw_message_by_subject("tide.ch.user.42");
    eventually("it is answered", || async { newest().await.unwrap().payload == "\"second\"" }).await;
    let mut back = tidegate_cli::client::raw::RawClient::open(&tidegate_cli::client::Options::new(
        crate::support::url(&stack, 1),
    ))
    .await
    .unwrap();
    let subs = serde_json::json!({"#42": {"recover": true, "offset": offset, "epoch": epoch}});
    let connect =
        serde_json::json!({"id": 1, "connect": {"token": crate::support::token(&stack, "42"), "subs": subs}});
    back.send_text(&connect.to_string()).await.unwrap();
    let result = back.reply().await.unwrap().connect.unwrap().subs.first().unwrap().result.clone().unwrap();
    assert!(result.recovered, "{result:?}");
    // The gateway may receive it a moment after the stream.
    match texts(&result).first() {
        Some(missed) => assert_eq!(missed, "\"second\""),
        None => assert_eq!(back.reply().await.unwrap().push.unwrap().publication.unwrap().data, "\"second\""),
    }
}

async fn publications_during_a_gateways_broker_outage_are_filled_in(fanout: &str) {
    let stack = kept_by(fanout, 2).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    fresh(&client, "kept:a").await;
    let (publisher, _e) = connect(&stack, 1, "publisher").await;
    publisher.publish("kept:a", "0").await.unwrap();
    assert_eq!(next(&mut events).await.0, "0");
    stack.hold("nats").await.unwrap();
    stack.start_process("nats").await.unwrap();
    let mut sent = 0;
    // The other gateway may reconnect first: the first gateway misses its publications live.
    while sent < 10 {
        if publisher.publish("kept:a", (sent + 1).to_string()).await.is_ok() {
            sent += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    for n in 1..=10 {
        assert_eq!(next(&mut events).await.0, n.to_string());
    }
}

#[tokio::test]
async fn history_can_be_read_from_either_end() {
    let stack = kept(1).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    for n in 0..30 {
        client.publish("kept:a", n.to_string()).await.unwrap();
        client.publish("kept:b", "\"other\"").await.unwrap();
    }
    let ask =
        |limit: i32| HistoryRequest { channel: "kept:a".to_owned(), limit, ..HistoryRequest::default() };
    let data = |result: &HistoryResult| {
        result.publications.iter().map(|p| String::from_utf8_lossy(&p.data).into_owned()).collect::<Vec<_>>()
    };
    let all = history(&client, ask(-1)).await.unwrap();
    assert_eq!(data(&all), (10..30).map(|n| n.to_string()).collect::<Vec<_>>());
    let top = history(&client, ask(0)).await.unwrap();
    assert!(
        top.publications.is_empty()
            && top.offset == all.publications.last().unwrap().offset
            && top.epoch == all.epoch
    );
    assert_eq!(data(&history(&client, ask(2)).await.unwrap()), ["10", "11"]);
    let newest = history(&client, HistoryRequest { reverse: true, ..ask(2) }).await.unwrap();
    assert_eq!(data(&newest), ["29", "28"]);
    let since = Some(StreamPosition { offset: all.publications[4].offset, epoch: all.epoch.clone() });
    let behind = history(&client, HistoryRequest { since: since.clone(), ..ask(2) }).await.unwrap();
    assert_eq!(data(&behind), ["15", "16"]);
    let before = history(&client, HistoryRequest { since, reverse: true, ..ask(2) }).await.unwrap();
    assert_eq!(data(&before), ["13", "12"]);
    let foreign = Some(StreamPosition { offset: 1, epoch: "another".to_owned() });
    assert_eq!(
        history(&client, HistoryRequest { since: foreign, ..ask(2) }).await.unwrap_err().code(),
        Some(112)
    );
    assert_eq!(
        history(&client, HistoryRequest { channel: "chat:x".into(), ..ask(1) }).await.unwrap_err().code(),
        Some(103)
    );
}

async fn clients_that_recover_one_channel_share_a_history_read(fanout: &str) {
    let stack = kept_by(fanout, 2).await;
    let (publisher, _e) = connect(&stack, 1, "publisher").await;
    let start = fresh(&publisher, "kept:a").await;
    for n in 0..10 {
        publisher.publish("kept:a", n.to_string()).await.unwrap();
    }
    let mut clients = Vec::new();
    for n in 0..100 {
        clients.push(connect(&stack, 0, &format!("user-{n}")).await);
    }
    let all = clients.iter().map(|(client, _)| resume(client, "kept:a", start.offset, &start.epoch));
    for result in futures_util::future::join_all(all).await {
        assert!(result.recovered && result.publications.len() == 10, "{result:?}");
    }
    let (_, page) = get(&stack, "/metrics").await;
    assert!(page.contains("tidegate_gateway_recovery_reads_total 1\n"), "{page}");
}
