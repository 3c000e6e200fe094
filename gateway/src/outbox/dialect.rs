//! The ways in which replies are written for a connection. Pure.
//!
//! Two dialects are the protocol's encodings. The third is for one-way clients: pushes without the reply around them.

use tidegate_shared::protocol::Encoding;

/// The encoding of one connection's replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Replies in JSON.
    Json,
    /// Replies in protobuf.
    Protobuf,
    /// Pushes in JSON, for one-way clients.
    OneWay,
}

impl Dialect {
    /// The encoding of payloads.
    pub(crate) fn encoding(self) -> Encoding {
        match self {
            Self::Json | Self::OneWay => Encoding::Json,
            Self::Protobuf => Encoding::Protobuf,
        }
    }
}

impl From<Encoding> for Dialect {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Protobuf => Self::Protobuf,
        }
    }
}
