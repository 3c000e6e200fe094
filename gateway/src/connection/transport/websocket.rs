//! One WebSocket: joins frames into one message, flushes once, and reads messages. Never looks into a message.

use std::{future::poll_fn, task::Poll};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    future::{Either, OptionFuture},
};
use tidegate_shared::protocol::{
    codes::{self, Disconnect},
    protobuf,
};
use tokio_tungstenite::tungstenite::{
    self,
    error::{CapacityError, ProtocolError},
};

use super::{Gone, Input};
use crate::outbox::dialect::Dialect;

/// The socket of one connection.
pub(crate) struct Socket {
    inner: WebSocket,
    dialect: Dialect,
    /// Whether pings are WebSocket ping frames, for clients that do not know the protocol's pings.
    native_pings: bool,
    /// The client's first message, if the handshake carried it.
    first: Option<Box<Bytes>>,
}

impl Socket {
    pub(crate) fn new(socket: WebSocket, dialect: Dialect) -> Self {
        Self { inner: socket, dialect, native_pings: false, first: None }
    }

    pub(crate) fn with_native_pings(self, native_pings: bool) -> Self {
        Self { native_pings, ..self }
    }

    /// A one-way socket. Only the client's first message is read; the handshake may have carried it.
    pub(crate) fn one_way(socket: WebSocket, first: Option<Bytes>) -> Self {
        Self { inner: socket, dialect: Dialect::OneWay, native_pings: false, first: first.map(Box::new) }
    }

    pub(super) fn next(&mut self) -> impl Future<Output = Input> {
        poll_fn(|cx| match self.first.take() {
            Some(first) => Poll::Ready(Input::Frame(*first)),
            None => self.inner.poll_next_unpin(cx).map(read),
        })
    }

    pub(super) fn is_one_way(&self) -> bool {
        self.dialect == Dialect::OneWay
    }

    pub(super) fn has_native_pings(&self) -> bool {
        self.native_pings
    }

    pub(super) async fn ping(&mut self) -> Result<(), Gone> {
        self.inner.send(Message::Ping(Bytes::new())).await.map_err(|_| Gone)
    }

    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        self.inner.flush().await.map_err(|_| Gone)
    }

    /// Writes frames and flushes: as one message, or as one message each for one-way clients.
    pub(super) fn send(&mut self, frames: Vec<Bytes>) -> impl Future<Output = Result<(), Gone>> {
        if self.is_one_way() {
            return Either::Left(Box::pin(self.send_each(frames)));
        }
        let message = join(self.dialect, frames);
        let sent = OptionFuture::from(message.map(|message| self.inner.send(message)));
        Either::Right(sent.map(|sent| sent.unwrap_or(Ok(())).map_err(|_| Gone)))
    }

    async fn send_each(&mut self, frames: Vec<Bytes>) -> Result<(), Gone> {
        for frame in frames {
            let Some(message) = join(self.dialect, vec![frame]) else { continue };
            self.inner.feed(message).await.map_err(|_| Gone)?;
        }
        self.inner.flush().await.map_err(|_| Gone)
    }

    /// Writes the queued frames and the close frame, then reads until the client has closed its side.
    pub(super) async fn close(&mut self, rest: Vec<Bytes>, disconnect: Disconnect) -> Result<(), Gone> {
        let reason = CloseFrame { code: disconnect.code, reason: disconnect.reason.into_owned().into() };
        self.send(rest).await?;
        self.inner.send(Message::Close(Some(reason))).await.map_err(|_| Gone)?;
        // Closing a socket with unread input would reset it and lose the close frame.
        self.read_to_the_end().await;
        Ok(())
    }

    /// Reads until the socket ends. The library answers a client's close frame by itself.
    pub(super) async fn read_to_the_end(&mut self) {
        while let Some(Ok(_)) = self.inner.next().await {}
    }
}

fn read(message: Option<Result<Message, axum::Error>>) -> Input {
    match message {
        None => Input::Gone,
        Some(Ok(Message::Text(text))) => Input::Frame(text.into()),
        Some(Ok(Message::Binary(bytes))) => Input::Frame(bytes),
        Some(Ok(Message::Ping(_))) => Input::Ping,
        Some(Ok(Message::Pong(_))) => Input::Pong,
        Some(Ok(Message::Close(_))) => Input::Left,
        Some(Err(error)) => end_of(error).map_or(Input::Gone, Input::Broken),
    }
}

/// Joins encoded messages into one WebSocket message.
fn join(dialect: Dialect, frames: Vec<Bytes>) -> Option<Message> {
    if frames.is_empty() {
        return None;
    }
    let size = frames.iter().map(|frame| frame.len() + 5).sum();
    Some(match dialect {
        Dialect::Json | Dialect::OneWay => {
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
        Dialect::Protobuf => {
            let mut joined = BytesMut::with_capacity(size);
            for frame in frames {
                protobuf::append(&mut joined, &frame);
            }
            Message::Binary(joined.freeze())
        }
    })
}

/// The disconnect for invalid input. `None` if the client is gone.
fn end_of(error: axum::Error) -> Option<Disconnect> {
    match error.into_inner().downcast_ref::<tungstenite::Error>()? {
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(codes::MESSAGE_TOO_BIG),
        tungstenite::Error::Utf8(_) => Some(codes::INVALID_UTF8),
        // Most sockets end so: a network that is gone, a process that was killed.
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(codes::PROTOCOL_ERROR),
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
        assert_eq!(join(Dialect::Json, frames(&["{}", "[]"])), Some(Message::text("{}\n[]")));
        assert_eq!(join(Dialect::Json, frames(&["{}"])), Some(Message::text("{}")));
        assert_eq!(join(Dialect::Json, Vec::new()), None);
    }

    #[test]
    fn protobuf_replies_are_prefixed_by_their_length_and_a_ping_is_one_zero_byte() {
        assert_eq!(join(Dialect::Protobuf, frames(&[""])), Some(Message::binary(vec![0])));
        assert_eq!(
            join(Dialect::Protobuf, frames(&["ab", "c"])),
            Some(Message::binary(b"\x02ab\x01c".to_vec()))
        );
    }
}
