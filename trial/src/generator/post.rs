//! What publishes beside the clients: a connection to the server API or to NATS.

use anyhow::{Context, bail, ensure};
use mio::{Registry, Token};

use super::{
    nats_text::{self, Part},
    order::Through,
    socket::{Input, Wire, messages},
};

/// The longest answer of the server API.
const LONGEST_ANSWER: usize = 1 << 20;

/// A connection.
#[derive(Debug)]
pub(super) struct Post {
    wire: Wire,
    through: Through,
    /// Publications that are sent and not answered. NATS answers none.
    pub(super) unanswered: usize,
    refused: Vec<String>,
    /// The server has ended it, which it may while nothing is unanswered.
    closed: bool,
}

impl Post {
    /// Connects all that `through` asks for; a client connects elsewhere.
    pub(super) fn connect(
        through: &Through,
        registry: &Registry,
        mut token: impl FnMut(usize) -> Token,
    ) -> anyhow::Result<Vec<Self>> {
        let (address, connections) = match through {
            Through::Client => return Ok(Vec::new()),
            Through::Http { address, connections, .. } => (*address, *connections),
            Through::Nats { address, .. } => (*address, 1),
        };
        let one = |number| {
            let mut wire = Wire::dial(address, number, false, registry, token(number))?;
            if let Through::Nats { user, password, .. } = through {
                let hello = format!(
                    "CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{password}\"}}\r\nPING\r\n"
                );
                wire.out().extend_from_slice(hello.as_bytes());
            }
            Ok(Self { wire, through: through.clone(), unanswered: 0, refused: Vec::new(), closed: false })
        };
        (0..connections).map(one).collect()
    }

    /// Whether it takes a publication now.
    pub(super) fn is_free(&self) -> bool {
        !self.closed && (self.unanswered == 0 || self.answers_nothing())
    }

    fn answers_nothing(&self) -> bool {
        matches!(self.through, Through::Nats { .. })
    }

    /// Whether it waits for answers.
    pub(super) fn is_waiting(&self) -> bool {
        self.unanswered > 0 && !self.answers_nothing()
    }

    pub(super) fn publish(&mut self, channel: &str, data: &str) -> anyhow::Result<()> {
        let text = match &self.through {
            Through::Http { address, key, .. } => {
                let body = format!(r#"{{"channel":"{channel}","data":{data}}}"#);
                format!(
                    "POST /api/publish HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            Through::Nats { subject, .. } => {
                let token = channel.rsplit(':').next().unwrap_or(channel);
                format!("PUB {subject}.{token} {}\r\n{data}\r\n", data.len())
            }
            Through::Client => bail!("a client has a connection of its own"),
        };
        self.wire.out().extend_from_slice(text.as_bytes());
        self.unanswered += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.wire.flush()
    }

    /// Reads what has come, and returns the refusals among it.
    pub(super) fn readable(&mut self, buffer: &mut [u8]) -> anyhow::Result<Vec<String>> {
        loop {
            let (bytes, more) = match self.wire.read(buffer) {
                Input::Ended if self.unanswered > 0 => bail!("a connection that publishes has ended"),
                Input::Ended => {
                    self.closed = true;
                    return Ok(std::mem::take(&mut self.refused));
                }
                Input::More(bytes) => (bytes, true),
                Input::All(bytes) => (bytes, false),
            };
            let mut rest = std::mem::take(&mut self.wire.rest);
            let read = buffer.get(..bytes).unwrap_or_default();
            messages(&mut rest, read, |left| self.take(left))?;
            self.wire.rest = rest;
            if !more {
                self.wire.flush()?;
                return Ok(std::mem::take(&mut self.refused));
            }
        }
    }

    fn take(&mut self, left: &[u8]) -> anyhow::Result<usize> {
        if matches!(self.through, Through::Http { .. }) {
            let Some((status, length)) = answer(left)? else { return Ok(0) };
            self.unanswered = self.unanswered.saturating_sub(1);
            let body = left.get(..length).unwrap_or_default();
            if status != 200 || memchr::memmem::find(body, b"\"error\"").is_some() {
                self.refused.push(format!("the server API answers {status}"));
            }
            return Ok(length);
        }
        let Some((part, length)) = nats_text::first(left)? else { return Ok(0) };
        match part {
            Part::Ping => self.wire.out().extend_from_slice(b"PONG\r\n"),
            Part::Refused => self
                .refused
                .push(String::from_utf8_lossy(left.get(..length).unwrap_or_default()).into_owned()),
            _ => {}
        }
        Ok(length)
    }
}

/// Returns the status of the first answer and its length with the body; `None` if it is not complete.
fn answer(buffer: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        ensure!(buffer.len() < LONGEST_ANSWER, "an endless answer of the server API");
        return Ok(None);
    };
    let head = str::from_utf8(buffer.get(..end).unwrap_or_default())?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("an answer without a length")?.trim().parse()?;
    let whole = end + 4 + length;
    Ok((buffer.len() >= whole).then_some((status, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_body() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 500 no\r\n";
        assert_eq!(answer(text).unwrap(), Some((200, 40)));
        assert_eq!(answer(&text[..39]).unwrap(), None);
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
