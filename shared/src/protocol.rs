//! The messages of the Centrifuge client protocol, version 2: commands from clients and replies to them.
//!
//! One set of types serves both encodings: the prost attributes give the protobuf form, serde gives the JSON form. Field names,
//! numbers, and the defaults that JSON leaves out are those of the published protocol. The types define shapes only: what a
//! command means is decided elsewhere.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::{
    call::{RpcRequest, RpcResult, SendRequest},
    channel::{
        HistoryRequest, HistoryResult, PresenceRequest, PresenceResult, PresenceStatsRequest,
        PresenceStatsResult, PublishRequest, StreamPosition, SubRefreshRequest, SubRefreshResult,
        SubscribeRequest, SubscribeResult, UnsubscribeRequest,
    },
    connection::{ConnectRequest, ConnectResult, EmulationRequest, RefreshRequest, RefreshResult, Sub},
    push::{ClientInfo, Disconnected, Message, Presence, Publication, Push, Subscribed, Unsubscribe},
};

mod call;
mod channel;
pub mod codes;
mod connection;
pub mod json;
pub mod lenient;
pub mod protobuf;
mod push;

/// The subprotocol that a client offers for protobuf. A JSON client offers none.
pub const PROTOBUF_SUBPROTOCOL: &str = "centrifuge-protobuf";
/// The subprotocol name of JSON, echoed when a client asks for it by name.
pub const JSON_SUBPROTOCOL: &str = "centrifuge-json";

/// The two encodings of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Documents separated by newlines, in WebSocket text messages.
    Json,
    /// Messages prefixed by their length, in WebSocket binary messages.
    Protobuf,
}

/// Why bytes could not be decoded, or a message could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not a message of this encoding.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The encoding cannot carry the payload.
    #[error("payload is not valid for this encoding: {0}")]
    Payload(String),
}

/// A command of a client. Exactly one verb is expected to be present; a command without one is a pong.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Command {
    /// Chosen by the client, increasing; 0 only for `send` and for a pong.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// Authenticate this connection.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectRequest>,
    /// Subscribe to a channel.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribeRequest>,
    /// Unsubscribe from a channel.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<UnsubscribeRequest>,
    /// Publish into a channel.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishRequest>,
    /// Request the members of a channel.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceRequest>,
    /// Request the number of members of a channel.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_stats: Option<PresenceStatsRequest>,
    /// Request past publications.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryRequest>,
    /// The protocol's old ping command; answered "not available".
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Empty>,
    /// A message that gets no reply.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<SendRequest>,
    /// A request for a worker.
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc: Option<RpcRequest>,
    /// A fresh token for this connection.
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshRequest>,
    /// A fresh token for a subscription.
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_refresh: Option<SubRefreshRequest>,
}

/// A message from the gateway. With an id it answers a command, without one it is a push, and an empty one is a ping.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The command's id; 0 for a push and for a ping.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// Why the command failed.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// A push: a message that does not answer a command.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// Answer to `connect`.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectResult>,
    /// Answer to `subscribe`.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribeResult>,
    /// Answer to `unsubscribe`.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<Empty>,
    /// Answer to `publish`.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Empty>,
    /// Answer to `presence`.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceResult>,
    /// Answer to `presence_stats`.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_stats: Option<PresenceStatsResult>,
    /// Answer to `history`.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryResult>,
    /// Answer to `rpc`.
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc: Option<RpcResult>,
    /// Answer to `refresh`.
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshResult>,
    /// Answer to `sub_refresh`.
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_refresh: Option<SubRefreshResult>,
}

/// An error in the form that clients receive.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Error {
    /// One of [`codes`], or a code of the application (400 to 999, 1100 to 1999).
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// A readable sentence; never empty, because SDKs read it without a check.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the same call may succeed later.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Empty {}

