//! Newline-delimited JSON: how messages are joined in a text frame, and how payloads travel inside them.
//!
//! A payload field is any JSON value, embedded unchanged.

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{CodecError, lenient};

/// Splits a text frame into its documents. One newline at the end is allowed; an empty document is malformed.
pub fn decode<T: DeserializeOwned>(frame: &str) -> impl Iterator<Item = Result<T, CodecError>> {
    let frame = frame.strip_suffix('\n').unwrap_or(frame);
    frame
        .split('\n')
        .map(|document| lenient::from_str(document).map_err(|error| CodecError::Malformed(error.to_string())))
}

/// Appends one message as one document, free of raw newlines.
pub fn append<T: Serialize>(frame: &mut Vec<u8>, message: &T) -> Result<(), CodecError> {
    serde_json::to_writer(frame, message).map_err(|error| CodecError::Payload(error.to_string()))
}

/// Encodes one message as one document, free of raw newlines.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, CodecError> {
    serde_json::to_vec(message).map(Bytes::from).map_err(|error| CodecError::Payload(error.to_string()))
}

/// The form in which a JSON client receives bytes from a NATS publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The bytes are JSON, or they are text and became a JSON string.
    Json(Bytes),
    /// The bytes are not UTF-8: a JSON string in base64, to be marked with the tag `encoding=base64`.
    Base64(Bytes),
}

impl Payload {
    /// Converts any bytes to a JSON value. Empty bytes become `null`.
    pub fn from_any(bytes: &Bytes) -> Self {
        if bytes.is_empty() {
            return Self::Json(Bytes::from_static(b"null"));
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Self::Base64(quoted(&BASE64.encode(bytes)));
        };
        if serde_json::from_str::<&RawValue>(text).is_err() {
            return Self::Json(quoted(text));
        }
        // A newline in JSON is only white space between tokens, because strings escape it. A space is equivalent.
        if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let line = bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
            return Self::Json(line.collect());
        }
        Self::Json(bytes.clone())
    }

    /// Returns the JSON value of either variant.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Json(bytes) | Self::Base64(bytes) => bytes,
        }
    }
}

fn quoted(text: &str) -> Bytes {
    Bytes::from(serde_json::Value::from(text).to_string())
}

/// Serde for payload fields: raw JSON in a document, bytes in memory.
pub mod raw {
    use std::borrow::Cow;

    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error as _};
    use serde_json::value::RawValue;

    /// Embeds the bytes as they are; an error if they are not one JSON value.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Cow::Borrowed(std::str::from_utf8(bytes).map_err(S::Error::custom)?);
        if text.contains(['\n', '\r']) {
            text = Cow::Owned(text.replace(['\n', '\r'], " "));
        }
        serde_json::from_str::<&RawValue>(&text).map_err(S::Error::custom)?.serialize(serializer)
    }

    /// Keeps the value's text as it was written.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(Bytes::copy_from_slice(raw.get().as_bytes()))
    }
}

/// Serde for a note: raw JSON that says nothing if it is `null`. Unlike a payload it has no meaning of its own then.
pub mod note {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer};

    use super::raw;

    /// Embeds the bytes as they are; an error if they are not one JSON value.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        raw::serialize(bytes, serializer)
    }

    /// Keeps the value's text as it was written, and nothing of `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let bytes = raw::deserialize(deserializer)?;
        Ok(if bytes == "null" { Bytes::new() } else { bytes })
    }
}

/// Serde for bytes that travel as a JSON string.
pub mod text {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, ser::Error as _};

    /// Writes a string; an error if the bytes are not text.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(bytes).map_err(S::Error::custom)?)
    }

    /// Takes the string's text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        String::deserialize(deserializer).map(Bytes::from)
    }
}

/// Serde for the map of subscriptions.
pub mod subs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::protocol::{Sub, SubscribeResult};

    /// Writes an object with a field for each channel.
    pub fn serialize<S: Serializer>(subs: &[Sub], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(subs.iter().map(|sub| (&sub.channel, sub.result.clone().unwrap_or_default())))
    }

    /// Reads it back.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Sub>, D::Error> {
        let map = BTreeMap::<String, SubscribeResult>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(channel, result)| Sub::new(channel, result)).collect())
    }
}
