//! Parsing of durations, sizes and secrets.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error as _};

/// Durations: `"30s"`, `"2m"`, `"1h 30m"`.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error as _};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!("{text:?} is not a duration such as \"30s\" or \"2m\": {error}"))
        })
    }
}

/// Sizes: `"64 KiB"`, `"1 GiB"`, or a number of bytes.
pub(crate) mod size {
    use serde::{Deserialize, Deserializer, de::Error as _};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match Size::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected a size such as \"64 KiB\""))?
        {
            Size::Bytes(bytes) => Ok(bytes),
            Size::Text(text) => text.parse::<bytesize::ByteSize>().map(|size| size.0).map_err(|error| {
                D::Error::custom(format!("{text:?} is not a size such as \"64 KiB\": {error}"))
            }),
        }
    }
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether no value was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of the public secrets of the default file.
    pub fn is_built_in(&self) -> bool {
        self.0.starts_with("dev-")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A password of digits in the environment arrives as a number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Text(String),
            Number(u64),
        }
        match Text::deserialize(deserializer).map_err(|_| D::Error::custom("expected a text"))? {
            Text::Text(text) => Ok(Self(text)),
            Text::Number(number) => Ok(Self(number.to_string())),
        }
    }
}
