//! The task that owns a client's socket: one loop that sends commands, matches replies and hands out events.
//!
//! Never decides what a reply means to the caller and never connects again.

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
/// Where the reply to a command goes.
pub(super) type ReplySender = oneshot::Sender<Result<Reply, CallError>>;

/// Commands taken from the queue at once; what is taken together travels together.
const BATCH: usize = 64;
/// How much later than announced a ping may come: the other clients of the protocol allow the same.
const PING_GRACE: Duration = Duration::from_secs(10);
/// How long the server may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// What the handle asks of the task.
#[derive(Debug)]
pub(super) enum SocketCommand {
    /// Send a command; without a caller it expects no reply.
    Send(Box<Command>, Option<ReplySender>),
    /// End the connection in good order.
    Close,
}

/// What the handle and the task both see.
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
    /// A caller that gave up keeps its place, so that its late reply is not mistaken for a second one.
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

    /// Runs until the connection ends, then tells the callers and the events why.
    pub(super) async fn run(mut self) {
        let closed = loop {
            if let Break(closed) = self.step().await {
                break closed;
            }
        };
        // First the reason, then the callers and the queue: whoever finds them gone finds the reason.
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
            // A full event queue stops the reading: the one place where back-pressure belongs.
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

    /// Hands the next message to the socket. Does not wait: the one before has been flushed.
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

    /// Gives a command its id and remembers who waits for it.
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
                    // A caller that has gone needs no error.
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
            // However the server ends it: it was this side that asked for the end.
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
                // A caller that gave up has gone.
                let _ = caller.send(result);
            }
            None => {
                self.shared.strays.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until an event can be handed over; false if nobody wants events.
async fn has_room(events: &mpsc::Sender<Event>) -> bool {
    // The place is given back: this task is the only one that sends, so it stays free.
    events.reserve().await.is_ok()
}
