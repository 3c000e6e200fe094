//! The task that owns a client's socket: one loop that sends commands, matches replies and delivers events.
//!
//! It does not interpret replies and does not reconnect.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow::{self, Break, Continue},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tidegate_shared::protocol::{Command, Encoding, Reply};
use tokio::{
    net::TcpStream,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, protocol::CloseFrame, protocol::frame::coding::CloseCode},
};

use super::{
    codec,
    error::{CallError, Closed},
    event::Event,
};

/// A connected WebSocket.
pub(super) type ClientSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;
/// Receives the reply to a command.
pub(super) type ReplySender = oneshot::Sender<Result<Reply, CallError>>;

/// The most commands taken from the queue at once. They are sent in one batch.
const BATCH: usize = 64;
/// How much later than announced a ping may come: the other clients of the protocol allow the same.
const PING_GRACE: Duration = Duration::from_secs(10);
/// How long the server may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// A command from the handle to the task.
#[derive(Debug)]
pub(super) enum SocketCommand {
    /// Send a command. Without a sender no reply is expected.
    Send(Box<Command>, Option<ReplySender>),
    /// Close the connection with a close frame.
    Close,
}

/// State shared by the handle and the task.
#[derive(Debug, Default)]
pub(super) struct SocketStatus {
    /// Why the connection ended, once it has.
    pub(super) end: OnceLock<Closed>,
    /// Replies to commands that were answered before, or never sent.
    pub(super) strays: AtomicU64,
}

/// The loop's state.
pub(super) struct SocketDriver {
    sink: SplitSink<ClientSocket, Message>,
    stream: SplitStream<ClientSocket>,
    encoding: Encoding,
    orders: mpsc::Receiver<SocketCommand>,
    batch: Vec<SocketCommand>,
    events: mpsc::Sender<Event>,
    undelivered: VecDeque<Event>,
    shared: Arc<SocketStatus>,
    last_id: u32,
    /// A caller that timed out keeps its entry, so that its late reply does not count as a second one.
    callers: HashMap<u32, ReplySender>,
    frames: VecDeque<Message>,
    unflushed: bool,
    closing: bool,
    pong: bool,
    silence: Option<Duration>,
    deadline: Option<Instant>,
}

impl SocketDriver {
    pub(super) fn new(
        socket: ClientSocket,
        encoding: Encoding,
        orders: mpsc::Receiver<SocketCommand>,
        events: mpsc::Sender<Event>,
        shared: Arc<SocketStatus>,
    ) -> Self {
        let (sink, stream) = socket.split();
        Self {
            sink,
            stream,
            encoding,
            orders,
            batch: Vec::new(),
            events,
            undelivered: VecDeque::new(),
            shared,
            last_id: 0,
            callers: HashMap::new(),
            frames: VecDeque::new(),
            unflushed: false,
            closing: false,
            pong: false,
            silence: None,
            deadline: None,
        }
    }

