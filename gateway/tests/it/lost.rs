//! Publications that a stream has lost or never had: exactly the clients that missed them are not recovered.

use tidegate_cli::{client::Event, stack::Stack};
use tidegate_shared::{
    protocol::{HistoryRequest, SubscribeRequest},
    topology,
};

use crate::support::{
    admin, connect, event, eventually, fresh, history, in_both_fanouts, kept_by, kept_toml, next, quick,
    resume, service, start, subscribe, texts,
};

in_both_fanouts!(
    a_client_that_missed_more_than_the_history_is_not_recovered,
    a_client_that_missed_expired_publications_is_not_recovered,
    a_client_that_missed_purged_publications_is_not_recovered,
    an_unknown_position_is_not_recovered,
    a_recreated_stream_has_another_epoch,
    a_new_epoch_invalidates_positions_and_survives_apply,
    a_position_beyond_a_restored_stream_is_not_recovered,
    a_client_that_missed_publications_under_a_smaller_history_is_not_recovered,
);

/// Waits until the stream of the namespace is empty.
async fn until_empty(stack: &Stack) {
    let operator = async_nats::jetstream::new(admin(stack).await);
    let stream = operator.get_stream("TIDE_CH_kept").await.unwrap();
    eventually("everything has expired", || async { stream.get_info().await.unwrap().state.messages == 0 })
        .await;
}

async fn a_client_that_missed_more_than_the_history_is_not_recovered(fanout: &str) {
    let stack = kept_by(fanout, 2).await;
    let (publisher, _e) = connect(&stack, 0, "publisher").await;
    let start = fresh(&publisher, "kept:a").await;
    let mut offsets = Vec::new();
    for n in 0..30 {
        publisher.publish("kept:a", n.to_string()).await.unwrap();
        publisher.publish("kept:b", n.to_string()).await.unwrap();
        offsets.push(start.offset + 1 + 2 * n);
    }
    for gateway in [0, 1] {
        let (client, _events) = connect(&stack, gateway, "42").await;
        for (position, complete) in
            [(start.offset, false), (offsets[8], false), (offsets[10], true), (offsets[29], true)]
        {
            let result = resume(&client, "kept:a", position, &start.epoch).await;
            assert_eq!((result.was_recovering, result.recovered), (true, complete), "{position}: {result:?}");
            if complete {
                let missed: Vec<_> = offsets.iter().copied().filter(|offset| *offset > position).collect();
                let brought: Vec<_> = result.publications.iter().map(|p| p.offset).collect();
                assert_eq!((brought, result.offset), (missed, position));
            } else {
                assert!(result.publications.is_empty());
                assert!(result.offset >= offsets[29], "from here on it goes on: {result:?}");
            }
            client.unsubscribe("kept:a").await.unwrap();
        }
    }
}

