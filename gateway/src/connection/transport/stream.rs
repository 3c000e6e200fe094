//! A streaming response: frames go out as chunks of its body. Commands, if the client may send any, come through an
//! inbox.
//!
//! The body has room for one chunk, so a client that does not read blocks the next write. When the client goes, the
//! body is dropped, which ends the connection; when the connection ends, the socket is closed. Only the event cursor
//! looks into frames.

use std::{collections::VecDeque, convert::Infallible};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tidegate_shared::protocol::ConnectResult;
use tokio::sync::mpsc;

use super::{Gone, Input};
use crate::{
    connection::{one_way::event_cursor::EventCursor, permit::SocketPermit},
    fleet::sessions::Inbox,
    outbox::frame::Frame,
};

/// Chunks queued for the socket.
const CHUNKS: usize = 1;

/// The reconnect delay for browsers, in milliseconds.
const RETRY: std::ops::Range<u32> = 500..2500;

/// How frames are separated in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Each is followed by a newline.
    Lines,
    /// Each is preceded by its length.
    Delimited,
    /// Each is a server-sent event.
    Events,
}

/// The sending half of one response, and the client's first message.
pub(crate) struct Stream {
    framing: Framing,
    body: mpsc::Sender<Bytes>,
    first: Option<Bytes>,
    cursor: Option<Box<EventCursor>>,
    inbox: Option<Inbox>,
    permit: Option<SocketPermit>,
    /// The chunk of a write that was given up. The cursor counts it already, so it goes before everything else.
    unsent: Option<Bytes>,
}

impl Stream {
    /// Returns a stream and the body it writes to. `first` is the client's first message; without an inbox it is the
    /// only one. With a cursor every event has an id with the client's positions.
    pub(crate) fn open(
        framing: Framing,
        first: Bytes,
        cursor: Option<EventCursor>,
        inbox: Option<Inbox>,
        permit: Option<SocketPermit>,
    ) -> (Self, Body) {
        let (body, chunks) = mpsc::channel::<Bytes>(CHUNKS);
        if framing == Framing::Events {
            // Some browsers report the stream as open only when the first bytes arrive. Browsers that reconnect by
            // themselves get random delays, so that they do not all come at once.
            let opening = match &cursor {
                Some(_) => format!("retry: {}\n\n", rand::random_range(RETRY)).into(),
                None => Bytes::from_static(b"\r\n"),
            };
            let _ = body.try_send(opening);
        }
        let chunks = stream::unfold(chunks, async |mut chunks| {
            let chunk = chunks.recv().await?;
            Some((Ok::<_, Infallible>(chunk), chunks))
        });
        let cursor = cursor.map(Box::new);
        let this = Self { framing, body, first: Some(first), cursor, inbox, permit, unsent: None };
        (this, Body::from_stream(chunks))
    }

