//! Pushes: publications, joins and leaves, messages, and changes of subscriptions.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Encoding, is_default, json};

/// A message from the gateway that does not answer a command.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Push {
    /// The channel it belongs to, if any.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// A publication in the channel.
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    /// A client joined the channel.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Presence>,
    /// A client left the channel.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave: Option<Presence>,
    /// The server ended the subscription.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<Unsubscribe>,
    /// A message for this connection, outside any channel.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// The server subscribed this connection.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Subscribed>,
    /// The connection ends; used on transports without a close frame.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect: Option<Disconnected>,
}

/// A client in a publication or in presence.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// The user's id; empty for an anonymous client.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's id.
    #[prost(string, tag = "2")]
    pub client: String,
    /// The connection's information from its token.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub conn_info: Bytes,
    /// The connection's information in this channel from its subscription token.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub chan_info: Bytes,
}

impl ClientInfo {
    /// Returns the information in a form that `encoding` can carry: JSON clients receive any bytes as JSON.
    #[must_use]
    pub fn suited_to(mut self, encoding: Encoding) -> Self {
        if encoding == Encoding::Json {
            for info in [&mut self.conn_info, &mut self.chan_info] {
                if !info.is_empty() {
                    *info = json::Payload::from_any(info).into_bytes();
                }
            }
        }
        self
    }
}

/// The client of a join or a leave.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Presence {
    /// The client.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
}

/// A server-side subscription made after the connect reply: a short form of [`super::SubscribeResult`].
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscribed {
    /// Whether the client may recover the subscription after a disconnect.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// The stream that offsets belong to.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// The offset of the newest publication.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether the server watches the client's position for gaps.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// Application data for the client.
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}

/// One message of a channel.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Publication {
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// The client that published it; `None` for a publication of a service.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Its offset in the channel's stream.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The publication's tags.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Whether `data` is a delta from the previous publication.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
}

impl Publication {
    /// Returns the publication in a form that `encoding` can carry: JSON clients receive any bytes as JSON, with a tag if they
    /// are base64.
    #[must_use]
    pub fn suited_to(mut self, encoding: Encoding) -> Self {
        if encoding == Encoding::Json {
            let payload = json::Payload::from_any(&self.data);
            if matches!(payload, json::Payload::Base64(_)) {
                self.tags.insert("encoding".to_owned(), "base64".to_owned());
            }
            self.data = payload.into_bytes();
        }
        self
    }
}

/// The server ended a subscription.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Unsubscribe {
    /// The code. Below 2500 the subscription is over, from 2500 on the client subscribes again.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// A readable sentence; never empty.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// The server ends the connection. Carries the content of a close frame.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Disconnected {
    /// One of [`codes::DISCONNECTS`](super::codes::DISCONNECTS).
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// A readable sentence; never empty.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// A message for one connection, outside any channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}
