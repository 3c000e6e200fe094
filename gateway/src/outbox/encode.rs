//! Encodes replies, in every dialect, as the frames that WebSockets get. Pure.

use serde::Serialize;
use tidegate_shared::protocol::{CodecError, ConnectResult, Reply, json, protobuf};

use super::{
    dialect::Dialect,
    frame::{Draft, Frame},
};

/// The reply to `connect` in the one-way dialect.
#[derive(Serialize)]
struct Connected<'a> {
    connect: &'a ConnectResult,
}

impl Dialect {
    /// Encodes one reply, as the frame that a WebSocket gets.
    pub(crate) fn encode(self, reply: &Reply) -> Result<Frame, CodecError> {
        let mut draft = Draft::new();
        let bytes = draft.bytes();
        match self {
            Self::Json => json::append(bytes, reply)?,
            Self::Protobuf => protobuf::append_message(bytes, reply),
            Self::OneWay => match (&reply.push, &reply.connect) {
                (Some(push), _) => json::append(bytes, push)?,
                (None, Some(connect)) => json::append(bytes, &Connected { connect })?,
                // A ping.
                (None, None) => bytes.extend_from_slice(b"{}"),
            },
        }
        Ok(draft.finish(self))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::protocol::{Publication, codes};

    use super::*;

    #[test]
    fn one_way_clients_read_pushes_without_a_reply_around_them() {
        let text = |reply: &Reply| Dialect::OneWay.encode(reply).unwrap().payload();
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
