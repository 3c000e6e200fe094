//! A request with a key that comes again while an earlier copy of it waits, runs or is gone.

use tidegate_cli::{client::Client, stack::Stack};
use tidegate_shared::topology::{PARK, request_stream};

use crate::support::{Hand, answer_to, connect, count, eventually, quick, settled, start};

/// A time that does not come during a test.
const FAR: &str = "2099-01-01T00:00:00Z";
const PAST: &str = "2020-01-01T00:00:00Z";

async fn stack() -> Stack {
    start(quick("[streams]\nduplicate_window = '1s'").gateways(2)).await
}

async fn code(client: &Client, method: &str, body: &'static str) -> Option<u32> {
    client.rpc(method, body).await.unwrap_err().code()
}

/// Takes the request of the key and parks it, as a worker does after a failed attempt.
async fn parked(stack: &Stack, client: &Client, due: &str) -> Hand {
    let hand = Hand::of(stack, "nobody").await;
    let (call, taken) = tokio::join!(client.rpc("nobody#k", "1"), async {
        let (request, message) = hand.take().await;
        hand.park(&request, due).await;
        hand.ack(&message).await;
    });
    assert_eq!((call.unwrap_err().code(), taken), (Some(1001), ()));
    settled(stack, "nobody").await;
    hand
}

#[tokio::test]
async fn a_parked_request_is_the_request_and_is_not_stored_again() {
    let stack = stack().await;
    let (client, _e1) = connect(&stack, 0, "42").await;
    let (other, _e2) = connect(&stack, 1, "42").await;
    let hand = parked(&stack, &client, FAR).await;
    // Each of these waits a second for the answer: after the first one NATS has forgotten the request's id.
    for client in [&client, &other, &other] {
        assert_eq!(code(client, "nobody#k", "1").await, Some(1001));
    }
    assert_eq!(code(&other, "nobody#k", "2").await, Some(1003), "the key belongs to another body");
    assert_eq!(count(&stack, &request_stream("nobody")).await, 0, "it is not stored a second time");
    assert_eq!(count(&stack, PARK).await, 1);
    drop(hand);
}

#[tokio::test]
async fn a_parked_request_whose_time_has_come_is_the_request_until_it_is_answered() {
    let stack = stack().await;
    let (client, _e1) = connect(&stack, 0, "42").await;
    let (other, _e2) = connect(&stack, 1, "42").await;
    let hand = parked(&stack, &client, PAST).await;
    let (request, message) = hand.take_from(PARK).await;
    for client in [&client, &other] {
        assert_eq!(code(client, "nobody#k", "1").await, Some(1001));
    }
    assert_eq!(code(&other, "nobody#k", "2").await, Some(1003));
    assert_eq!(count(&stack, &request_stream("nobody")).await, 0);
    hand.keep(&answer_to(&request, "7")).await;
    hand.ack(&message).await;
    assert_eq!(client.rpc("nobody#k", "1").await.unwrap(), "7");
}

#[tokio::test]
async fn a_request_of_which_nothing_is_left_is_stored_again_although_nats_remembers_its_id() {
    let stack = start(quick("").gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let hand = Hand::of(&stack, "nobody").await;
    for life in 1..=2 {
        let (call, (_, message)) = tokio::join!(client.rpc("nobody#k", "1"), hand.take());
        assert_eq!(call.unwrap_err().code(), Some(1001), "life {life}");
        // As if it were answered, and result_ttl were over.
        hand.ack(&message).await;
        eventually("nothing is left", || async { count(&stack, &request_stream("nobody")).await == 0 }).await;
    }
}

#[tokio::test]
async fn a_request_that_waits_or_runs_is_not_stored_again() {
    let stack = stack().await;
    let (client, _e1) = connect(&stack, 0, "42").await;
    let (other, _e2) = connect(&stack, 1, "42").await;
    let stream = request_stream("nobody");
    for _ in 0..3 {
        assert_eq!(code(&client, "nobody#k", "1").await, Some(1001));
    }
    let hand = Hand::of(&stack, "nobody").await;
    let (request, message) = hand.take().await;
    assert_eq!(code(&other, "nobody#k", "2").await, Some(1003));
    assert_eq!(code(&other, "nobody#k", "1").await, Some(1001));
    assert_eq!(count(&stack, &stream).await, 1);
    let (call, ()) = tokio::join!(other.rpc("nobody#k", "1"), async {
        hand.keep(&answer_to(&request, "7")).await;
        hand.ack(&message).await;
    });
    assert_eq!(call.unwrap(), "7");
    eventually("nothing is left", || async { count(&stack, &stream).await == 0 }).await;
}
