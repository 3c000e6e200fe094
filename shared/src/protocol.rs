//! The messages of the Centrifuge client protocol, version 2: what a client says (`Command`) and what it is told (`Reply`).
//!
//! One set of types serves both encodings: the prost attributes give the protobuf form, serde the JSON form. Field names,
//! numbers and which defaults JSON leaves out are the published protocol's. Owns shapes only: it never decides what a
//! command means and never touches a socket.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::filter::FilterNode;

pub mod codes;
pub mod json;
pub mod protobuf;

/// The subprotocol a client offers when it wants protobuf; a JSON client offers none.
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

/// Why bytes could not become a message, or a message could not become bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not a message of this encoding.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// A payload cannot be carried by this encoding.
    #[error("payload is not valid for this encoding: {0}")]
    Payload(String),
}

/// What a client sends. Exactly one verb is expected to be present; none at all is a pong.
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
    /// Start to receive a channel.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribeRequest>,
    /// Stop to receive a channel.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<UnsubscribeRequest>,
    /// Publish into a channel.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishRequest>,
    /// Ask who is in a channel.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceRequest>,
    /// Ask how many are in a channel.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_stats: Option<PresenceStatsRequest>,
    /// Ask for past publications.
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

/// What the gateway sends: with an id the answer to a command, without one a push, and when empty a ping.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The command's id; 0 for a push and for a ping.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// Why the command was not carried out.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// Something that was not asked for.
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

/// An error as the client sees it.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Error {
    /// A number of [`codes`], or an application's own (400 to 999, 1100 to 1999).
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// A sentence for people; never empty, since SDKs read it without asking.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the same call may succeed later.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// Something that was not asked for.
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
    /// The server ended the subscription.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<Unsubscribe>,
    /// A message for this connection, outside any channel.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// The connection ends here; only on transports that have no close frame.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect: Option<Disconnected>,
}

/// Who published or who is present.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// The user's id; empty for an anonymous one.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's id.
    #[prost(string, tag = "2")]
    pub client: String,
    /// What the token said about the connection.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub conn_info: Bytes,
}

/// One message of a channel.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Publication {
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// The client that published it, if a client did.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Its place in the channel's stream.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Small facts beside the payload.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Whether `data` is a patch of the publication before it.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
}

impl Publication {
    /// The publication as an encoding can carry it: JSON clients get any bytes as JSON, with a tag when they are base64.
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
    /// Below 2500 the subscription is over, from 2500 on the client subscribes again.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// A sentence for people; never empty.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// The server ends the connection: what a close frame says elsewhere.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Disconnected {
    /// A number of [`codes::DISCONNECTS`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// A sentence for people; never empty.
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

/// Authenticate this connection.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// The JWT; empty when the client has none.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
    /// Application data; carried, not interpreted.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// Where the client left the subscriptions that the server makes.
    #[prost(btree_map = "string, message", tag = "3")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subs: BTreeMap<String, SubscribeRequest>,
    /// The SDK's name.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The SDK's version.
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
}

/// The connection is authenticated.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectResult {
    /// The connection's id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version; never empty.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the client has to refresh its token after `ttl`.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Subscriptions the server made for this connection.
    #[prost(message, repeated, tag = "6")]
    #[serde(with = "json::subs", skip_serializing_if = "Vec::is_empty")]
    pub subs: Vec<Sub>,
    /// Seconds between the server's pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// Whether each ping is to be answered.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// What further commands are posted under, where the connection itself brings none; a secret.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
    /// The gateway that holds the session.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
}

/// An entry of the map of subscriptions: an object's field in JSON, a map's entry in protobuf.
///
/// Written as a message of its own since prost leaves an empty value out of a map's entry, which some SDKs read as none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sub {
    /// The channel.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Its subscription.
    #[prost(message, optional, tag = "2")]
    pub result: Option<SubscribeResult>,
}

impl Sub {
    /// The subscription of `channel`.
    pub fn new(channel: impl Into<String>, result: SubscribeResult) -> Self {
        Self { channel: channel.into(), result: Some(result) }
    }
}

