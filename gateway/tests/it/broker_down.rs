//! The broker is killed under load and restarted: sockets stay open, accepted requests are answered, and refused requests do not
//! run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tidegate_cli::{
    client::{CallError, Client},
    stack::Stack,
};
use tokio::task::JoinSet;

use crate::support::{connect, eventually, get, kept_toml, nothing_panicked, quick, start};

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    refused: AtomicUsize,
    unclear: AtomicUsize,
}

/// Calls with fresh keys until told to stop. Repeats each key, because every accepted request must be answered.
async fn call_on(client: Client, name: usize, stop: Arc<AtomicBool>, counts: Arc<Counts>) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let body = format!("\"{name}-{n}\"");
        loop {
            match client.rpc(&format!("echo#{name}-{n}"), body.clone()).await {
                Ok(answer) => {
                    assert_eq!(answer, body);
                    counts.answered.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(CallError::Server { code: 1000, temporary: true, .. }) => {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(CallError::Server { code: 1001 | 1002, temporary: true, .. }) => {
                    counts.unclear.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{name}-{n}: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn every_accepted_request_is_answered_though_the_broker_is_killed_under_load() {
    let stack =
        start(quick("[worker]\nack_wait = '5s'\n[nats]\nack_timeout = '500ms'").gateways(1).workers(2)).await;
    let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
    let mut callers = JoinSet::new();
    let mut clients = Vec::new();
    for name in 0..16 {
        let (client, events) = connect(&stack, 0, &format!("caller-{name}")).await;
        callers.spawn(call_on(client.clone(), name, Arc::clone(&stop), Arc::clone(&counts)));
        clients.push((client, events));
    }
    let answered = |at_least: usize| {
        let counts = &counts;
        eventually("requests are answered", move || async move {
            counts.answered.load(Ordering::Relaxed) >= at_least
        })
    };
    answered(100).await;
    stack.hold("nats").await.unwrap();
    eventually("the gateway is not ready", || async { get(&stack, "/readyz").await.0 == 503 }).await;
    assert_eq!(get(&stack, "/healthz").await.0, 200, "alive all the same");
    eventually("requests are refused at once", || async { counts.refused.load(Ordering::Relaxed) > 16 })
        .await;
    let before = counts.answered.load(Ordering::Relaxed);
    stack.start_process("nats").await.unwrap();
    answered(before + 200).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert!(clients.iter().all(|(client, _)| client.closed().is_none()), "the sockets stayed up");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn publications_arrive_again_after_the_broker_was_killed() {
    let stack = start(quick("").gateways(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    client.subscribe("chat:lobby").await.unwrap();
    stack.hold("nats").await.unwrap();
    stack.start_process("nats").await.unwrap();
    eventually("the gateway is ready again", || async { get(&stack, "/readyz").await.0 == 200 }).await;
    eventually("publishing works again", || async { client.publish("chat:lobby", "\"back\"").await.is_ok() })
        .await;
    assert_eq!(crate::support::publication(&mut events, "chat:lobby").await, "\"back\"");
}

/// Publishes until told to stop, 16 at a time. Returns what was called stored.
async fn publish_on(
    client: Client,
    name: usize,
    stop: Arc<AtomicBool>,
    stored: Arc<AtomicUsize>,
) -> Vec<String> {
    let numbers = stream::iter(0..).take_while(|_| std::future::ready(!stop.load(Ordering::Relaxed)));
    let publishing = numbers.map(|n: usize| {
        let (client, stored) = (client.clone(), Arc::clone(&stored));
        async move {
            let body = format!("\"{name}-{n}\"");
            match client.publish(&format!("kept:{name}"), body.clone()).await {
                Ok(()) => {
                    stored.fetch_add(1, Ordering::Relaxed);
                    Some(body)
                }
                Err(CallError::Server { code: 1000 | 1002, .. }) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    None
                }
                Err(error) => panic!("{body}: {error:?}"),
            }
        }
    });
    publishing.buffer_unordered(16).filter_map(std::future::ready).collect().await
}

/// The bodies of all publications in the namespace `kept`.
async fn all_kept(stack: &Stack) -> Vec<String> {
    let (admin, mut from, mut bodies) = (stack.admin().await.unwrap(), 1, Vec::new());
    loop {
        let range = admin.range("TIDE_CH_kept", "tide.ch.kept.>", from, 1000).await.unwrap();
        let Some(last) = range.messages.last() else { return bodies };
        from = tidegate_shared::broker::header_number(last, "Nats-Sequence").unwrap() + 1;
        bodies.extend(range.messages.iter().map(|m| String::from_utf8(m.payload.to_vec()).unwrap()));
    }
}

#[tokio::test]
async fn every_publication_that_was_called_stored_is_there_once_though_the_broker_is_killed_under_load() {
    let toml = format!("[nats]\nack_timeout = '500ms'\n{}", kept_toml(100_000, ""));
    let stack = start(quick(&toml).gateways(1)).await;
    let (stop, stored) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (mut publishers, mut clients) = (JoinSet::new(), Vec::new());
    for name in 0..16 {
        let (client, events) = connect(&stack, 0, &format!("publisher-{name}")).await;
        publishers.spawn(publish_on(client.clone(), name, Arc::clone(&stop), Arc::clone(&stored)));
        clients.push((client, events));
    }
    for _ in 0..2 {
        let more = stored.load(Ordering::Relaxed) + 2000;
        let reached = || async { stored.load(Ordering::Relaxed) >= more };
        eventually("publications are stored", reached).await;
        stack.hold("nats").await.unwrap();
        stack.start_process("nats").await.unwrap();
    }
    let more = stored.load(Ordering::Relaxed) + 2000;
    eventually("publications are stored again", || async { stored.load(Ordering::Relaxed) >= more }).await;
    stop.store(true, Ordering::Relaxed);
    let told: Vec<String> = publishers.join_all().await.into_iter().flatten().collect();
    let mut times = std::collections::HashMap::new();
    for body in all_kept(&stack).await {
        *times.entry(body).or_insert(0) += 1;
    }
    for body in told {
        assert_eq!(times.get(&body), Some(&1), "{body}");
    }
    assert!(times.values().all(|times| *times == 1), "nothing is stored twice");
    nothing_panicked(&stack);
}