    /// Runs until the connection ends, then reports the reason to the callers and as an event.
    pub(super) async fn run(mut self) {
        let closed = loop {
            if let Break(closed) = self.step().await {
                break closed;
            }
        };
        // The reason is set before the callers and the queue are dropped, so that a failed call can read it.
        let _ = self.shared.end.set(closed.clone());
        self.callers.clear();
        drop(self.orders);
        drop((self.sink, self.stream));
        for event in self.undelivered.into_iter().chain([Event::Disconnected(closed)]) {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn step(&mut self) -> ControlFlow<Closed> {
        self.feed().await?;
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + PING_GRACE);
        tokio::select! {
            // A full event queue stops the reads: this is the only back-pressure.
            message = self.stream.next(), if self.undelivered.is_empty() => self.received(message),
            open = has_room(&self.events), if !self.undelivered.is_empty() => {
                self.deliver(open);
                Continue(())
            }
            flushed = self.sink.flush(), if self.unflushed => {
                self.unflushed = false;
                flushed.map_or_else(|error| Break(Closed::lost(error)), Continue)
            }
            taken = self.orders.recv_many(&mut self.batch, BATCH), if !self.unflushed && !self.closing => {
                if taken == 0 { Break(Closed::by_caller()) } else { self.take_orders() }
            }
            () = tokio::time::sleep_until(deadline), if self.deadline.is_some() && self.undelivered.is_empty() => {
                Break(if self.closing { Closed::by_caller() } else { Closed::lost("no ping") })
            }
        }
    }

    fn deliver(&mut self, open: bool) {
        if !open {
            self.undelivered.clear();
        }
        while let Some(event) = self.undelivered.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.undelivered.push_front(event);
                return;
            }
        }
    }

    /// Passes the next message to the socket. Does not wait: the previous message has been flushed.
    async fn feed(&mut self) -> ControlFlow<Closed> {
        if self.unflushed {
            return Continue(());
        }
        let Some(frame) = self.frames.pop_front() else { return Continue(()) };
        self.unflushed = true;
        self.sink.feed(frame).await.map_or_else(|error| Break(Closed::lost(error)), Continue)
    }

    fn take_orders(&mut self) -> ControlFlow<Closed> {
        let mut encoded: Vec<Bytes> = Vec::with_capacity(self.batch.len());
        for order in std::mem::take(&mut self.batch) {
            match order {
                SocketCommand::Send(command, caller) => encoded.extend(self.admit(command, caller)),
                SocketCommand::Close => {
                    self.closing = true;
                    self.deadline = Some(Instant::now() + CLOSE_WAIT);
                }
            }
        }
        self.frames.extend(codec::frames(self.encoding, &encoded));
        if self.closing {
            self.frames
                .push_back(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })));
        }
        Continue(())
    }

    /// Assigns the command's id, stores the caller and encodes the command.
    fn admit(&mut self, mut command: Box<Command>, caller: Option<ReplySender>) -> Option<Bytes> {
        if caller.is_some() {
            self.last_id += 1;
            command.id = self.last_id;
        }
        match codec::encode(self.encoding, &command) {
            Ok(bytes) => {
                self.callers.extend(caller.map(|caller| (command.id, caller)));
                Some(bytes)
            }
            Err(error) => {
                if let Some(caller) = caller {
                    // The caller may have timed out.
                    let _ = caller.send(Err(CallError::Payload(error.to_string())));
                }
                None
            }
        }
    }

    fn received(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> ControlFlow<Closed> {
        let message = match message {
            Some(Ok(Message::Close(frame))) => return Break(self.closed_by(frame)),
            Some(Ok(message)) => message,
            // After a close request any end of the connection counts as closed by the caller.
            Some(Err(_)) | None if self.closing => return Break(Closed::by_caller()),
            Some(Err(error)) => return Break(Closed::lost(error)),
            None => return Break(Closed::lost("connection lost")),
        };
        if !self.closing {
            self.deadline = self.silence.map(|silence| Instant::now() + silence);
        }
        match codec::replies(self.encoding, message) {
            Ok(replies) => replies.into_iter().for_each(|reply| self.settle(reply)),
            Err(error) => return Break(Closed::malformed(error)),
        }
        Continue(())
    }

    fn closed_by(&self, frame: Option<CloseFrame>) -> Closed {
        match frame {
            _ if self.closing => Closed::by_caller(),
            Some(frame) => Closed { code: frame.code.into(), reason: frame.reason.to_string() },
            None => Closed::lost("closed without a code"),
        }
    }

    fn settle(&mut self, reply: Reply) {
        if let Some(push) = reply.push {
            if !self.events.is_closed() {
                self.undelivered.extend(Event::from_push(push));
            }
            return;
        }
        if reply.id == 0 {
            if self.pong {
                self.frames.push_front(codec::pong(self.encoding));
            }
            return;
        }
        if let Some(connected) = &reply.connect {
            self.pong = connected.pong;
            self.silence =
                (connected.ping > 0).then(|| Duration::from_secs(u64::from(connected.ping)) + PING_GRACE);
            self.deadline = self.silence.map(|silence| Instant::now() + silence);
        }
        match self.callers.remove(&reply.id) {
            Some(caller) => {
                let result = reply.error.clone().map_or(Ok(reply), |error| Err(error.into()));
                // The caller may have timed out.
                let _ = caller.send(result);
            }
            None => {
                self.shared.strays.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits for room in the event queue. Returns false if the receiver was dropped.
async fn has_room(events: &mpsc::Sender<Event>) -> bool {
    // The permit is released at once: this task is the only sender, so the room stays.
    events.reserve().await.is_ok()
}
