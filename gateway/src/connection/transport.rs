//! The wall between a connection and what carries it: frames in, frames out, and an end that says why.
//!
//! Behind it the loop of a connection is the same for every transport. Never decides what is said. A client that does not
//! read cannot hold the task: overflow and time end the wait.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::future::Either;
use tidegate_shared::protocol::{ConnectResult, codes::Disconnect};
use tokio::time::timeout;

use self::{stream::Stream, websocket::Socket};
use crate::outbox::Outbox;

pub(crate) mod stream;
pub(crate) mod websocket;

/// How long a write may stand still before the client counts as gone.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a closed client may take to close its side, so that it reads why.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What carries one connection. Futures of the rarer kind are boxed: one that is idle costs what a WebSocket's needs.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the common one; boxing would cost every idle socket"
)]
pub(crate) enum Transport {
    /// One socket, both directions.
    WebSocket(Socket),
    /// A response without end; commands, if any, come in requests of their own.
    Stream(Stream),
}

/// What came from the client.
pub(super) enum Input {
    /// One message, to be split into commands.
    Frame(Bytes),
    /// Something that means nothing to a connection.
    Nothing,
    /// The answer to a ping of the transport's own.
    Pong,
    /// The client said goodbye.
    Left,
    /// The client went away without a word.
    Gone,
    /// What came cannot be read any further.
    Broken(Disconnect),
}

/// Why nothing more can be written.
pub(super) enum Failure {
    /// The client is gone, or has not read for too long.
    Gone,
    /// More waits for the client than may.
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

    /// Whether pings are the transport's own, which clients answer without being told how.
    pub(super) fn has_native_pings(&self) -> bool {
        matches!(self, Self::WebSocket(socket) if socket.has_native_pings())
    }

    /// Sends a ping of the transport's own, if it has any.
    pub(super) async fn ping(&mut self, outbox: &Outbox) -> Result<(), Failure> {
        match self {
            Self::WebSocket(socket) => bounded(socket.ping(), outbox).await,
            Self::Stream(_) => Ok(()),
        }
    }

    fn send(&mut self, frames: Vec<Bytes>) -> impl Future<Output = Result<(), Gone>> {
        match self {
            Self::WebSocket(socket) => Either::Left(socket.send(frames)),
            Self::Stream(stream) => Either::Right(Box::pin(stream.send(frames))),
        }
    }

    /// Its name, as the address clients connect to has it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::WebSocket(socket) if socket.is_one_way() => "uni_websocket",
            Self::WebSocket(_) => "websocket",
            Self::Stream(stream) => stream.name(),
        }
    }

    /// Whether the end is said in a push, since no close frame can say it.
    pub(super) fn ends_with_a_push(&self) -> bool {
        match self {
            Self::WebSocket(socket) => socket.is_one_way(),
            Self::Stream(_) => true,
        }
    }

    /// Adds what a client has to know of the transport.
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

    /// The name that clients which post their commands have for the connection.
    pub(super) fn session(&self) -> Option<&str> {
        match self {
            Self::WebSocket(_) => None,
            Self::Stream(stream) => stream.session(),
        }
    }

    /// Writes what is left and the reason, then waits a moment for the client to have read it.
    pub(super) async fn close(&mut self, rest: Vec<Bytes>, disconnect: Disconnect) {
        // Whether the client listened is its own business.
        let _ = match self {
            Self::WebSocket(socket) => timeout(CLOSE_LIMIT, socket.close(rest, disconnect)).await,
            Self::Stream(stream) => timeout(CLOSE_LIMIT, stream.send(rest)).await,
        };
    }

    /// Answers a client's own goodbye.
    pub(super) async fn say_goodbye(&mut self) {
        if let Self::WebSocket(socket) = self {
            let _ = timeout(CLOSE_LIMIT, socket.read_to_the_end()).await;
        }
    }
}

/// Waits for a write, no longer than a client may take and not behind an outbox that has overflowed.
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
