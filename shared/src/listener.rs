//! Handling the messages of a NATS subscription one after the other.

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;

use crate::lifecycle::Lifecycle;

/// Calls `handle` for every message until the subscription ends or the process has finished its work. `handle` must not block:
/// messages behind it wait.
pub async fn listen(mut messages: Subscriber, lifecycle: &Lifecycle, mut handle: impl FnMut(Message)) {
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => handle(message),
                None => return,
            },
            () = lifecycle.finishing() => return,
        }
    }
}
