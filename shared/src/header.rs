//! Names of the message headers. Header names never contain client data.

/// When the broker first stored a request that is parked, in milliseconds since 1970.
pub const STORED_AT: &str = "Tide-Stored-At";
/// The request's id.
pub const ID: &str = "Tide-Id";
/// The authenticated user; absent for an anonymous client.
pub const USER: &str = "Tide-User";
/// The connection the message came from; absent on a request that no client made.
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
/// The ordering key: on a route with an order, requests with the same key stay in order.
pub const KEY: &str = "Tide-Key";
/// `high` on a request that goes first; absent on all others.
pub const PRIORITY: &str = "Tide-Priority";
/// The number of failed attempts before this delivery; absent for none.
pub const ATTEMPT: &str = "Tide-Attempt";
/// On a parked request that lost a worker: `1`, or `2` if it is to be tried alone.
pub const SUSPECT: &str = "Tide-Suspect";
/// Present on a request that was parked and waits in its route's stream again.
pub const QUEUED_AGAIN: &str = "Tide-Queued-Again";
/// On a parked request: how often its handler has snoozed it; absent for never.
pub const SNOOZES: &str = "Tide-Snoozes";
/// On a parked request: the newest report of its handler, as JSON; absent for none.
pub const PROGRESS: &str = "Tide-Progress";
/// Present when the answer also goes to the user's personal channel.
pub const LATER: &str = "Tide-Later";
/// The digest of a keyed request's body.
pub const DIGEST: &str = "Tide-Digest";
/// When the gateway accepted the request, in milliseconds since 1970.
pub const ACCEPTED_AT: &str = "Tide-Accepted-At";
/// On a schedule, its firings and their requests: the schedule's name.
pub const SCHEDULE_NAME: &str = "Tide-Schedule";
/// On a schedule and its firings: which of the schedules of this name.
pub const SCHEDULE_VERSION: &str = "Tide-Schedule-Version";
/// On a schedule whose requests do not overlap: `skip`.
pub const SCHEDULE_OVERLAP: &str = "Tide-Schedule-Overlap";
/// On a firing that the broker has left out: when it was due, in milliseconds since 1970.
pub const SCHEDULE_MISSED: &str = "Tide-Schedule-Missed";
/// On a schedule of a publication: the id by which the broker stores it once.
pub const PUBLICATION_ID: &str = "Tide-Publication-Id";
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
/// On a dead letter: the class of the reason, such as `attempts`.
pub const DEAD_REASON: &str = "Tide-Dead-Reason";
/// On a dead letter: the last error.
pub const DEAD_ERROR: &str = "Tide-Dead-Error";
/// On a dead letter: the attempts that were begun.
pub const DEAD_ATTEMPTS: &str = "Tide-Dead-Attempts";
/// On a dead letter: the subject that the message was delivered on.
pub const DEAD_SUBJECT: &str = "Tide-Dead-Subject";
/// On a dead letter: the message's sequence in the stream it was delivered from.
pub const DEAD_STREAM_SEQ: &str = "Tide-Dead-Stream-Seq";
/// On a dead letter, and on a request that was redriven: when the request was first accepted (RFC 3339).
pub const DEAD_FIRST_SEEN: &str = "Tide-Dead-First-Seen";
/// On a dead letter: when the message failed for good (RFC 3339).
pub const DEAD_LAST_SEEN: &str = "Tide-Dead-Last-Seen";
/// On a dead letter, and on a request that was redriven: how often; absent for never.
pub const DEAD_REDRIVES: &str = "Tide-Dead-Redrives";
/// On the first part of a dead letter in two parts: the sequence of the second.
pub const DEAD_REST: &str = "Tide-Dead-Rest";
/// On the error answer of a request that failed for good: the sequence of its dead letter.
pub const DEAD_LETTER: &str = "Tide-Dead-Letter";
/// On a request that was redriven, and on its answer: the dead letter it was.
pub const REDRIVEN: &str = "Tide-Redriven";
/// On a dead letter whose message would be too long for the broker: which of its two parts this is, `1/2` or `2/2`.
pub const DEAD_PART: &str = "Tide-Dead-Part";
/// The trace that a message belongs to, and the span of its caller: W3C trace context.
pub const TRACE_PARENT: &str = "traceparent";
/// What tracing systems add to it.
pub const TRACE_STATE: &str = "tracestate";
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
/// The batch that a message is stored with. The broker keeps it in the stored message.
pub const BATCH_ID: &str = "Nats-Batch-Id";
/// The message's place in its batch, counted from 1.
pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// On the last message of a batch: the broker stores them all.
pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// How much the broker adds to the counter of a subject.
pub const INCREMENT: &str = "Nats-Incr";
/// Why the broker put a marker behind the earlier messages of a subject.
pub const MARKER_REASON: &str = "Nats-Marker-Reason";
/// When the broker publishes a parked message.
pub const SCHEDULE: &str = "Nats-Schedule";
/// On a message that the broker made of a schedule: the schedule's subject.
pub const SCHEDULER: &str = "Nats-Scheduler";
/// On such a message: when the next one follows, or `purge` when the schedule is over and is removed.
pub const SCHEDULE_NEXT: &str = "Nats-Schedule-Next";
/// The subject it publishes a parked message on.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// The time zone of a schedule that is a cron line.
pub const SCHEDULE_TIME_ZONE: &str = "Nats-Schedule-Time-Zone";
/// What the broker does with the earlier messages of the target when it fires.
pub const SCHEDULE_ROLLUP: &str = "Nats-Schedule-Rollup";
/// On a message that takes the place of the earlier ones of its subject: `sub`.
pub const ROLLUP: &str = "Nats-Rollup";

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