    pub(super) fn name(&self) -> &'static str {
        match (self.framing, self.inbox.is_some()) {
            (Framing::Events, true) => "sse",
            (Framing::Events, false) => "uni_sse",
            (Framing::Lines | Framing::Delimited, true) => "http_stream",
            (Framing::Lines | Framing::Delimited, false) => "uni_http_stream",
        }
    }

    pub(super) async fn next(&mut self) -> Input {
        if let Some(first) = self.first.take() {
            return Input::Frame(first);
        }
        let posted = async {
            match &mut self.inbox {
                Some(inbox) => inbox.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(frame) = posted => Input::Frame(frame),
            () = self.body.closed() => Input::Gone,
        }
    }

    pub(super) async fn send(&mut self, frames: VecDeque<Frame>) -> Result<(), Gone> {
        self.send_unsent().await?;
        if frames.is_empty() {
            return Ok(());
        }
        self.unsent = Some(join(self.framing, &frames, self.cursor.as_deref_mut()));
        self.send_unsent().await
    }

    async fn send_unsent(&mut self) -> Result<(), Gone> {
        if self.unsent.is_some() {
            let room = self.body.reserve().await.map_err(|_| Gone)?;
            if let Some(chunk) = self.unsent.take() {
                room.send(chunk);
            }
        }
        Ok(())
    }

    pub(super) fn session(&self) -> Option<&str> {
        self.inbox.as_ref().map(Inbox::session)
    }

    pub(super) fn introduce(&self, connected: &mut ConnectResult) {
        if let Some(inbox) = &self.inbox {
            inbox.session().clone_into(&mut connected.session);
            inbox.node().clone_into(&mut connected.node);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(permit) = &self.permit {
            permit.end();
        }
    }
}

/// Joins encoded frames into one chunk.
fn join(framing: Framing, frames: &VecDeque<Frame>, mut cursor: Option<&mut EventCursor>) -> Bytes {
    let mut chunk = BytesMut::with_capacity(frames.iter().map(|frame| frame.len() + 8).sum());
    for frame in frames {
        let message = frame.payload();
        match framing {
            Framing::Lines => {
                chunk.extend_from_slice(&message);
                chunk.extend_from_slice(b"\n");
            }
            // It begins with its length.
            Framing::Delimited => chunk.extend_from_slice(&message),
            Framing::Events => {
                if let Some(cursor) = &mut cursor {
                    cursor.follow(&message);
                    if let Some(id) = cursor.id() {
                        chunk.extend_from_slice(format!("id: {id}\n").as_bytes());
                    }
                }
                chunk.extend_from_slice(b"data: ");
                chunk.extend_from_slice(&message);
                chunk.extend_from_slice(b"\n\n");
            }
        }
    }
    chunk.freeze()
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::outbox::dialect::Dialect;

    fn frames(dialect: Dialect, messages: &[&str]) -> VecDeque<Frame> {
        messages.iter().map(|message| Frame::message(dialect, message.as_bytes())).collect()
    }

    #[test]
    fn frames_are_separated_in_every_framing() {
        let text = frames(Dialect::Json, &["{}", "[]"]);
        assert_eq!(join(Framing::Lines, &text, None), "{}\n[]\n");
        assert_eq!(join(Framing::Events, &text, None), "data: {}\n\ndata: []\n\n");
        let binary = frames(Dialect::Protobuf, &["\x02ab", "\x01c"]);
        assert_eq!(join(Framing::Delimited, &binary, None), "\x02ab\x01c");
    }

    #[test]
    fn every_event_id_holds_the_clients_positions() {
        let (_, cursor) = EventCursor::open(r#"{"subs":{"kept:a":{}}}"#.into(), None);
        let mut cursor = cursor.unwrap();
        let messages = [
            r#"{"connect":{"subs":{"kept:a":{"recoverable":true,"epoch":"e","offset":1}}}}"#,
            r#"{"channel":"kept:a","pub":{"data":1,"offset":2}}"#,
            "{}",
        ];
        let chunk = join(Framing::Events, &frames(Dialect::OneWay, &messages), Some(&mut cursor));
        let text = std::str::from_utf8(&chunk).unwrap();
        let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert!(ids.len() == 3 && ids[0] != ids[1] && ids[1] == ids[2], "{text}");
        assert!(text.starts_with(&format!("id: {}\ndata: {{\"connect\"", ids[0])), "{text}");
    }

    #[tokio::test]
    async fn the_first_message_comes_first_and_a_dropped_body_ends_the_stream() {
        let (mut stream, body) = Stream::open(Framing::Lines, "{}".into(), None, None, None);
        assert!(matches!(stream.next().await, Input::Frame(frame) if frame == "{}"));
        drop(body);
        assert!(matches!(stream.next().await, Input::Gone));
        assert!(stream.send(frames(Dialect::Json, &["{}"])).await.is_err());
    }

    #[tokio::test]
    async fn what_a_write_that_was_given_up_has_left_goes_first() {
        let (mut stream, body) = Stream::open(Framing::Lines, "{}".into(), None, None, None);
        assert!(stream.send(frames(Dialect::Json, &["1"])).await.is_ok());
        assert!(
            stream.send(frames(Dialect::Json, &["2"])).now_or_never().is_none(),
            "there is room for one chunk"
        );
        let mut chunks = body.into_data_stream();
        let mut read = Vec::new();
        let last = async {
            let sent = stream.send(frames(Dialect::Json, &["3"])).await;
            drop(stream);
            sent
        };
        let all = async {
            while let Some(chunk) = chunks.next().await {
                read.extend_from_slice(&chunk.unwrap());
            }
        };
        assert!(tokio::join!(last, all).0.is_ok());
        assert_eq!(read, b"1\n2\n3\n");
    }
}
