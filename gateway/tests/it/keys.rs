//! Idempotency keys: one stored answer for all retries, on any gateway and at any time.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tidegate_cli::client::{CallError, Event};

use crate::support::{admin, connect, quick, start, worker_user};

/// Calls until there is an answer, as an application with an idempotency key does.
async fn insist(client: &tidegate_cli::client::Client, method: &str, body: &str) -> String {
    for _ in 0..30 {
        match client.rpc(method, body.to_owned()).await {
            Ok(answer) => return String::from_utf8(answer.to_vec()).unwrap(),
            Err(CallError::Server { temporary: true, .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{method}: {error}"),
        }
    }
    panic!("{method}: no answer");
}

#[tokio::test]
async fn concurrent_requests_with_one_key_on_two_gateways_share_one_answer() {
    let toml = "[streams]\nduplicate_window = '1s'\n";
    let stack = start(quick(toml).gateways(2).workers(2)).await;
    let (first, _e1) = connect(&stack, 0, "42").await;
    let (second, _e2) = connect(&stack, 1, "42").await;
    let keys = stream::iter(0..1000).map(|n| {
        let (first, second) = (&first, &second);
        async move {
            let (method, body) = (format!("echo#{n}"), format!("{{\"n\":{n}}}"));
            let (a, b) = tokio::join!(insist(first, &method, &body), insist(second, &method, &body));
            assert_eq!((a.as_str(), b.as_str()), (body.as_str(), body.as_str()));
        }
    });
    keys.buffer_unordered(24).collect::<Vec<()>>().await;
    let replies = async_nats::jetstream::new(admin(&stack).await).get_stream("TIDE_REPLY").await.unwrap();
    let state = replies.get_info().await.unwrap().state;
    assert_eq!((state.messages, state.last_sequence), (1000, 1000), "one answer each was ever stored");
}

#[tokio::test]
async fn a_key_belongs_to_its_user_and_its_method() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (ada, _e1) = connect(&stack, 0, "ada").await;
    let (bob, _e2) = connect(&stack, 0, "bob").await;
    assert_eq!(insist(&ada, "echo#k", "\"a\"").await, "\"a\"");
    assert_eq!(insist(&bob, "echo#k", "\"b\"").await, "\"b\"");
    assert_eq!(insist(&ada, "echo#k", "\"a\"").await, "\"a\"");
}

#[tokio::test]
async fn a_missed_later_answer_is_sent_again_when_its_key_is_repeated() {
    let stack = start(quick("").gateways(2).workers(1)).await;
    let (first, mut events) = connect(&stack, 0, "42").await;
    let receipt = first.rpc("later.echo#k", "1").await.unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!(receipt["duplicate"], false);
    let published = crate::support::event(&mut events, |event| match event {
        Event::Publication { channel, data, offset, .. } if channel == "#42" => Some((data, offset)),
        _ => None,
    });
    let (data, published) = published.await;
    assert_eq!(data, "1");
    // The other gateway may not have received the publication yet: then a client there gets it live as well.
    let (second, mut again) = loop {
        let (client, events) = connect(&stack, 1, "42").await;
        if client.connected().subs[0].result.as_ref().unwrap().offset >= published {
            break (client, events);
        }
    };
    let repeated: serde_json::Value =
        serde_json::from_slice(&second.rpc("later.echo#k", "1").await.unwrap()).unwrap();
    assert_eq!((&repeated["duplicate"], &repeated["id"]), (&true.into(), &receipt["id"]));
    assert_eq!(crate::support::publication(&mut again, "#42").await, "1");
    assert_eq!(second.rpc("later.echo#k", "2").await.unwrap_err().code(), Some(1003));
    assert_eq!((events.try_next(), again.try_next()), (None, None), "nobody else, and once");
}

#[tokio::test]
async fn a_stored_answer_that_cannot_be_read_is_a_permanent_error_that_says_so() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let id = tidegate_shared::id::RequestId::keyed("42", "echo", "a-key");
    let place = stack.config().subjects().reply(&id);
    let jetstream = async_nats::jetstream::new(worker_user(&stack).await);
    jetstream.publish(place, "no headers".into()).await.unwrap().await.unwrap();
    let Err(CallError::Server { temporary, message, .. }) = client.rpc("echo#a-key", "1").await else {
        panic!("it has no answer")
    };
    assert!(!temporary && message.contains("the stored answer cannot be read"), "{message}");
}
