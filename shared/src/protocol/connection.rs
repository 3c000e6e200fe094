//! Messages about the connection: authentication, expiry and server-side subscriptions.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{SubscribeRequest, SubscribeResult, is_default, json};

/// Authenticate this connection.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// The JWT; empty when the client has none.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
    /// Application data for hooks, not interpreted.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "json::note", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// The client's last positions in its server-side subscriptions.
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
    /// What a browser cannot send as HTTP headers. `traceparent` and `tracestate` are read, others are not.
    #[prost(btree_map = "string, string", tag = "6")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
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
    /// Whether the token expires after `ttl`.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds until the token expires.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Application data for the client.
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// The server-side subscriptions of this connection.
    #[prost(message, repeated, tag = "6")]
    #[serde(with = "json::subs", skip_serializing_if = "Vec::is_empty")]
    pub subs: Vec<Sub>,
    /// Seconds between the server's pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// Whether the client must answer each ping.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// The secret session id under which the client posts further commands, on transports that only receive.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
    /// The gateway that holds the session.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
}

/// An entry of the map of subscriptions: a field of an object in JSON, an entry of a map in protobuf.
///
/// A message of its own, because prost leaves an empty value out of a map's entry and some SDKs then read no subscription.
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
    /// Creates the entry of `channel`.
    pub fn new(channel: impl Into<String>, result: SubscribeResult) -> Self {
        Self { channel: channel.into(), result: Some(result) }
    }
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

/// The answer to a connection's fresh token.
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
    /// Seconds until the new token expires.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// Commands for a connection whose transport only receives: the body of a POST.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct EmulationRequest {
    /// The gateway that holds the session.
    #[prost(string, tag = "1")]
    pub node: String,
    /// The session.
    #[prost(string, tag = "2")]
    pub session: String,
    /// The content of one WebSocket message; in JSON a string that contains it.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(with = "json::text")]
    pub data: Bytes,
}
