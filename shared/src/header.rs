//! Names of the message headers. Client data never becomes a header name.

/// The request's id.
pub const ID: &str = "Tide-Id";
/// The authenticated user; absent for an anonymous client.
pub const USER: &str = "Tide-User";
/// The connection the message came from.
pub const CLIENT: &str = "Tide-Client";
/// What the token said about the connection that something was published from: JSON on one line.
pub const INFO: &str = "Tide-Info";
/// What the subscription token said about that connection in the channel: JSON on one line.
pub const CHANNEL_INFO: &str = "Tide-Channel-Info";
/// The name of the route that takes the request.
pub const ROUTE: &str = "Tide-Route";
/// The method of an rpc as the client wrote it, without its key.
pub const METHOD: &str = "Tide-Method";
/// On what a client published for a worker to decide about: the channel as the client wrote it.
pub const CHANNEL: &str = "Tide-Channel";
/// The key within which order matters.
pub const KEY: &str = "Tide-Key";
/// How many attempts failed before this delivery; absent means none.
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
/// On a message without a publication in it: everything of the channel before it has been removed on purpose.
pub const REMOVED: &str = "Tide-Removed";
/// On a dead letter: why it is one.
pub const DEAD_REASON: &str = "Tide-Dead-Reason";
/// What the payload is.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The broker's own deduplication id.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// The broker's time to live of one message.
pub const TTL: &str = "Nats-TTL";
/// On what the broker repeats, and on what is read of a stream: the message's subject there.
pub const SUBJECT: &str = "Nats-Subject";
/// And its sequence.
pub const SEQUENCE: &str = "Nats-Sequence";
/// The broker stores a message only if this is the sequence of the last one on its subject.
pub const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// Why a message marks the end of those before it on its subject.
pub const MARKER_REASON: &str = "Nats-Marker-Reason";
/// When the broker publishes a parked message.
pub const SCHEDULE: &str = "Nats-Schedule";
/// Where it publishes it.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";

/// A name that no tag can have.
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