/// Start to receive a channel.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscribeRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// A subscription JWT, where the channel asks for one.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
    /// Whether to resume from `offset` and `epoch`.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recover: bool,
    /// The stream the offset belongs to.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// The last offset seen.
    #[prost(uint64, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// `fossil` asks for patches instead of whole payloads.
    #[prost(string, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: String,
    /// Which publications are wanted, by their tags.
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf: Option<FilterNode>,
    /// Bit 1 (value 2): answer error 112 instead of a failed recovery.
    #[prost(int64, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub flag: i64,
}

/// The channel is received from now on.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscribeResult {
    /// Whether the client has to bring a fresh token after `ttl`.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Whether the client may resume after a disconnect.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// The stream that offsets belong to.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// What was missed, oldest first.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Publication>,
    /// Whether what was missed is part of this result.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub recovered: bool,
    /// Where the client stands: what it asked from when it recovered, else the newest publication.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether the server watches the client's position for gaps.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// Whether the client asked to resume.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub was_recovering: bool,
    /// Whether payloads come as patches.
    #[prost(bool, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
}

/// Stop to receive a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct UnsubscribeRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
}

/// Publish into a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PublishRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// The payload.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}

/// Ask who is in a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PresenceRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
}

/// Ask how many are in a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PresenceStatsRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
}

/// Ask for past publications.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// How many at most; 0 asks for the position alone, a negative number for as many as one reply may carry.
    #[prost(int32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub limit: i32,
    /// Behind this position, or before it when `reverse`.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<StreamPosition>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub reverse: bool,
}

/// A place in a channel's stream.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    /// The publication's offset.
    #[prost(uint64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The stream it belongs to; empty for whichever there is.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
}

/// Past publications.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryResult {
    /// In the order asked for.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// The stream that offsets belong to.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// The newest publication's place.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// A message that gets no reply.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SendRequest {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}

/// A request for a worker.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct RpcRequest {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// Dot-separated words, then optionally `#` and an idempotency key.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub method: String,
}

/// A worker's answer.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct RpcResult {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}

/// A fresh token for this connection.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshRequest {
    /// The JWT.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
}

/// The connection lives on.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshResult {
    /// The connection's id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the new token expires too.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// A fresh token for a subscription.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SubRefreshRequest {
    /// The channel's name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// The JWT.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
}

/// The subscription lives on.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SubRefreshResult {
    /// Whether the new token expires too.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// Commands for a connection that cannot bring them itself: the body of a POST.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct EmulationRequest {
    /// The gateway that holds the session.
    #[prost(string, tag = "1")]
    pub node: String,
    /// The session.
    #[prost(string, tag = "2")]
    pub session: String,
    /// What would be one WebSocket message; in JSON a string that holds it.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(with = "json::text")]
    pub data: Bytes,
}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Empty {}

/// What a command asks for: the present field of a [`Command`], in the protocol's own order.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Nothing: the answer to a ping.
    Pong,
    /// Authenticate this connection.
    Connect(ConnectRequest),
    /// The protocol's old ping command.
    Ping,
    /// Start to receive a channel.
    Subscribe(SubscribeRequest),
    /// Stop to receive a channel.
    Unsubscribe(UnsubscribeRequest),
    /// Publish into a channel.
    Publish(PublishRequest),
    /// Ask who is in a channel.
    Presence(PresenceRequest),
    /// Ask how many are in a channel.
    PresenceStats(PresenceStatsRequest),
    /// Ask for past publications.
    History(HistoryRequest),
    /// A request for a worker.
    Rpc(RpcRequest),
    /// A message that gets no reply.
    Send(SendRequest),
    /// A fresh token for this connection.
    Refresh(RefreshRequest),
    /// A fresh token for a subscription.
    SubRefresh(SubRefreshRequest),
    /// An id without a verb this server knows.
    Unknown,
}

impl Command {
    /// Returns the command's verb; when several are present the first in the protocol's order wins.
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
    /// The server's ping: a reply with nothing in it.
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

    /// A message outside any channel.
    pub fn message(data: Bytes) -> Self {
        let push = Push { message: Some(Message { data }), ..Push::default() };
        Self { push: Some(push), ..Self::default() }
    }

    /// The end of the connection, for transports that have no close frame.
    pub fn disconnect(disconnect: codes::Disconnect) -> Self {
        let said = Disconnected { code: disconnect.code.into(), reason: disconnect.reason.to_owned() };
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
