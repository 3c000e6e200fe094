//! What is broken in the broker shows in the gateway's readiness, log and metrics, and is over when it is mended.

use std::cell::Cell;

use tidegate_cli::{
    client::CallError,
    stack::{Stack, setup},
};

use crate::support::{connect, eventually, get, kept, quick, start};

/// Waits until `/readyz` has this status and text.
async fn readiness(stack: &Stack, status: u16, text: &str) -> String {
    let found = Cell::new(String::new());
    eventually(&format!("{status} {text}"), || async {
        let (now, page) = get(stack, "/readyz").await;
        let matches = now == status && page.contains(text);
        found.set(page);
        matches
    })
    .await;
    found.take()
}

async fn apply(stack: &Stack) {
    let broker = setup::connect(stack.config()).await.unwrap();
    setup::apply(&broker, stack.config()).await.unwrap();
}

async fn delete(stack: &Stack, stream: &str) {
    let broker = stack.admin().await.unwrap();
    broker.jetstream().delete_stream(stream).await.unwrap();
}

#[tokio::test]
async fn a_full_stream_of_requests_is_named_and_the_gateway_stays_ready_for_the_rest() {
    let small = "[gateway.limits]\nuser_share = 100\n\
                 [[route]]\nname = 'small'\nmatch = 'rpc.small'\nmax_bytes = '2 KiB'\n";
    let stack = start(quick(small).gateways(1)).await;
    // One user's share alone is refused before the stream is full.
    for user in ["42", "43", "44"] {
        let (client, _events) = connect(&stack, 0, user).await;
        for _ in 0..2 {
            match client.rpc("small", format!("\"{}\"", "x".repeat(600))).await {
                Err(CallError::Server { code: 1000 | 1001, .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let page = readiness(&stack, 200, "the stream TIDE_IN_small stores nothing, for ").await;
    assert!(page.starts_with("ready, but with faults\n"), "{page}");
    assert!(page.contains("it is full") && page.contains("max_bytes of the route \"small\""), "{page}");
    let metrics = get(&stack, "/metrics").await.1;
    assert!(
        metrics.contains("tidegate_gateway_faults{place=\"TIDE_IN_small\",problem=\"full\"} 1"),
        "{metrics}"
    );
    let log = stack.log_of("gateway-1");
    assert_eq!(log.matches("the stream TIDE_IN_small stores nothing").count(), 1, "{log}");
}

#[tokio::test]
async fn a_deleted_stream_of_a_namespace_is_named_until_apply_creates_it() {
    let stack = kept(1).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    delete(&stack, "TIDE_CH_kept").await;
    assert!(client.publish("kept:lobby", "1").await.is_err());
    readiness(&stack, 200, "the stream TIDE_CH_kept stores nothing, for ").await;
    apply(&stack).await;
    eventually("publishing works again", || async { client.publish("kept:lobby", "2").await.is_ok() }).await;
    readiness(&stack, 200, "ready\n").await;
}

#[tokio::test]
async fn a_gateway_that_cannot_store_its_lease_is_not_ready_until_it_can() {
    let stack = start(quick("[presence]\nlease = '3s'").gateways(1)).await;
    delete(&stack, "TIDE_PRESENCE").await;
    let page = readiness(&stack, 503, "the stream TIDE_PRESENCE stores nothing, for ").await;
    assert!(page.contains("run `tidegate apply`"), "{page}");
    apply(&stack).await;
    readiness(&stack, 200, "ready").await;
}

#[tokio::test]
async fn a_broker_that_cannot_write_makes_the_gateway_unready_until_it_is_mended() {
    let stack = start(quick("[nats]\nack_timeout = '500ms'").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
    // No file may become longer than this: for the broker, as good as a full disk.
    let pid = stack.pid("nats").unwrap().to_string();
    let limited = std::process::Command::new("prlimit").args(["--pid", &pid, "--fsize=64"]).status().unwrap();
    assert!(limited.success());
    let outcome = client.rpc("echo", "2").await;
    assert!(matches!(outcome, Err(CallError::Server { code: 1002, .. })), "{outcome:?}");
    let page = readiness(&stack, 503, "the stream TIDE_IN_echo stores nothing, for ").await;
    assert!(page.contains("Look at its disk"), "{page}");
    stack.kill("nats").await.unwrap();
    eventually("requests are answered again", || async { client.rpc("echo", "3").await.is_ok() }).await;
    readiness(&stack, 200, "ready").await;
    let log = stack.log_of("gateway-1");
    assert_eq!(log.matches("WARN the stream TIDE_IN_echo stores nothing").count(), 1, "{log}");
}
