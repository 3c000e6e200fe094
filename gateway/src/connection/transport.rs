//! The transports of a connection behind one interface: frames in, frames out, and a close reason.
//!
//! The connection loop is the same for every transport. A client that does not read cannot block the task: an overflow
//! or a time limit ends the write.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::future::Either;
use tidegate_shared::protocol::{ConnectResult, codes::Disconnect};
use tokio::time::timeout;

use self::{stream::Stream, websocket::Socket};
use crate::outbox::Outbox;

pub(crate) mod stream;
pub(crate) mod websocket;

/// How long a write may take before the client counts as gone.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long the gateway waits for a client to read the close reason and close its side.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The transport of one connection. The futures of streams are boxed, so that an idle connection costs no more than a
/// WebSocket's.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the common one; boxing would cost every idle socket"
)]
pub(crate) enum Transport {
    /// One socket, both directions.
    WebSocket(Socket),
    /// A streaming response. Commands, if any, arrive in POST requests.
    Stream(Stream),
}

/// An input from the client.
pub(super) enum Input {
    /// One message, to be split into commands.
    Frame(Bytes),
    /// A WebSocket ping. The library has queued the pong, which `flush` writes.
    Ping,
    /// A WebSocket pong.
    Pong,
    /// The client closed the connection.
    Left,
    /// The socket broke or was closed without a close frame.
    Gone,
    /// The input is invalid and cannot be read further.
    Broken(Disconnect),
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
    /// The next input. Dropping the future loses none.
    pub(super) fn next(&mut self) -> impl Future<Output = Input> {
        match self {
            Self::WebSocket(socket) => Either::Left(socket.next()),
            Self::Stream(stream) => Either::Right(Box::pin(stream.next())),
        }
    }

    /// Writes frames, together, and flushes.
    pub(super) fn write(
        &mut self,
        frames: Vec<Bytes>,
        outbox: &Outbox,
    ) -> impl Future<Output = Result<(), Failure>> {
        bounded(self.send(frames), outbox)
    }

    /// Whether pings are WebSocket ping frames, which clients answer by themselves.
    pub(super) fn has_native_pings(&self) -> bool {
        matches!(self, Self::WebSocket(socket) if socket.has_native_pings())
    }

    /// Sends a WebSocket ping, if the transport has one.
    pub(super) async fn ping(&mut self, outbox: &Outbox) -> Result<(), Failure> {
        match self {
            Self::WebSocket(socket) => bounded(socket.ping(), outbox).await,
            Self::Stream(_) => Ok(()),
        }
    }

    /// Writes what the library has queued: the pongs to a client's pings. A client that pings without reading blocks here,
    /// as it does in `write`, so the pongs it makes the gateway hold are bounded by one read budget.
    pub(super) async fn flush(&mut self, outbox: &Outbox) -> Result<(), Failure> {
        match self {
            Self::WebSocket(socket) => bounded(socket.flush(), outbox).await,
            Self::Stream(_) => Ok(()),
        }
    }

    fn send(&mut self, frames: Vec<Bytes>) -> impl Future<Output = Result<(), Gone>> {
        match self {
            Self::WebSocket(socket) => Either::Left(socket.send(frames)),
            Self::Stream(stream) => Either::Right(Box::pin(stream.send(frames))),
        }
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

    /// Writes the queued frames and the reason, then waits a moment until the client has read them.
    pub(super) async fn close(&mut self, rest: Vec<Bytes>, disconnect: Disconnect) {
        // Best effort: the client may already be gone.
        let _ = match self {
            Self::WebSocket(socket) => timeout(CLOSE_LIMIT, socket.close(rest, disconnect)).await,
            Self::Stream(stream) => timeout(CLOSE_LIMIT, stream.send(rest)).await,
        };
    }

    /// Completes the closing handshake that a client began.
    pub(super) async fn finish_close(&mut self) {
        if let Self::WebSocket(socket) = self {
            let _ = timeout(CLOSE_LIMIT, socket.read_to_the_end()).await;
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
