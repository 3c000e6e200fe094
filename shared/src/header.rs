//! Names of the message headers. Header names never contain client data.

/// The request's id.
pub const ID: &str = "Tide-Id";
/// The authenticated user; absent for an anonymous client.
pub const USER: &str = "Tide-User";
/// The connection the message came from.
pub const CLIENT: &str = "Tide-Client";
/// On a publication: the connection's information from its token, JSON on one line.
pub const INFO: &str = "Tide-Info";
/// On a publication: the connection's information from its subscription token for the channel, JSON on one line.
pub const CHANNEL_INFO: &str = "Tide-Channel-Info";
/// The name of the route that takes the request.
pub const ROUTE: &str = "Tide-Route";
/// The method of an rpc as the client wrote it, without its key.
pub const METHOD: &str = "Tide-Method";
/// On a publication that a worker decides about: the channel as the client wrote it.
pub const CHANNEL: &str = "Tide-Channel";
/// The ordering key: messages with the same key stay in order.
pub const KEY: &str = "Tide-Key";
/// The number of failed attempts before this delivery; absent for none.
pub const ATTEMPT: &str = "Tide-Attempt";
/// Present when the answer also goes to the user's personal channel.
pub const LATER: &str = "Tide-Later";
/// The digest of a keyed request's body.
pub const DIGEST: &str = "Tide-Digest";
/// When the gateway accepted the request, in milliseconds since 1970.
pub const ACCEPTED_AT: &str = "Tide-Accepted-At";
/// On an answer: the request it answers.
pub const RE: &str = "Tide-Re";
/// On an answer: `ok` or `error`.
pub const STATUS: &str = "Tide-Status";
/// On an answer that is an error: its code.
pub const CODE: &str = "Tide-Code";
/// On an answer that is an error: its message.
pub const MESSAGE: &str = "Tide-Message";
/// On an answer: which worker gave it.
pub const WORKER: &str = "Tide-Worker";
/// Prefix of the headers that carry the tags of a publication: see [`tag`].
pub const TAG_PREFIX: &str = "Tide-Tag-";
/// On a message without a publication: all earlier publications of the channel were removed on purpose.
pub const REMOVED: &str = "Tide-Removed";
/// On a dead letter: why the request failed.
pub const DEAD_REASON: &str = "Tide-Dead-Reason";
/// The media type of the payload.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The deduplication id that the broker uses.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// The time to live of one message, enforced by the broker.
pub const TTL: &str = "Nats-TTL";
/// On a republished message and on a message read from a stream: its subject in the stream.
pub const SUBJECT: &str = "Nats-Subject";
/// On the same messages: the sequence in the stream.
pub const SEQUENCE: &str = "Nats-Sequence";
/// The broker stores the message only if this is the sequence of the last message on its subject.
pub const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// Why the broker put a marker behind the earlier messages of a subject.
pub const MARKER_REASON: &str = "Nats-Marker-Reason";
/// When the broker publishes a parked message.
pub const SCHEDULE: &str = "Nats-Schedule";
/// The subject it publishes a parked message on.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";

/// A tag name that contains other characters than letters, digits, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tag's name: use letters, digits, `_` and `-`")]
pub struct BadTag(pub String);

/// Returns the header that carries the tag `name` of a publication. A tag's name consists of letters, digits, `_` and `-`.
pub fn tag(name: &str) -> Result<String, BadTag> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(BadTag(name.to_owned()));
    }
    Ok(format!("{TAG_PREFIX}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_plain_word() {
        assert_eq!(tag("re-1_x").as_deref(), Ok("Tide-Tag-re-1_x"));
        for name in ["", "a b", "a.b", "ä", "a\r\nb", "a:b"] {
            assert_eq!(tag(name), Err(BadTag(name.to_owned())));
        }
    }
}
