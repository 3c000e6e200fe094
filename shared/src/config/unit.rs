//! Parsing of durations, sizes and secrets.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error as _};

/// Durations: `"30s"`, `"2m"`, `"1h 30m"`.
pub(crate) mod duration {
    use std::{fmt, time::Duration};

    use serde::{
        Deserializer,
        de::{Error, Visitor},
    };

    const SHAPE: &str = "write a number and its unit, such as \"30s\", \"2m\" or \"1h 30m\"";

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"30s\" or \"2m\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
                // To the library `M` is a month.
                if text.contains('M') {
                    return Err(E::custom(format!(
                        "{text:?} is not a duration: a minute is \"1m\", and 30 days are \"30d\""
                    )));
                }
                humantime::parse_duration(text)
                    .map_err(|_| E::custom(format!("{text:?} is not a duration: {SHAPE}")))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Duration, E> {
                Err(E::custom(format!("{number} has no unit: {SHAPE}")))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Duration, E> {
                Err(E::custom(format!("{number} has no unit: {SHAPE}")))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Duration, E> {
                Err(E::custom(format!("{number} has no unit: {SHAPE}")))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// A duration that may be left out.
pub(crate) mod optional_duration {
    use std::time::Duration;

    use serde::Deserializer;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

/// Sizes: `"64 KiB"`, `"1 GiB"`, or a number of bytes.
pub(crate) mod size {
    use serde::{Deserialize, Deserializer, de::Error as _};

    const SHAPE: &str = "write a size such as \"64 KiB\" or \"1 GiB\", or a number of bytes";

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match Size::deserialize(deserializer).map_err(|_| D::Error::custom(SHAPE))? {
            Size::Bytes(bytes) => Ok(bytes),
            Size::Text(text) => text
                .parse::<bytesize::ByteSize>()
                .map(|size| size.0)
                .map_err(|_| D::Error::custom(format!("{text:?} is not a size: {SHAPE}"))),
        }
    }
}

/// Addresses to listen on: `"127.0.0.1:8000"`.
pub(crate) mod address {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, de::Error as _};

    const SHAPE: &str =
        "write an IP address and a port, such as \"127.0.0.1:8000\", \"0.0.0.0:8000\" or \"[::]:8000\"";

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom(SHAPE))?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not an address: {SHAPE}")))
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
        // A password of digits without quotation marks.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Text(String),
            Number(u64),
        }
        match Text::deserialize(deserializer)
            .map_err(|_| D::Error::custom("is not a text: write it in quotation marks"))?
        {
            Text::Text(text) => Ok(Self(text)),
            Text::Number(number) => Ok(Self(number.to_string())),
        }
    }
}
