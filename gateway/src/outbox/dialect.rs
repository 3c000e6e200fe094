//! How replies are encoded for a connection. Pure.
//!
//! Two dialects are the protocol's encodings. The third is for one-way clients: pushes without the reply around them.

use bytes::Bytes;
use serde::Serialize;
use tidegate_shared::protocol::{CodecError, ConnectResult, Encoding, Reply, encode_reply, json};

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

/// The reply to `connect` in the one-way dialect.
#[derive(Serialize)]
struct Connected<'a> {
    connect: &'a ConnectResult,
}

impl Dialect {
    /// The encoding of payloads.
    pub(crate) fn encoding(self) -> Encoding {
        match self {
            Self::Json | Self::OneWay => Encoding::Json,
            Self::Protobuf => Encoding::Protobuf,
        }
    }

    /// Encodes one reply, without framing.
    pub(crate) fn encode(self, reply: &Reply) -> Result<Bytes, CodecError> {
        match self {
            Self::Json | Self::Protobuf => encode_reply(self.encoding(), reply),
            Self::OneWay => match (&reply.push, &reply.connect) {
                (Some(push), _) => json::encode(push),
                (None, Some(connect)) => json::encode(&Connected { connect }),
                // A ping.
                (None, None) => Ok(Bytes::from_static(b"{}")),
            },
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

#[cfg(test)]
mod tests {
    use tidegate_shared::protocol::{Publication, codes};

    use super::*;

    #[test]
    fn one_way_clients_read_pushes_without_a_reply_around_them() {
        let text = |reply: &Reply| Dialect::OneWay.encode(reply).unwrap();
        let publication = Publication { data: "1".into(), ..Publication::default() };
        assert_eq!(text(&Reply::publication("c", publication)), r#"{"channel":"c","pub":{"data":1}}"#);
        assert_eq!(text(&Reply::message("1".into())), r#"{"message":{"data":1}}"#);
        assert_eq!(text(&Reply::ping()), "{}");
        assert_eq!(text(&Reply::disconnect(codes::SLOW)), r#"{"disconnect":{"code":3008,"reason":"slow"}}"#);
        let connect = ConnectResult { client: "g.1".into(), version: "1".into(), ..ConnectResult::default() };
        assert_eq!(
            text(&Reply { id: 1, connect: Some(connect), ..Reply::default() }),
            r#"{"connect":{"client":"g.1","version":"1"}}"#
        );
    }
}
