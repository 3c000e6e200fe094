//! The permissions of each user of the broker.

use crate::support::eventually;
use tidegate_cli::stack::Stack;

#[tokio::test]
async fn a_connection_needs_a_password_and_setup_cannot_delete_requests_or_answers() {
    let stack = Stack::builder().start().await.unwrap();
    assert!(async_nats::connect(stack.nats_url()).await.is_err());
    let broker = tidegate_cli::stack::setup::connect(stack.config()).await.unwrap();
    for stream in ["TIDE_PARK", "TIDE_REPLY", "TIDE_DEAD", "TIDE_IN"] {
        assert!(broker.jetstream().delete_stream(stream).await.is_err());
        assert!(broker.jetstream().get_stream(stream).await.is_ok());
    }
    eventually("the broker says so", || stack.log_of("nats").contains("tide.js.STREAM.DELETE.TIDE_IN")).await;
    stack.down().await;
}
