//! Handling the messages of a NATS subscription in order.

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;

use crate::lifecycle::Lifecycle;

/// Calls `handle` for every message until the subscription ends or the process has finished its work. `handle` must not block: it
/// delays the messages behind it.
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