/// The verb of a command: the present field of a [`Command`], in the protocol's own order.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// The answer to a ping: a command without a verb and without an id.
    Pong,
    /// Authenticate this connection.
    Connect(ConnectRequest),
    /// The protocol's old ping command.
    Ping,
    /// Subscribe to a channel.
    Subscribe(SubscribeRequest),
    /// Unsubscribe from a channel.
    Unsubscribe(UnsubscribeRequest),
    /// Publish into a channel.
    Publish(PublishRequest),
    /// Request the members of a channel.
    Presence(PresenceRequest),
    /// Request the number of members of a channel.
    PresenceStats(PresenceStatsRequest),
    /// Request past publications.
    History(HistoryRequest),
    /// A request for a worker.
    Rpc(RpcRequest),
    /// A message that gets no reply.
    Send(SendRequest),
    /// A fresh token for this connection.
    Refresh(RefreshRequest),
    /// A fresh token for a subscription.
    SubRefresh(SubRefreshRequest),
    /// A command with an id, but without a verb that this server knows.
    Unknown,
}

impl Command {
    /// Returns the command's verb. If several are present, the first in the protocol's order wins.
    pub fn verb(self) -> Verb {
        let id = self.id;
        if let Some(r) = self.connect {
            Verb::Connect(r)
        } else if self.ping.is_some() {
            Verb::Ping
        } else if let Some(r) = self.subscribe {
            Verb::Subscribe(r)
        } else if let Some(r) = self.unsubscribe {
            Verb::Unsubscribe(r)
        } else if let Some(r) = self.publish {
            Verb::Publish(r)
        } else if let Some(r) = self.presence {
            Verb::Presence(r)
        } else if let Some(r) = self.presence_stats {
            Verb::PresenceStats(r)
        } else if let Some(r) = self.history {
            Verb::History(r)
        } else if let Some(r) = self.rpc {
            Verb::Rpc(r)
        } else if let Some(r) = self.send {
            Verb::Send(r)
        } else if let Some(r) = self.refresh {
            Verb::Refresh(r)
        } else if let Some(r) = self.sub_refresh {
            Verb::SubRefresh(r)
        } else if id == 0 {
            Verb::Pong
        } else {
            Verb::Unknown
        }
    }
}

impl Reply {
    /// The server's ping: an empty reply.
    pub fn ping() -> Self {
        Self::default()
    }

    /// An error in answer to command `id`.
    pub fn error(id: u32, error: Error) -> Self {
        Self { id, error: Some(error), ..Self::default() }
    }

    /// A publication in `channel`.
    pub fn publication(channel: impl Into<String>, publication: Publication) -> Self {
        let push = Push { channel: channel.into(), publication: Some(publication), ..Push::default() };
        Self { push: Some(push), ..Self::default() }
    }

    /// A client joined `channel`.
    pub fn join(channel: impl Into<String>, info: ClientInfo) -> Self {
        let push =
            Push { channel: channel.into(), join: Some(Presence { info: Some(info) }), ..Push::default() };
        Self { push: Some(push), ..Self::default() }
    }

    /// A client left `channel`.
    pub fn leave(channel: impl Into<String>, info: ClientInfo) -> Self {
        let push =
            Push { channel: channel.into(), leave: Some(Presence { info: Some(info) }), ..Push::default() };
        Self { push: Some(push), ..Self::default() }
    }

    /// A message outside any channel.
    pub fn message(data: Bytes) -> Self {
        let push = Push { message: Some(Message { data }), ..Push::default() };
        Self { push: Some(push), ..Self::default() }
    }

    /// The end of the connection, for transports without a close frame.
    pub fn disconnect(disconnect: codes::Disconnect) -> Self {
        let said = Disconnected { code: disconnect.code.into(), reason: disconnect.reason.into_owned() };
        let push = Push { disconnect: Some(said), ..Push::default() };
        Self { push: Some(push), ..Self::default() }
    }
}

/// Encodes one reply as one message of `encoding`, without the separator or length prefix that joins messages in a frame.
pub fn encode_reply(encoding: Encoding, reply: &Reply) -> Result<Bytes, CodecError> {
    match encoding {
        Encoding::Json => json::encode(reply),
        Encoding::Protobuf => Ok(protobuf::encode(reply)),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
