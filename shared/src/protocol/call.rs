//! Messages for workers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{is_default, json};

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
