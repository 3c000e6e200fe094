//! Events: what the server sends a client without a request.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_shared::protocol::{ClientInfo, Push};
use tokio::sync::mpsc;

use super::error::Closed;

/// Something that happened on a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A publication in a channel, the personal one included.
    Publication {
        /// The channel.
        channel: String,
        /// The payload.
        data: Bytes,
        /// Its offset in the channel's stream; 0 in a channel without history.
        offset: u64,
        /// Metadata of the publication. An answer carries the request id as `re`.
        tags: BTreeMap<String, String>,
        /// The client that published it, if a client did.
        info: Option<ClientInfo>,
    },
    /// A message for this connection, outside any channel.
    Message {
        /// The payload.
        data: Bytes,
    },
    /// The server ended a subscription.
    Unsubscribed {
        /// The channel.
        channel: String,
        /// The unsubscribe code. Below 2500 the client must not subscribe again.
        code: u32,
        /// The server's text.
        reason: String,
    },
    /// The session has connected. Only a [`ReconnectingClient`](super::ReconnectingClient) sends this.
    Connected {
        /// The gateway's address.
        url: String,
        /// The connection's id.
        client: String,
    },
    /// The connection ended; the last event of a plain client.
    Disconnected(Closed),
}

impl Event {
    /// Converts a push. Returns `None` for a kind this client does not use.
    pub(super) fn from_push(push: Push) -> Option<Self> {
        let channel = push.channel;
        if let Some(p) = push.publication {
            return Some(Self::Publication {
                channel,
                data: p.data,
                offset: p.offset,
                tags: p.tags,
                info: p.info,
            });
        }
        if let Some(message) = push.message {
            return Some(Self::Message { data: message.data });
        }
        push.unsubscribe.map(|u| Self::Unsubscribed { channel, code: u.code, reason: u.reason })
    }
}

/// The events of one client, in the order they came.
///
/// Bounded: while the queue is full the socket is not read, so replies stop as well and the gateway disconnects the client
/// as slow. Drop this to discard the events.
#[derive(Debug)]
pub struct Events(pub(super) mpsc::Receiver<Event>);

impl Events {
    /// Returns the next event, or `None` once the client has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// Returns a queued event, or `None` if the queue is empty.
    pub fn try_next(&mut self) -> Option<Event> {
        self.0.try_recv().ok()
    }
}