/// The most bytes of a text that someone else wrote, such as an error's, in a header. The headers of a message have 64 KiB.
pub const MAX_TEXT: usize = 4096;

/// Makes one header value of a text for people: one line of at most [`MAX_TEXT`] bytes. A longer text ends with a mark that
/// says how long it was. Not for values that a program reads.
pub fn text(text: &str) -> String {
    text_within(text, MAX_TEXT)
}

/// As [`text()`], of at most `limit` bytes. There is no mark where it would leave little of the text.
pub fn text_within(text: &str, limit: usize) -> String {
    let text = text.trim();
    if text.len() <= limit {
        return one_line(text);
    }
    let mark = format!("\u{2026} [cut: {} bytes]", text.len());
    let mark = if mark.len() <= limit / 2 { mark } else { String::new() };
    let end = text.floor_char_boundary(limit - mark.len());
    format!("{}{mark}", one_line(text.get(..end).unwrap_or_default()))
}

/// Whether a header carries a name unchanged: one line, without white space at its ends, which NATS clients cut off.
pub fn carries(name: &str) -> bool {
    !name.chars().any(char::is_control) && name.trim() == name
}

/// Returns a value on one line: control characters become spaces. The length is the caller's concern.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_becomes_one_bounded_line(piece in any::<String>(), times in 1_usize..2000, limit in 0_usize..5000) {
            let whole = piece.repeat(times);
            let line = text_within(&whole, limit);
            prop_assert!(line.len() <= limit && !line.contains(char::is_control), "{line:?}");
            prop_assert_eq!(text_within(&line, limit), line.clone());
            if whole.trim().len() > limit && limit >= 80 {
                let bytes = format!("[cut: {} bytes]", whole.trim().len());
                prop_assert!(line.ends_with(&bytes), "{line:?}");
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(
            text(&"\u{20ac}".repeat(2000)),
            format!("{}\u{2026} [cut: 6000 bytes]", "\u{20ac}".repeat(1358))
        );
        assert_eq!(text_within("no luck today", 7), "no luck");
    }

    #[test]
    fn a_tag_is_a_plain_word() {
        assert_eq!(tag("re-1_x").as_deref(), Ok("Tide-Tag-re-1_x"));
        for name in ["", "a b", "a.b", "ä", "a\r\nb", "a:b"] {
            assert_eq!(tag(name), Err(BadTag(name.to_owned())));
        }
    }
}
