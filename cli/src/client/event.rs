//! What a client is told without having asked.

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
        /// Its place in the channel's stream; 0 when the channel has none.
        offset: u64,
        /// Small facts beside the payload; an answer has `re`.
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
        /// Below 2500 it is over for good.
        code: u32,
        /// The server's text.
        reason: String,
    },
    /// A connection stands. Only a [`ReconnectingClient`](super::ReconnectingClient) session tells this.
    Connected {
        /// Where to.
        url: String,
        /// The connection's id.
        client: String,
    },
    /// The connection ended; the last event of a plain client.
    Disconnected(Closed),
}

impl Event {
    /// Reads a push; nothing if it is of a kind this client has no use for.
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
/// Bounded: while it is full the socket is not read, so a client that does not look at its events gets no replies either,
/// and the gateway ends it as slow. Drop it if the events are of no interest.
#[derive(Debug)]
pub struct Events(pub(super) mpsc::Receiver<Event>);

impl Events {
    /// Returns the next event; nothing once the client has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// Returns an event if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.0.try_recv().ok()
    }
}
