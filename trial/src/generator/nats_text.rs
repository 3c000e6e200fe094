//! The protocol of NATS, as a client of core NATS reads it from a byte stream. Pure.

use anyhow::Context;

/// What stands at the beginning of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Info,
    Ping,
    Pong,
    Message(&'a [u8]),
    Refused,
    Other,
}

/// Returns the first part and its length; `None` if it is not complete.
pub(super) fn first(buffer: &[u8]) -> anyhow::Result<Option<(Part<'_>, usize)>> {
    let Some(end) = memchr::memmem::find(buffer, b"\r\n") else { return Ok(None) };
    let line = buffer.get(..end).unwrap_or_default();
    let after = end + 2;
    let part = match line {
        [b'M', b'S', b'G', b' ', rest @ ..] => {
            let length = rest.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            let length: usize = str::from_utf8(length)?.parse().context("a message without a length")?;
            let Some(body) = buffer.get(after..after + length + 2) else { return Ok(None) };
            return Ok(Some((Part::Message(body), after + length + 2)));
        }
        b"PING" => Part::Ping,
        b"PONG" => Part::Pong,
        [b'I', b'N', b'F', b'O', ..] => Part::Info,
        [b'-', b'E', b'R', b'R', ..] => Part::Refused,
        _ => Part::Other,
    };
    Ok(Some((part, after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_complete_with_its_body() {
        let text = b"MSG a.b 2 5\r\nhello\r\nPONG\r\n";
        assert_eq!(first(text).unwrap(), Some((Part::Message(b"hello\r\n"), 20)));
        assert_eq!(first(&text[..19]).unwrap(), None);
        assert_eq!(first(&text[20..]).unwrap(), Some((Part::Pong, 6)));
        assert_eq!(first(b"-ERR 'no'\r\n").unwrap(), Some((Part::Refused, 11)));
        assert!(first(b"MSG a 1 x\r\n").is_err());
    }
}
