//! The protocols of the measured servers, as far as the scenarios need them: what a client writes, and what a server's message
//! means. Pure.

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::json;

use super::frame;

/// A protocol over WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Dialect {
    /// The Centrifuge protocol (JSON).
    Centrifuge,
    /// Engine.IO 4 and Socket.IO 5, with events of the server in `trial/peers`.
    SocketIo,
    /// The protocol of NATS.
    Nats,
}

/// How far a client of a channel is, to go on from there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Of the channel in the Centrifuge protocol; of the session in Socket.IO.
    pub(super) epoch: String,
    pub(super) offset: String,
}

/// What a message of a server means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// The client may send commands. With the id of its session, if it can be resumed.
    Greeted { session: Option<String> },
    /// The answer to a subscription, with what was missed.
    Subscribed { position: Option<Position>, recovered: Option<bool>, text: &'a [u8] },
    /// The answer to any other command.
    Answered { id: u32 },
    /// An error, of the command with this id.
    Refused { id: u32, code: u32 },
    /// Publications.
    Publications(&'a [u8]),
    /// The server wants this back.
    Ping(&'static str),
}

/// Ids of the first two commands of a connection. Every further one is larger.
pub(super) const GREETING: u32 = 1;
pub(super) const SUBSCRIPTION: u32 = 2;

impl Dialect {
    /// The request that opens the WebSocket.
    pub(super) fn upgrade(host: &str, path: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    }

    /// The first command: who the client is. Of NATS and Socket.IO, when the server has spoken.
    pub(super) fn greeting(self, token: &str, session: &Position) -> String {
        match self {
            Self::Centrifuge if token.is_empty() => format!(r#"{{"id":{GREETING},"connect":{{}}}}"#),
            Self::Centrifuge => format!(r#"{{"id":{GREETING},"connect":{{"token":"{token}"}}}}"#),
            Self::SocketIo if session.offset.is_empty() => format!(r#"40{{"token":"{token}"}}"#),
            Self::SocketIo => {
                let Position { epoch, offset } = session;
                format!(r#"40{{"token":"{token}","pid":"{epoch}","offset":"{offset}"}}"#)
            }
            Self::Nats => "CONNECT {\"verbose\":false,\"protocol\":1}\r\nPING\r\n".to_owned(),
        }
    }

    /// Whether the server speaks first.
    pub(super) fn waits_for_server(self) -> bool {
        self != Self::Centrifuge
    }

    /// Whether a subscription goes on at a position. Socket.IO resumes whole sessions instead.
    pub(super) fn subscribe(self, id: u32, channel: &str, position: Option<&Position>) -> String {
        match (self, position) {
            (Self::Centrifuge, Some(Position { epoch, offset })) => {
                let offset = offset.parse::<u64>().unwrap_or_default();
                let request = json!({"channel": channel, "recover": true, "epoch": epoch, "offset": offset});
                json!({"id": id, "subscribe": request}).to_string()
            }
            (Self::Centrifuge, None) => format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}"}}}}"#),
            (Self::SocketIo, _) => format!(r#"42{id}["subscribe","{channel}"]"#),
            (Self::Nats, _) => format!("SUB {channel} {id}\r\nPING\r\n"),
        }
    }

    /// A publication by a client.
    pub(super) fn publish(self, id: u32, channel: &str, data: &str) -> String {
        match self {
            Self::Centrifuge => {
                format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":{data}}}}}"#)
            }
            Self::SocketIo => format!(r#"42{id}["publish","{channel}",{data}]"#),
            Self::Nats => format!("PUB {channel} {}\r\n{data}\r\nPING\r\n", data.len()),
        }
    }

    /// A request. Only the Centrifuge protocol has them.
    pub(super) fn rpc(id: u32, method: &str, data: &str) -> String {
        format!(r#"{{"id":{id},"rpc":{{"method":"{method}","data":{data}}}}}"#)
    }

    /// Puts a command into a frame.
    pub(super) fn frame(self, command: &str, out: &mut Vec<u8>) {
        match self {
            Self::Nats => frame::binary(command.as_bytes(), out),
            _ => frame::text(command.as_bytes(), out),
        }
    }

    /// Reads a whole message. NATS is read elsewhere, because its messages do not end with frames.
    pub(super) fn read<'a>(self, message: &'a [u8], mut each: impl FnMut(Event<'a>)) -> anyhow::Result<()> {
        match self {
            Self::Centrifuge => {
                let mut rest = message;
                while let Some(end) = memchr::memchr(b'\n', rest) {
                    let (line, behind) = rest.split_at(end);
                    each_of_line(line, &mut each)?;
                    rest = behind.get(1..).unwrap_or_default();
                }
                each_of_line(rest, &mut each)
            }
            Self::SocketIo => {
                if let Some(event) = packet(message) {
                    each(event);
                }
                Ok(())
            }
            Self::Nats => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    id: u32,
    error: Option<ReplyError>,
    connect: Option<IgnoredAny>,
    subscribe: Option<Subscription>,
}

#[derive(Deserialize)]
struct ReplyError {
    code: u32,
}

#[derive(Deserialize)]
struct Subscription {
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    was_recovering: bool,
}

fn each_of_line<'a>(line: &'a [u8], each: &mut impl FnMut(Event<'a>)) -> anyhow::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    if line.starts_with(br#"{"push":"#) {
        each(Event::Publications(line));
        return Ok(());
    }
    if line == b"{}" {
        each(Event::Ping("{}"));
        return Ok(());
    }
    // The usual answers are known by their beginning.
    if let Some((id, rest)) = answer_id(line)
        && [&br#","rpc""#[..], br#","publish""#].iter().any(|verb| rest.starts_with(verb))
    {
        each(Event::Answered { id });
        return Ok(());
    }
    let reply: Reply = serde_json::from_slice(line)?;
    each(match reply {
        Reply { id, error: Some(error), .. } => Event::Refused { id, code: error.code },
        Reply { subscribe: Some(subscription), .. } => {
            let Subscription { epoch, offset, recovered, was_recovering } = subscription;
            let position = (!epoch.is_empty()).then(|| Position { epoch, offset: offset.to_string() });
            let recovered = was_recovering.then_some(recovered);
            Event::Subscribed { position, recovered, text: line }
        }
        Reply { connect: Some(_), .. } => Event::Greeted { session: None },
        Reply { id, .. } => Event::Answered { id },
    });
    Ok(())
}

fn answer_id(line: &[u8]) -> Option<(u32, &[u8])> {
    let digits = line.strip_prefix(br#"{"id":"#)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = digits.split_at(end);
    Some((str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

/// Reads a packet of Socket.IO.
fn packet(text: &[u8]) -> Option<Event<'_>> {
    match text {
        [b'2', ..] => Some(Event::Ping("3")),
        [b'0', ..] => Some(Event::Ping("")),
        [b'4', b'0', rest @ ..] => {
            #[derive(Deserialize)]
            struct Session {
                pid: Option<String>,
            }
            let session = serde_json::from_slice::<Session>(rest).ok().and_then(|session| session.pid);
            Some(Event::Greeted { session })
        }
        [b'4', b'3', rest @ ..] => {
            let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
            let id = str::from_utf8(rest.get(..end)?).ok()?.parse().ok()?;
            Some(match id {
                SUBSCRIPTION => Event::Subscribed { position: None, recovered: None, text: &[] },
                id => Event::Answered { id },
            })
        }
        [b'4', b'2', ..] => Some(Event::Publications(text)),
        [b'4', b'4', ..] => Some(Event::Refused { id: GREETING, code: 0 }),
        _ => None,
    }
}

/// Returns the position behind a live publication: the text after its mark.
pub(super) fn offset_behind(dialect: Dialect, behind_mark: &[u8]) -> Option<&str> {
    match dialect {
        Dialect::Centrifuge => {
            let at = memchr::memmem::find(behind_mark, br#""offset":"#)?;
            let digits = behind_mark.get(at + 9..)?;
            let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
            str::from_utf8(digits.get(..end)?).ok()
        }
        Dialect::SocketIo => {
            // ..."},"<offset>"]
            let text = behind_mark.strip_suffix(br#""]"#)?;
            let at = text.iter().rposition(|byte| *byte == b'"')?;
            str::from_utf8(text.get(at + 1..)?).ok()
        }
        Dialect::Nats => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dialect: Dialect, text: &str) -> Vec<String> {
        let mut events = Vec::new();
        dialect.read(text.as_bytes(), |event| events.push(format!("{event:?}"))).unwrap();
        events
    }

    #[test]
    fn a_message_of_several_lines_has_an_event_for_each() {
        let text = "{\"push\":{\"channel\":\"a\",\"pub\":{\"data\":1}}}\n{\"id\":7,\"rpc\":{\"data\":2}}\n{}\n\
                    {\"id\":8,\"error\":{\"code\":1000,\"message\":\"no\"}}\n{\"id\":1,\"connect\":{\"ping\":25}}";
        let events = read(Dialect::Centrifuge, text);
        assert_eq!(events.len(), 5);
        assert!(events[0].starts_with("Publications"));
        assert_eq!(events[1], "Answered { id: 7 }");
        assert_eq!(events[2], "Ping(\"{}\")");
        assert_eq!(events[3], "Refused { id: 8, code: 1000 }");
        assert!(events[4].starts_with("Greeted"));
    }

    #[test]
    fn a_recovered_subscription_says_where_it_goes_on() {
        let text = br#"{"id":2,"subscribe":{"epoch":"e","publications":[{"data":1,"offset":4}],"recovered":true,"offset":5,"was_recovering":true}}"#;
        let mut seen = 0;
        let check = |event: Event<'_>| {
            let Event::Subscribed { position, recovered, .. } = event else { panic!("{event:?}") };
            assert_eq!(position, Some(Position { epoch: "e".into(), offset: "5".into() }));
            assert_eq!(recovered, Some(true));
            seen += 1;
        };
        Dialect::Centrifuge.read(text, check).unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn packets_of_socket_io_are_told_apart() {
        assert_eq!(read(Dialect::SocketIo, "2"), ["Ping(\"3\")"]);
        assert_eq!(read(Dialect::SocketIo, "4317[]"), ["Answered { id: 17 }"]);
        let greeted = read(Dialect::SocketIo, r#"40{"sid":"a","pid":"b"}"#);
        assert_eq!(greeted, [r#"Greeted { session: Some("b") }"#]);
    }

    #[test]
    fn the_offset_stands_behind_the_mark() {
        let behind = br#"","pad":""},"offset":42}}}"#;
        assert_eq!(offset_behind(Dialect::Centrifuge, behind), Some("42"));
        assert_eq!(offset_behind(Dialect::SocketIo, br#"","pad":""},"zz9"]"#), Some("zz9"));
    }
}
