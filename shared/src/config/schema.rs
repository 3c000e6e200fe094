//! `schema` and `answer_schema` of a `[[route]]`: what requests and answers look like, for the AsyncAPI document alone.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// A JSON schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Schema {
    /// In a file, which has to be there when the document is made.
    File(PathBuf),
    /// In the configuration.
    Inline(Value),
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text.trim_start().starts_with('{') => serde_json::from_str(&text)
                .map(Self::Inline)
                .map_err(|error| D::Error::custom(format!("is not a schema: it is no JSON: {error}"))),
            Value::String(text) if text.is_empty() => {
                Err(D::Error::custom("is empty: name a file, or leave it out"))
            }
            Value::String(path) => Ok(Self::File(path.into())),
            table @ Value::Object(_) => Ok(Self::Inline(table)),
            _ => Err(D::Error::custom(
                "is not a schema: name a file, or write the schema as a table or as JSON in a text",
            )),
        }
    }
}