async fn a_client_that_missed_expired_publications_is_not_recovered(fanout: &str) {
    let toml = kept_toml(20, &format!("fanout = '{fanout}'\nhistory_ttl = '1s'"));
    let stack = start(quick(&toml).gateways(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    for n in 0..3 {
        client.publish("kept:a", n.to_string()).await.unwrap();
    }
    let mut newest = 0;
    for _ in 0..3 {
        newest = next(&mut events).await.1;
    }
    until_empty(&stack).await;
    client.unsubscribe("kept:a").await.unwrap();
    let result = resume(&client, "kept:a", start.offset, &start.epoch).await;
    assert!(!result.recovered && result.was_recovering && result.offset == newest, "{result:?}");
    client.unsubscribe("kept:a").await.unwrap();
    let result = resume(&client, "kept:a", newest, &start.epoch).await;
    assert!(result.recovered, "it has seen everything: {result:?}");
    client.publish("kept:a", "\"new\"").await.unwrap();
    assert_eq!(next(&mut events).await.0, "\"new\"", "a channel whose past has expired goes on");
}

async fn a_client_that_missed_purged_publications_is_not_recovered(fanout: &str) {
    let stack = kept_by(fanout, 1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    for n in 0..3 {
        client.publish("kept:a", n.to_string()).await.unwrap();
    }
    let mut newest = 0;
    for _ in 0..3 {
        newest = next(&mut events).await.1;
    }
    let operator = async_nats::jetstream::new(admin(&stack).await);
    operator.get_stream("TIDE_CH_kept").await.unwrap().purge().await.unwrap();
    client.publish("kept:a", "\"live\"").await.unwrap();
    assert_eq!(next(&mut events).await.0, "\"live\"", "who is there hears on");
    client.unsubscribe("kept:a").await.unwrap();
    let result = resume(&client, "kept:a", start.offset, &start.epoch).await;
    assert!(!result.recovered && result.was_recovering && result.offset > newest, "{result:?}");
    client.unsubscribe("kept:a").await.unwrap();
    let result = resume(&client, "kept:a", newest, &start.epoch).await;
    assert!(result.recovered && texts(&result) == ["\"live\""], "{result:?}");
}

async fn an_unknown_position_is_not_recovered(fanout: &str) {
    let stack = kept_by(fanout, 1).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    client.publish("kept:a", "1").await.unwrap();
    let newest = history(&client, HistoryRequest { channel: "kept:a".to_owned(), ..Default::default() });
    let newest = newest.await.unwrap().offset;
    client.unsubscribe("kept:a").await.unwrap();
    let foreign = resume(&client, "kept:a", newest, "another stream").await;
    assert!(!foreign.recovered && foreign.epoch == start.epoch);
    client.unsubscribe("kept:a").await.unwrap();
    let ahead = resume(&client, "kept:a", newest + 1000, &start.epoch).await;
    assert!(!ahead.recovered, "the stream ends before it");
    client.unsubscribe("kept:a").await.unwrap();
    let request = SubscribeRequest {
        channel: "kept:a".to_owned(),
        recover: true,
        epoch: "another stream".to_owned(),
        flag: 3,
        ..SubscribeRequest::default()
    };
    assert_eq!(subscribe(&client, request).await.unwrap_err().code(), Some(112));
    let last = resume(&client, "kept:a", newest, &start.epoch).await;
    assert!(last.recovered && last.publications.is_empty(), "the newest position is always good: {last:?}");
}

async fn a_recreated_stream_has_another_epoch(fanout: &str) {
    let stack = kept_by(fanout, 1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    client.publish("kept:a", "1").await.unwrap();
    let (_, offset) = next(&mut events).await;
    // The broker's files are exchanged, as an operator could do.
    stack.hold("nats").await.unwrap();
    let streams = stack.dir().join("nats").join("jetstream").join("TIDEGATE").join("streams");
    std::fs::remove_dir_all(streams.join("TIDE_CH_kept")).unwrap();
    stack.start_process("nats").await.unwrap();
    stack.wait_ready("nats").await.unwrap();
    let broker = tidegate_cli::stack::setup::connect(stack.config()).await.unwrap();
    tidegate_cli::stack::setup::apply(&broker, stack.config()).await.unwrap();
    let told = event(&mut events, |event| match event {
        Event::Unsubscribed { channel, code, .. } => Some((channel, code)),
        _ => None,
    })
    .await;
    assert_eq!(told, ("kept:a".to_owned(), 2500));
    let again = resume(&client, "kept:a", offset, &start.epoch).await;
    assert!(!again.recovered && again.epoch != start.epoch, "{again:?}");
}

async fn a_new_epoch_invalidates_positions_and_survives_apply(fanout: &str) {
    let stack = kept_by(fanout, 1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    client.publish("kept:a", "1").await.unwrap();
    let (_, offset) = next(&mut events).await;
    let broker = tidegate_cli::stack::setup::connect(stack.config()).await.unwrap();
    let epoch = topology::new_epoch(broker.jetstream(), "kept").await.unwrap();
    assert_eq!(epoch, format!("{}.1", start.epoch));
    let mut other = stack.config().clone();
    other.namespaces.iter_mut().filter(|n| n.name == "kept").for_each(|n| n.history_size = 30);
    assert_eq!(tidegate_cli::stack::setup::apply(&broker, &other).await.unwrap().len(), 1);
    // Gateways check their streams when the broker is back.
    stack.hold("nats").await.unwrap();
    stack.start_process("nats").await.unwrap();
    event(&mut events, |event| matches!(event, Event::Unsubscribed { code: 2500, .. }).then_some(())).await;
    let again = resume(&client, "kept:a", offset, &start.epoch).await;
    assert!(!again.recovered && again.was_recovering && again.epoch == epoch, "{again:?}");
}

/// Changes the history of the namespace, as `tidegate apply` does.
async fn resize(stack: &Stack, history_size: u32) {
    let mut changed = stack.config().clone();
    changed.namespaces.iter_mut().filter(|n| n.name == "kept").for_each(|n| n.history_size = history_size);
    let broker = tidegate_cli::stack::setup::connect(stack.config()).await.unwrap();
    tidegate_cli::stack::setup::apply(&broker, &changed).await.unwrap();
    assert!(tidegate_cli::stack::setup::plan(&broker, &changed).await.unwrap().is_empty());
}

async fn a_client_that_missed_publications_under_a_smaller_history_is_not_recovered(fanout: &str) {
    let stack = start(quick(&kept_toml(100, &format!("fanout = '{fanout}'"))).gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let publish = async |channel: &str, count: u32| {
        for n in 0..count {
            client.publish(channel, n.to_string()).await.unwrap();
        }
    };
    let recovers = async |channel: &str, offset: u64| {
        let result = resume(&client, channel, offset, "").await;
        client.unsubscribe(channel).await.unwrap();
        (result.recovered, result.publications.len())
    };
    let position = async |channel: &str| {
        let position = fresh(&client, channel).await.offset;
        client.unsubscribe(channel).await.unwrap();
        position
    };
    // It stays in the stream, so that the stream's beginning tells nothing about the other channels.
    publish("kept:oldest", 1).await;
    let before = position("kept:a").await;
    resize(&stack, 5).await;
    publish("kept:a", 7).await;
    assert_eq!(recovers("kept:a", before).await, (false, 0), "the stream keeps less than this gateway knows");
    let early = position("kept:few").await;
    publish("kept:few", 4).await;
    resize(&stack, 100).await;
    assert_eq!(recovers("kept:a", before).await, (false, 0), "two were removed before the history grew");
    assert_eq!(recovers("kept:few", early).await, (true, 4), "nothing of this channel was ever removed");
    publish("kept:oldest", 1).await;
    let oldest = HistoryRequest { channel: "kept:oldest".to_owned(), ..Default::default() };
    let grown = history(&client, oldest).await.unwrap().offset;
    // A gateway remembers the end of a stream for a moment, so a new channel may begin a little earlier.
    let (mut late, mut new) = (0, String::new());
    while late < grown {
        new = format!("{new}n");
        late = position(&format!("kept:{new}")).await;
    }
    let new = format!("kept:{new}");
    publish(&new, 20).await;
    publish("kept:other", 20).await;
    assert_eq!(recovers(&new, late).await, (true, 20), "the larger history holds from here on");
    resize(&stack, 10).await;
    resize(&stack, 100).await;
    assert_eq!(recovers("kept:a", before).await, (false, 0));
    assert_eq!(recovers("kept:other", late).await, (false, 0), "ten of them were removed");
    assert_eq!(recovers("kept:few", early).await, (true, 4), "the smallest history since then counts");
}

async fn a_position_beyond_a_restored_stream_is_not_recovered(fanout: &str) {
    let stack = kept_by(fanout, 1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    client.publish("kept:a", "\"kept\"").await.unwrap();
    next(&mut events).await;
    let stream = stack.dir().join("nats/jetstream/TIDEGATE/streams/TIDE_CH_kept");
    let copy = stack.dir().join("copy");
    let exchange = |from: std::path::PathBuf, to: std::path::PathBuf| {
        assert!(std::process::Command::new("rm").arg("-rf").arg(&to).status().unwrap().success());
        assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
    };
    stack.hold("nats").await.unwrap();
    exchange(stream.clone(), copy.clone());
    stack.start_process("nats").await.unwrap();
    eventually("publishing works again", || async { client.publish("kept:a", "\"gone\"").await.is_ok() })
        .await;
    let (_, gone) = next(&mut events).await;
    stack.hold("nats").await.unwrap();
    exchange(copy, stream);
    stack.start_process("nats").await.unwrap();
    event(&mut events, |event| matches!(event, Event::Unsubscribed { code: 2500, .. }).then_some(())).await;
    let again = resume(&client, "kept:a", gone, &start.epoch).await;
    assert!(!again.recovered && again.offset < gone, "{again:?}");
    eventually("publishing works again", || async { client.publish("kept:a", "\"new\"").await.is_ok() })
        .await;
    assert_eq!(next(&mut events).await.0, "\"new\"");
}

#[tokio::test]
async fn a_deleted_stream_of_one_namespace_stops_no_other() {
    let names = ["aa", "bb", "cc", "dd"];
    let toml = names.map(|name| kept_toml(20, "").replace("'kept'", &format!("'{name}'"))).concat();
    let stack = start(quick(&toml).gateways(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    for name in &names[1..] {
        fresh(&client, &format!("{name}:x")).await;
    }
    let operator = async_nats::jetstream::new(admin(&stack).await);
    operator.delete_stream("TIDE_CH_aa").await.unwrap();
    // The gateway is not connected while this is published, so it receives nothing of it live.
    stack.pause("gateway-1").unwrap();
    stack.hold("nats").await.unwrap();
    stack.start_process("nats").await.unwrap();
    stack.wait_ready("nats").await.unwrap();
    let nats = async_nats::jetstream::new(service(&stack).await);
    for name in &names[1..] {
        nats.publish(format!("tide.ch.{name}.x"), "\"missed\"".into()).await.unwrap().await.unwrap();
    }
    stack.resume("gateway-1").unwrap();
    for _ in &names[1..] {
        assert_eq!(next(&mut events).await.0, "\"missed\"");
    }
}

#[tokio::test]
async fn clients_are_let_go_if_the_stream_never_shows_what_is_missing() {
    let stack = start(quick(&kept_toml(20, "fanout = 'channel'")).gateways(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    client.subscribe("kept:a").await.unwrap();
    client.publish("kept:a", "1").await.unwrap();
    assert_eq!(next(&mut events).await.0, "1");
    // A copy of a message that the stream does not have. Only the broker sends one otherwise.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Sequence", "1000");
    headers.insert("Nats-Last-Sequence", "999");
    let nats = admin(&stack).await;
    nats.publish_with_headers("tide.live.kept.a", headers, "\"behind a hole\"".into()).await.unwrap();
    nats.flush().await.unwrap();
    let told = event(&mut events, |event| match event {
        Event::Unsubscribed { channel, code, .. } => Some((channel, code)),
        Event::Publication { data, .. } => {
            panic!("delivered although something is missing before it: {data:?}")
        }
        _ => None,
    });
    assert_eq!(told.await, ("kept:a".to_owned(), 2500));
}
