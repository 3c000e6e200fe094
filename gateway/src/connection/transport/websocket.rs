//! One WebSocket: reads messages, and closes so that the reason arrives. Never looks into a message.
//!
//! Over plain TCP the outbox writes. Over any other carrier (TLS) the connection's task does, here.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tidegate_shared::protocol::codes::Disconnect;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use super::{Gone, Input, reader::Reader};
use crate::outbox::{
    Outbox,
    dialect::Dialect,
    frame::{Frame, join_all},
};

/// The most bytes that one read of a carrier other than TCP takes.
const READ: usize = 4 * 1024;

/// The socket of one connection.
pub(crate) struct Socket {
    reader: Reader,
    /// `None` over plain TCP: the outbox has the socket.
    carrier: Option<Box<TokioIo<Upgraded>>>,
    dialect: Dialect,
    /// Whether pings are WebSocket ping frames, for clients that do not know the protocol's pings.
    native_pings: bool,
    /// The client's first message, if the handshake carried it.
    first: Option<Box<Bytes>>,
    /// What a carrier other than TCP has not taken yet of a write. A write that is given up may end inside a frame: what follows
    /// it begins behind its rest.
    rest: Option<Box<Bytes>>,
}

impl Socket {
    /// Takes over after the handshake. Returns the TCP socket, if there is nothing between it and the messages. `limit` is the
    /// longest message that is read.
    pub(crate) fn open(upgraded: Upgraded, dialect: Dialect, limit: usize) -> (Self, Option<TcpStream>) {
        let (stream, carrier, bytes) = match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => (Some(parts.io.into_inner()), None, parts.read_buf),
            // It begins with what was read already.
            Err(upgraded) => (None, Some(Box::new(TokioIo::new(upgraded))), Bytes::new()),
        };
        let reader = Reader::new(&bytes, limit);
        (Self { reader, carrier, dialect, native_pings: false, first: None, rest: None }, stream)
    }

    pub(crate) fn with_native_pings(self, native_pings: bool) -> Self {
        Self { native_pings, ..self }
    }

    /// The client's first message, if the handshake carried it.
    pub(crate) fn with_first(self, first: Option<Bytes>) -> Self {
        Self { first: first.map(Box::new), ..self }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<Input> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Input::Frame(*first));
        }
        loop {
            if let Some(input) = self.reader.next() {
                return Poll::Ready(input);
            }
            match ready!(self.poll_read(cx, outbox)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Input::Gone),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<usize>> {
        let bytes = self.reader.bytes();
        match (&mut self.carrier, outbox.wire()) {
            (Some(carrier), _) => poll_read(Pin::new(carrier), cx, bytes),
            (None, Some(wire)) => wire.poll_read(cx, bytes),
            (None, None) => Poll::Ready(Ok(0)),
        }
    }

    pub(super) fn is_one_way(&self) -> bool {
        self.dialect == Dialect::OneWay
    }

    pub(super) fn is_amid_message(&self) -> bool {
        self.reader.is_amid_message()
    }

    pub(super) fn has_native_pings(&self) -> bool {
        self.native_pings
    }

    /// Writes frames over a carrier other than TCP, behind the rest of a write that was given up. If this one is given up in turn,
    /// its rest is kept.
    pub(super) async fn send(&mut self, frames: VecDeque<Frame>) -> Result<(), Gone> {
        let Some(carrier) = &mut self.carrier else { return Ok(()) };
        if let Some(rest) = &mut self.rest {
            carrier.write_all_buf(&mut **rest).await.map_err(|_| Gone)?;
        }
        let rest = self.rest.insert(Box::new(join_all(frames, self.dialect).into()));
        carrier.write_all_buf(&mut **rest).await.map_err(|_| Gone)?;
        self.rest = None;
        carrier.flush().await.map_err(|_| Gone)
    }

    /// Writes the queued frames, if they are kept, and the close frame. Then reads until the client has closed its side.
    pub(super) async fn close(
        &mut self,
        outbox: &Outbox,
        keep: bool,
        last: Vec<Frame>,
        disconnect: &Disconnect,
    ) {
        outbox.finish(keep, last.into_iter().chain([Frame::close(disconnect)]));
        self.write_last(outbox).await;
        // Closing a socket with unread input would reset it and lose the close frame.
        while !poll_fn(|cx| self.poll_next(cx, outbox)).await.is_last() {}
        self.shut_down(outbox).await;
    }

    /// Answers a client's close frame.
    pub(super) async fn answer_close(&mut self, outbox: &Outbox, content: &[u8]) {
        outbox.finish(false, [Frame::closed(content)]);
        self.write_last(outbox).await;
        self.shut_down(outbox).await;
    }

    /// Sends every message back, until the socket ends.
    #[cfg(feature = "conformance")]
    pub(crate) async fn echo(mut self, outbox: &Outbox) {
        loop {
            match poll_fn(|cx| self.poll_next(cx, outbox)).await {
                Input::Frame(content) => {
                    let dialect = if self.reader.was_text() { Dialect::Json } else { Dialect::Protobuf };
                    outbox.push(Frame::message(dialect, &content));
                }
                Input::Ping(content) => outbox.push(Frame::pong(&content)),
                Input::Pong | Input::Part => {}
                Input::Left(content) => return self.answer_close(outbox, &content).await,
                Input::Broken(disconnect) => {
                    return self.close(outbox, true, Vec::new(), &disconnect).await;
                }
                Input::Gone => return,
            }
            // Before anything can be joined to it.
            poll_fn(|cx| outbox.poll_written(cx)).await;
        }
    }

    async fn write_last(&mut self, outbox: &Outbox) {
        if self.carrier.is_some() {
            let _ = self.send(outbox.take_rest()).await;
        }
        poll_fn(|cx| outbox.poll_written(cx)).await;
    }

    async fn shut_down(&mut self, outbox: &Outbox) {
        match (&mut self.carrier, outbox.wire()) {
            // Best effort: the client may be gone.
            (Some(carrier), _) => drop(carrier.shutdown().await),
            (None, Some(wire)) => wire.shut_down(),
            (None, None) => {}
        }
    }
}

/// Reads what has arrived. The buffer exists only for this moment.
fn poll_read(
    carrier: Pin<&mut Box<TokioIo<Upgraded>>>,
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut buffer = [0; READ];
    let mut read = ReadBuf::new(&mut buffer);
    ready!(carrier.poll_read(cx, &mut read))?;
    into.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}
