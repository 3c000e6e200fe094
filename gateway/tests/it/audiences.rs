//! Permissions: channels limited to users, channels for subscribers, and recovery for clients that ask for it.

use tidegate_cli::client::{CallError, Client};
use tidegate_shared::protocol::{HistoryRequest, SubscribeRequest};

use crate::support::{connect, history, publication, quick, start, subscribe};

const TOML: &str = r#"
[[namespace]]
name = "dialogs"
allow_subscribe = "nobody"
user_limited = true
allow_publish = "subscriber"
allow_history = "subscriber"
history_size = 10

[[namespace]]
name = "plain"
allow_history = "subscriber"
history_size = 10
force_recovery = false
force_positioning = false
"#;

/// Returns how many publications the client can read.
async fn count_history(client: &Client, channel: &str) -> Result<usize, CallError> {
    let request = HistoryRequest { channel: channel.to_owned(), limit: -1, ..HistoryRequest::default() };
    history(client, request).await.map(|result| result.publications.len())
}

#[tokio::test]
async fn a_channel_that_lists_users_is_open_to_those_users_only() {
    let stack = start(quick(TOML).gateways(2)).await;
    let (ada, _events) = connect(&stack, 0, "41").await;
    let (ben, mut heard) = connect(&stack, 1, "42").await;
    let (eve, _events) = connect(&stack, 1, "4").await;
    let channel = "dialogs:room#41,42";
    assert_eq!(ada.publish(channel, "1").await.unwrap_err().code(), Some(103), "a subscriber's right");
    ada.subscribe(channel).await.unwrap();
    ben.subscribe(channel).await.unwrap();
    ada.publish(channel, "1").await.unwrap();
    assert_eq!(publication(&mut heard, channel).await, "1");
    assert_eq!(count_history(&ben, channel).await.unwrap(), 1);
    for (name, result) in [
        ("subscribe", eve.subscribe(channel).await.map(|_| 0)),
        ("publish", eve.publish(channel, "1").await.map(|()| 0)),
        ("history", count_history(&eve, channel).await),
    ] {
        assert_eq!(result.unwrap_err().code(), Some(103), "{name}");
    }
    for channel in ["dialogs:room#*", "dialogs:room#4*", "dialogs:*", "dialogs:room#41,42.", "dialogs:room"] {
        assert_eq!(ben.subscribe(channel).await.unwrap_err().code(), Some(103), "{channel}");
    }
}

#[tokio::test]
async fn without_force_recovery_only_clients_that_ask_can_recover() {
    let stack = start(quick(TOML).gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let plain = SubscribeRequest { channel: "plain:x".to_owned(), ..SubscribeRequest::default() };
    let result = subscribe(&client, plain.clone()).await.unwrap();
    assert!(!result.recoverable && !result.positioned && result.epoch.is_empty());
    let asking = SubscribeRequest { recoverable: true, channel: "plain:y".to_owned(), ..plain };
    let result = subscribe(&client, asking).await.unwrap();
    assert!(result.recoverable && result.positioned && !result.epoch.is_empty());
}
