//! SIGTERM: waiting requests are answered, clients are told to reconnect, and the process exits with success.

use tidegate_cli::{client::Event, stack::Stack};

use crate::support::{admin, connect, event, eventually, get, quick, start};

/// Waits until the broker has a request of the route `echo`.
async fn request_stored(stack: &Stack) {
    let jetstream = async_nats::jetstream::new(admin(stack).await);
    let requests = jetstream.get_stream("TIDE_IN_echo").await.unwrap();
    eventually("the request is stored", || async { requests.get_info().await.unwrap().state.messages == 1 })
        .await;
}

#[tokio::test]
async fn a_draining_gateway_answers_waiting_requests_and_disconnects_its_clients() {
    let stack = start(quick("").gateways(2).workers(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let (idle, mut idle_events) = connect(&stack, 0, "43").await;
    let (elsewhere, _events) = connect(&stack, 1, "42").await;
    stack.pause("worker-1").unwrap();
    let mut calls = tokio::task::JoinSet::new();
    let caller = client.clone();
    calls.spawn(async move { caller.rpc("echo", "\"in time\"").await });
    // From here on it must be answered.
    request_stored(&stack).await;
    let stopping = async { stack.stop("gateway-1").await.unwrap() };
    let resuming = async {
        eventually("it is draining", || async { get(&stack, "/readyz").await.1.contains("draining") }).await;
        stack.resume("worker-1").unwrap();
    };
    let (status, ()) = tokio::join!(stopping, resuming);
    assert!(status.success(), "{status}");
    assert_eq!(calls.join_next().await.unwrap().unwrap().unwrap(), "\"in time\"");
    for (client, events) in [(client, &mut events), (idle, &mut idle_events)] {
        let end = event(events, |event| match event {
            Event::Disconnected(closed) => Some(closed),
            _ => None,
        })
        .await;
        assert_eq!((end.code, end.reason.as_str()), (3001, "shutdown"));
        assert!(client.closed().is_some());
    }
    assert_eq!(elsewhere.rpc("echo", "1").await.unwrap(), "1");
}

#[tokio::test]
async fn whoever_asks_a_draining_gateway_for_its_state_is_answered() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    stack.pause("worker-1").unwrap();
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn(async move { client.rpc("echo", "1").await });
    request_stored(&stack).await;
    let stopping = async { stack.stop("gateway-1").await.unwrap() };
    let asking = async {
        eventually("it is draining", || async { get(&stack, "/readyz").await.0 == 503 }).await;
        for _ in 0..30 {
            let (status, body) = get(&stack, "/readyz").await;
            assert!(status == 503 && body.contains("draining"), "{status} {body:?}");
            assert_eq!(get(&stack, "/healthz").await.0, 200);
        }
        stack.resume("worker-1").unwrap();
    };
    tokio::join!(stopping, asking);
}
