//! From the text of another system to an answer. Clients get JSON. Pure.

use bytes::Bytes;
use serde_json::{Value, value::RawValue};
use tidegate_worker::Answer;

/// JSON and nothing stay as they are, other text becomes a JSON string. Fails with what else it is.
pub(crate) fn json(body: Bytes) -> Result<Bytes, &'static str> {
    if body.is_empty() || serde_json::from_slice::<&RawValue>(&body).is_ok() {
        return Ok(body);
    }
    match std::str::from_utf8(&body) {
        Ok(text) => Ok(Value::from(text).to_string().into()),
        Err(_) => Err("neither JSON nor text in UTF-8"),
    }
}

/// An answer of this body alone.
pub(crate) fn plain(body: Bytes) -> Answer {
    Answer::bytes(body)
}
