//! Namespaces with `publish = "worker"`.

use tidegate_cli::client::Event;
use tidegate_shared::protocol::Encoding;

use crate::support::{connect, connect_as, event, nothing_panicked, publication, quick, start};

const TOML: &str = r#"
[[namespace]]
name = "room"
allow_publish = "authenticated"
publish = "worker"

[[namespace]]
name = "stage"
publish = "worker"

[[route]]
name = "rooms"
match = "pub.room"
handler = "room"
concurrency = 1

[[route]]
name = "stages"
match = "pub.stage"
handler = "room"
"#;

#[tokio::test]
async fn a_worker_publishes_a_clients_publication_in_the_name_of_its_sender() {
    let stack = start(quick(TOML).gateways(2).workers(1)).await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let channel = format!("room:{encoding:?}");
        let (listener, mut events) = connect_as(&stack, 1, "1", encoding).await;
        listener.subscribe(&channel).await.unwrap();
        let (sender, _events) = connect_as(&stack, 0, "2", encoding).await;
        sender.publish(&channel, "\"hi\"").await.unwrap();
        let (data, info) = event(&mut events, |event| match event {
            Event::Publication { data, info, .. } => Some((data, info.unwrap())),
            _ => None,
        })
        .await;
        assert_eq!(data, "\"hi\"");
        assert_eq!((info.user.as_str(), info.client.as_str()), ("2", sender.id()));
    }
    let (client, _events) = connect(&stack, 0, "3").await;
    assert_eq!(
        client.publish("stage:x", "1").await.unwrap_err().code(),
        Some(103),
        "who may is not the worker's"
    );
    nothing_panicked(&stack);
}

#[tokio::test]
async fn publications_stored_without_a_worker_are_published_in_order_when_one_starts() {
    let stack = start(quick(TOML).gateways(1).workers(1)).await;
    let (client, mut events) = connect(&stack, 0, "1").await;
    client.subscribe("room:x").await.unwrap();
    stack.hold("worker-1").await.unwrap();
    let sent: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    futures_util::future::try_join_all(sent.iter().map(|text| client.publish("room:x", text.clone())))
        .await
        .unwrap();
    stack.start_process("worker-1").await.unwrap();
    for text in sent {
        assert_eq!(publication(&mut events, "room:x").await, text);
    }
    nothing_panicked(&stack);
}
