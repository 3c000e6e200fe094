//! The socket's two directions: frames out, gathered and flushed once, and messages in.
//!
//! Never decides what to send. A client that does not read cannot hold the task: overflow and time end the wait.

use std::{future::poll_fn, time::Duration};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tidegate_shared::protocol::{
    Encoding,
    codes::{self, Disconnect},
    protobuf,
};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, error::CapacityError};

use super::outbox::Outbox;

/// How long a write may stand still before the client counts as gone.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a closed client may take to close its side, so that it reads why.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The socket of one connection.
pub(super) struct Writer {
    socket: WebSocket,
    encoding: Encoding,
}

/// Why nothing more can be written.
pub(super) enum Failure {
    /// The client is gone, or has not read for too long.
    Gone,
    /// More waits for the client than may.
    Overflow(Disconnect),
}

impl Writer {
    pub(super) fn new(socket: WebSocket, encoding: Encoding) -> Self {
        Self { socket, encoding }
    }

    pub(super) async fn next(&mut self) -> Option<Result<Message, axum::Error>> {
        self.socket.next().await
    }

    /// Writes frames as one message and flushes.
    pub(super) async fn write(&mut self, frames: Vec<Bytes>, outbox: &Outbox) -> Result<(), Failure> {
        let Some(message) = join(self.encoding, frames) else { return Ok(()) };
        tokio::select! {
            biased;
            sent = timeout(WRITE_LIMIT, self.socket.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Failure::Gone),
            },
            disconnect = poll_fn(|cx| outbox.poll_overflow(cx)) => Err(Failure::Overflow(disconnect)),
        }
    }

    /// Writes what is left and the reason, then waits a moment for the client to have read it.
    pub(super) async fn close(&mut self, rest: Vec<Bytes>, disconnect: Disconnect) {
        let reason = CloseFrame { code: disconnect.code, reason: Utf8Bytes::from_static(disconnect.reason) };
        let goodbye = async {
            if let Some(message) = join(self.encoding, rest) {
                self.socket.feed(message).await?;
            }
            self.socket.send(Message::Close(Some(reason))).await?;
            // Closing with unread input would reset the connection and take the reason with it.
            self.read_to_the_end().await;
            Ok::<(), axum::Error>(())
        };
        // Whether the client listened is its own business.
        let _ = timeout(CLOSE_LIMIT, goodbye).await;
    }

    /// Answers a client's close frame, which the library does as soon as it is read on.
    pub(super) async fn say_goodbye(&mut self) {
        let _ = timeout(CLOSE_LIMIT, self.read_to_the_end()).await;
    }

    async fn read_to_the_end(&mut self) {
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

/// Joins encoded replies into one WebSocket message.
fn join(encoding: Encoding, frames: Vec<Bytes>) -> Option<Message> {
    if frames.is_empty() {
        return None;
    }
    let size = frames.iter().map(|frame| frame.len() + 5).sum();
    Some(match encoding {
        Encoding::Json => {
            let mut frames = frames.into_iter();
            let first = frames.next()?;
            let mut text = first;
            if frames.len() > 0 {
                let mut joined = BytesMut::with_capacity(size);
                joined.extend_from_slice(&text);
                for frame in frames {
                    joined.extend_from_slice(b"\n");
                    joined.extend_from_slice(&frame);
                }
                text = joined.freeze();
            }
            Message::Text(Utf8Bytes::try_from(text).ok()?)
        }
        Encoding::Protobuf => {
            let mut joined = BytesMut::with_capacity(size);
            for frame in frames {
                protobuf::append(&mut joined, &frame);
            }
            Message::Binary(joined.freeze())
        }
    })
}

/// How a connection ends whose input cannot be read any further; nothing if the client is gone.
pub(super) fn end_of(error: axum::Error) -> Option<Disconnect> {
    match error.into_inner().downcast_ref::<tungstenite::Error>()? {
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(codes::MESSAGE_TOO_BIG),
        tungstenite::Error::Utf8(_) | tungstenite::Error::Protocol(_) => Some(codes::BAD_PROTOCOL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(texts: &[&'static str]) -> Vec<Bytes> {
        texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
    }

    #[test]
    fn json_replies_are_joined_by_newlines() {
        assert_eq!(join(Encoding::Json, frames(&["{}", "[]"])), Some(Message::text("{}\n[]")));
        assert_eq!(join(Encoding::Json, frames(&["{}"])), Some(Message::text("{}")));
        assert_eq!(join(Encoding::Json, Vec::new()), None);
    }

    #[test]
    fn protobuf_replies_are_prefixed_by_their_length_and_a_ping_is_one_zero_byte() {
        assert_eq!(join(Encoding::Protobuf, frames(&[""])), Some(Message::binary(vec![0])));
        assert_eq!(
            join(Encoding::Protobuf, frames(&["ab", "c"])),
            Some(Message::binary(b"\x02ab\x01c".to_vec()))
        );
    }
}
