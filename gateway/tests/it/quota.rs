//! Few users cannot stop everybody: what each has unfinished on a route is limited.

use futures_util::future::join_all;
use tidegate_cli::client::{CallError, Client, Options};
use tidegate_shared::broker::Broker;

use crate::support::{admin, connect, eventually, get, nothing_panicked, quick, start, url};

/// A route that no worker takes: `later` requests are accepted and wait.
const ROUTES: &str = "[[route]]\nname = 'slow'\nmatch = 'rpc.slow'\nanswer = 'later'\nmax_bytes = '256 KiB'\n\
                      [[route]]\nname = 'open'\nmatch = 'rpc.open'\nmax_bytes = '256 KiB'\n";

fn body() -> String {
    format!("\"{}\"", "x".repeat(1000))
}

fn refused(result: Result<bytes::Bytes, CallError>) -> bool {
    match result {
        Ok(_) | Err(CallError::Server { code: 1001, .. }) => false,
        Err(CallError::Server { code: 1000, temporary: true, message }) => {
            assert!(message.contains("too many unfinished requests"), "{message}");
            true
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// Calls until this many calls are refused, on every connection at once. Returns how many were accepted.
async fn fill(clients: &[Client], method: &str) -> usize {
    let each = clients.iter().map(|client| async move {
        let mut accepted = 0;
        while !refused(client.rpc(method, body()).await) {
            accepted += 1;
        }
        accepted
    });
    join_all(each).await.into_iter().sum()
}

#[tokio::test]
async fn forty_connections_of_one_user_fill_their_share_of_a_route_and_others_can_call_it_and_every_other() {
    let stack = start(quick(ROUTES).gateways(1).workers(1)).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(connect(&stack, 0, "greedy").await.0);
    }
    let accepted = fill(&clients, "slow").await;
    assert!((8..=26).contains(&accepted), "a tenth of 256 KiB: {accepted}");
    let (other, _events) = connect(&stack, 0, "42").await;
    assert!(!refused(other.rpc("slow", body()).await), "the same route");
    assert_eq!(other.rpc("echo", "1").await.unwrap(), "1", "another route");
    assert_eq!(clients[0].rpc("echo", "1").await.unwrap(), "1", "another route for the same user");
    let page = get(&stack, "/metrics").await.1;
    let refusals = "tidegate_gateway_over_quota_total{route=\"slow\",holder=\"user\"}";
    assert!(page.contains(refusals), "{page}");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn clients_without_a_user_fill_a_share_of_their_own_together() {
    let stack = start(quick(&format!("[auth]\nanonymous = true\n{ROUTES}")).gateways(1)).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(Client::connect(Options::new(url(&stack, 0))).await.unwrap().0);
    }
    let accepted = fill(&clients, "open").await;
    assert!((50..=128).contains(&accepted), "half of 256 KiB: {accepted}");
    let (user, _events) = connect(&stack, 0, "42").await;
    assert!(!refused(user.rpc("open", body()).await));
}

#[tokio::test]
async fn a_user_at_its_limit_may_go_on_when_its_requests_have_left_the_stream() {
    let stack = start(quick(ROUTES).gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    fill(std::slice::from_ref(&client), "slow").await;
    // What a worker would do: it acknowledges everything.
    let nats = &stack.config().nats;
    let worker = Broker::connect(nats, &nats.worker, "worker", 16, true).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        worker.jetstream().get_consumer_from_stream("slow", "TIDE_IN_slow").await.unwrap();
    let mut messages = consumer.fetch().max_messages(100).messages().await.unwrap();
    while let Some(message) = futures_util::StreamExt::next(&mut messages).await {
        message.unwrap().double_ack().await.unwrap();
    }
    let jetstream = async_nats::jetstream::new(admin(&stack).await);
    let stream = jetstream.get_stream("TIDE_IN_slow").await.unwrap();
    eventually("they are purged", || async { stream.get_info().await.unwrap().state.messages == 0 }).await;
    eventually("the user may call again", || async { !refused(client.rpc("slow", body()).await) }).await;
}

#[tokio::test]
async fn answered_requests_do_not_count_although_they_are_in_the_stream() {
    let limits = "[gateway.limits]\nuser_requests = 3\n";
    let stack = start(quick(limits).gateways(1).workers(1)).await;
    stack.hold("purger").await.unwrap();
    let (client, _events) = connect(&stack, 0, "42").await;
    for n in 0..20 {
        assert_eq!(client.rpc("echo", n.to_string()).await.unwrap(), n.to_string());
    }
    for n in 0..3 {
        assert!(!refused(client.rpc("nobody", n.to_string()).await));
    }
    assert!(refused(client.rpc("nobody", "3").await));
}

#[tokio::test]
async fn a_keyed_request_that_is_sent_again_counts_once() {
    let stack = start(quick("[gateway.limits]\nuser_requests = 2\n").gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    for _ in 0..4 {
        assert!(!refused(client.rpc("nobody#k", "1").await));
    }
    assert!(!refused(client.rpc("nobody", "2").await));
    assert!(refused(client.rpc("nobody", "3").await));
}
