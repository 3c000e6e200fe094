//! The transports of a connection behind one interface: frames in, frames out, and a close reason.
//!
//! The connection loop is the same for every transport. A client that does not read cannot block the task: an overflow
//! or a time limit ends the write.

use std::{collections::VecDeque, future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::future::Either;
use tidegate_shared::protocol::{ConnectResult, codes::Disconnect};
use tokio::time::timeout;

use self::{stream::Stream, websocket::Socket};
use crate::outbox::{Outbox, frame::Frame};

mod reader;
pub(crate) mod stream;
pub(crate) mod websocket;

/// How long a write may take before the client counts as gone.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long the gateway waits for a client to read the close reason and close its side.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The transport of one connection.
pub(crate) enum Transport {
    /// One socket, both directions.
    WebSocket(Socket),
    /// A streaming response. Commands, if any, arrive in POST requests. Boxed, so that an idle connection costs no more than a
    /// WebSocket's.
    Stream(Box<Stream>),
}

/// An input from the client.
pub(super) enum Input {
    /// One message, to be split into commands.
    Frame(Bytes),
    /// A frame of a message that goes on.
    Part,
    /// A WebSocket ping with this content, which has to be answered.
    Ping(Bytes),
    /// A WebSocket pong.
    Pong,
    /// The client closed the connection, with this code and reason.
    Left(Bytes),
    /// The socket broke or was closed without a close frame.
    Gone,
    /// The input is invalid and cannot be read further.
    Broken(Disconnect),
}

impl Input {
    /// Whether there is nothing to read behind it.
    fn is_last(&self) -> bool {
        matches!(self, Self::Left(_) | Self::Gone | Self::Broken(_))
    }
}

/// Why a write failed.
pub(super) enum Failure {
    /// The client is gone, or has not read for `WRITE_LIMIT`.
    Gone,
    /// The outbox overflowed.
    Overflow(Disconnect),
}

/// The client is gone.
struct Gone;

impl Transport {
    /// The next input. Dropping the future loses none. That of a stream is boxed, so that an idle connection costs no more than
    /// a WebSocket's.
    pub(super) fn next(&mut self, outbox: &Outbox) -> impl Future<Output = Input> {
        match self {
            Self::WebSocket(socket) => Either::Left(poll_fn(|cx| socket.poll_next(cx, outbox))),
            Self::Stream(stream) => Either::Right(Box::pin(stream.next())),
        }
    }

    /// Writes frames, together, where the outbox does not.
    pub(super) async fn write(&mut self, frames: VecDeque<Frame>, outbox: &Outbox) -> Result<(), Failure> {
        let written = async {
            match self {
                Self::WebSocket(socket) => socket.send(frames).await,
                Self::Stream(stream) => stream.send(frames).await,
            }
        };
        bounded(written, outbox).await
    }

    /// Waits until a blocked socket has taken some more of its outbox.
    pub(super) async fn unblock(outbox: &Outbox) -> Result<(), Failure> {
        let unblocked =
            async { if poll_fn(|cx| outbox.poll_unblock(cx)).await { Ok(()) } else { Err(Gone) } };
        bounded(unblocked, outbox).await
    }

    /// Whether pings are WebSocket ping frames, which clients answer by themselves.
    pub(super) fn has_native_pings(&self) -> bool {
        matches!(self, Self::WebSocket(socket) if socket.has_native_pings())
    }

    /// Whether the client has begun a message in parts.
    pub(super) fn is_amid_message(&self) -> bool {
        matches!(self, Self::WebSocket(socket) if socket.is_amid_message())
    }

    /// The transport's name, as in its URL path.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::WebSocket(socket) if socket.is_one_way() => "uni_websocket",
            Self::WebSocket(_) => "websocket",
            Self::Stream(stream) => stream.name(),
        }
    }

    /// Whether the close reason goes into a push, because there is no close frame for it.
    pub(super) fn closes_with_a_push(&self) -> bool {
        match self {
            Self::WebSocket(socket) => socket.is_one_way(),
            Self::Stream(_) => true,
        }
    }

    /// Adds the transport's fields to the reply to `connect`.
    pub(super) fn introduce(&self, connected: &mut ConnectResult) {
        match self {
            Self::Stream(stream) => stream.introduce(connected),
            Self::WebSocket(socket) if socket.has_native_pings() => {
                connected.ping = 0;
                connected.pong = false;
            }
            Self::WebSocket(_) => {}
        }
    }

    /// The session name that POST requests with commands carry.
    pub(super) fn session(&self) -> Option<&str> {
        match self {
            Self::WebSocket(_) => None,
            Self::Stream(stream) => stream.session(),
        }
    }

    /// Writes the queued frames, if they are kept, and the reason. Then waits a moment until the client has read them.
    pub(super) async fn close(
        &mut self,
        outbox: &Outbox,
        keep: bool,
        last: Vec<Frame>,
        disconnect: Disconnect,
    ) {
        // Best effort: the client may already be gone.
        let _ = timeout(CLOSE_LIMIT, async {
            match self {
                Self::WebSocket(socket) => socket.close(outbox, keep, last, &disconnect).await,
                Self::Stream(stream) => {
                    outbox.finish(keep, last);
                    let _ = stream.send(outbox.take_rest()).await;
                }
            }
        })
        .await;
    }

    /// Completes the closing handshake that a client began with this code and reason.
    pub(super) async fn finish_close(&mut self, outbox: &Outbox, content: &[u8]) {
        if let Self::WebSocket(socket) = self {
            let _ = timeout(CLOSE_LIMIT, socket.answer_close(outbox, content)).await;
        }
    }
}

/// Waits for a write, at most `WRITE_LIMIT`, and not after the outbox overflowed.
async fn bounded(write: impl Future<Output = Result<(), Gone>>, outbox: &Outbox) -> Result<(), Failure> {
    tokio::select! {
        biased;
        sent = timeout(WRITE_LIMIT, write) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Gone)) | Err(_) => Err(Failure::Gone),
        },
        disconnect = poll_fn(|cx| outbox.poll_overflow(cx)) => Err(Failure::Overflow(disconnect)),
    }
}
