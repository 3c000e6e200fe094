//! One client's connection: one task that owns the transport, reads, writes, keeps time and carries out what the session decides.
//!
//! Knows nothing of NATS: it calls `requests`, `channels` and `presence`. Every wait in it has a deadline.

use std::{
    future::poll_fn,
    iter,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::FutureExt;
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{
        CodecError, Command, Encoding, Reply,
        codes::{self, Disconnect},
        json, protobuf,
    },
};
use tokio::time::{Instant, sleep_until};

use self::{
    in_flight::{InFlight, next_done},
    one_way::{OneWay, Reaction},
    permit::SocketPermit,
    registration::Registration,
    transport::{Failure, Input, Transport},
};
use crate::{
    channels::Channels,
    metrics::Metrics,
    outbox::{Drain, Outbox, OutboxItem, dialect::Dialect},
    policy::{hooks::Hooks, keys::Keys, rules::Rules},
    presence::Presence,
    requests::store::Store,
    session::{Now, Session},
};

mod effects;
mod in_flight;
mod join;
pub(crate) mod one_way;
pub(crate) mod permit;
mod prepare;
mod registration;
pub(crate) mod transport;

/// Messages read before the replies to them are written.
const READ_BUDGET: usize = 64;
/// Bytes per write: keeps the socket's own buffer small, which never shrinks.
const WRITE_BUDGET: usize = 16 * 1024;

/// The parts that all connections of a gateway share.
pub(crate) struct Shared {
    pub(crate) rules: Arc<Rules>,
    pub(crate) store: Arc<Store>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) keys: Keys,
    pub(crate) hooks: Hooks,
    pub(crate) metrics: Metrics,
    pub(crate) answer_timeout: Duration,
}

/// A connection and its operations in flight.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    session: Session,
    outbox: Arc<Outbox>,
    transport: Transport,
    one_way: Option<Box<OneWay>>,
    in_flight: Option<Box<InFlight>>,
    registration: Registration,
    /// Commands that wait until `connect` is answered.
    stash: Vec<Command>,
    drain: Option<Drain>,
    /// A WebSocket ping has to be sent.
    ping_due: bool,
    _permit: Option<SocketPermit>,
}

/// Why the loop of a connection ended.
enum End {
    /// The client's socket broke or was closed without a close frame.
    Gone,
    /// The client closed the connection.
    Left,
    /// The gateway closes the connection.
    Close(Disconnect),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Gone => Self::Gone,
            Failure::Overflow(disconnect) => Self::Close(disconnect),
        }
    }
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Transport,
        dialect: Dialect,
        permit: Option<SocketPermit>,
    ) -> Self {
        let client = ClientId::random(&shared.rules.gateway);
        let limit = usize::try_from(shared.rules.limits.outbox).unwrap_or(usize::MAX);
        let outbox = Arc::new(Outbox::new(dialect, limit));
        let session = Session::new(Arc::clone(&shared.rules), client, dialect.encoding(), now().instant);
        let registration = Registration::new(
            Arc::clone(&shared.channels.hub),
            shared.metrics.clone(),
            session.client().clone(),
            Arc::clone(&outbox),
        );
        let one_way = (dialect == Dialect::OneWay).then(Box::default);
        Self {
            shared,
            session,
            outbox,
            transport,
            one_way,
            in_flight: None,
            registration,
            stash: Vec::new(),
            drain: None,
            ping_due: false,
            _permit: permit,
        }
    }

    /// Serves the client until it goes, is closed, or the gateway drains.
    ///
    /// By reference, and with the ends boxed: the future of a connection that is doing nothing stays small.
    pub(crate) async fn run(&mut self) {
        let end = self.serve().await;
        self.registration.leave_all();
        match end {
            End::Gone => {}
            End::Left => Box::pin(self.transport.finish_close()).await,
            End::Close(disconnect) => {
                self.shared.metrics.disconnected(disconnect.code);
                tracing::debug!(client.id = %self.session.client(), close.code = disconnect.code, "closing");
                // Queued frames are still written, unless the client is too slow for them.
                let mut rest = if disconnect == codes::SLOW { Vec::new() } else { self.rest() };
                if self.transport.closes_with_a_push() {
                    rest.extend(self.outbox.dialect().encode(&Reply::disconnect(disconnect.clone())));
                }
                Box::pin(self.transport.close(rest, disconnect)).await;
            }
        }
    }

    /// The loop. Branches in order of priority: finished operations, the outbox, time, the client.
    async fn serve(&mut self) -> End {
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            if std::mem::take(&mut self.ping_due) {
                let Self { outbox, transport, .. } = self;
                if let Err(failure) = Box::pin(transport.ping(outbox)).await {
                    return failure.into();
                }
            }
            let deadline = self.deadline();
            if let Some(deadline) = deadline
                && timer.deadline() != deadline
            {
                timer.as_mut().reset(deadline);
            }
            let reading = self.is_reading();
            let holding = self.one_way.as_ref().is_some_and(|one_way| one_way.is_holding());
            let Self { outbox, in_flight, transport, .. } = self;
            let flow = tokio::select! {
                biased;
                done = next_done(in_flight) => self.done(done),
                item = poll_fn(|cx| outbox.poll_take(cx, WRITE_BUDGET)), if !holding => self.item(item).await,
                () = &mut timer, if deadline.is_some() => self.tick(reading),
                input = transport.next(), if reading => self.received(input).await,
            };
            if let Err(end) = flow {
                return end;
            }
        }
    }

    /// With too many unsettled operations the connection stops reading: TCP slows the client down to the broker's pace.
    fn is_reading(&self) -> bool {
        self.drain.is_none()
            && !self.session.is_connecting()
            && self
                .in_flight
                .as_ref()
                .is_none_or(|in_flight| in_flight.unsettled < self.shared.rules.limits.max_in_flight)
    }

    fn deadline(&self) -> Option<Instant> {
        let session = self.session.next_timeout().map(Instant::from_std);
        let drain = self.drain.map(|drain| match &self.in_flight {
            Some(_) => drain.settle_until.max(drain.close_at),
            None => drain.close_at,
        });
        [session, drain].into_iter().flatten().min()
    }

    fn tick(&mut self, reading: bool) -> Result<(), End> {
        let at = Instant::now();
        if self.drain.is_some() && self.deadline_of_drain_passed(at) {
            let effects = self.session.shut_down();
            return self.perform(effects);
        }
        let effects = self.session.tick(at.into_std(), reading);
        self.perform(effects)
    }

    fn deadline_of_drain_passed(&self, at: Instant) -> bool {
        self.drain.is_some_and(|drain| {
            at >= drain.close_at && (self.in_flight.is_none() || at >= drain.settle_until)
        })
    }

    async fn item(&mut self, item: OutboxItem) -> Result<(), End> {
        match item {
            OutboxItem::Frames(frames) => {
                let outbox = Arc::clone(&self.outbox);
                self.transport.write(frames, &outbox).await.map_err(End::from)
            }
            OutboxItem::End(disconnect) => Err(End::Close(disconnect)),
            OutboxItem::Drain(drain) => {
                self.drain = Some(drain);
                Ok(())
            }
            OutboxItem::Order(order) => {
                if !order.session.is_empty() && self.transport.session() != Some(&*order.session) {
                    return Ok(());
                }
                let effects = self.session.ordered(&order, now());
                self.perform(effects)
            }
            OutboxItem::Lost(channel) => {
                let Ok(channel) = Channel::parse(&channel) else { return Ok(()) };
                let effects = self.session.lost(&channel);
                self.perform(effects)
            }
        }
    }

    /// Handles a message and what else is ready to read, so that the replies are written together.
    async fn received(&mut self, input: Input) -> Result<(), End> {
        let mut next = Some(input);
        for _ in 0..READ_BUDGET {
            let Some(input) = next else { return Ok(()) };
            match input {
                Input::Frame(frame) => self.frame(frame)?,
                Input::Nothing => {}
                Input::Pong => self.session.ponged(),
                Input::Left => return Err(End::Left),
                Input::Gone => return Err(End::Gone),
                Input::Broken(disconnect) => return Err(End::Close(disconnect)),
            }
            if !self.is_reading() {
                return Ok(());
            }
            next = self.transport.next().now_or_never();
        }
        // Gives other connections their turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn frame(&mut self, frame: Bytes) -> Result<(), End> {
        if frame.len() as u64 > self.shared.rules.limits.message {
            return Err(End::Close(codes::MESSAGE_TOO_BIG));
        }
        if let Some(one_way) = &mut self.one_way {
            let command = one_way.read(&frame);
            return command.map_or(Ok(()), |command| {
                self.commands(iter::once(command.map_err(|error| CodecError::Malformed(error.to_string()))))
            });
        }
        match self.outbox.dialect().encoding() {
            Encoding::Json => match std::str::from_utf8(&frame) {
                Ok(text) => self.commands(json::decode(text)),
                Err(_) => self.malformed(),
            },
            Encoding::Protobuf => self.commands(protobuf::decode(frame)),
        }
    }

    fn commands(&mut self, commands: impl Iterator<Item = Result<Command, CodecError>>) -> Result<(), End> {
        let now = now();
        for (index, command) in commands.enumerate() {
            let Ok(command) = command else { return self.malformed() };
            if index >= self.shared.rules.limits.commands_per_message {
                return self.malformed();
            }
            self.shared.metrics.command();
            self.command(command, now)?;
        }
        Ok(())
    }

    fn command(&mut self, command: Command, now: Now) -> Result<(), End> {
        if self.session.is_connecting() {
            self.stash.push(command);
            return Ok(());
        }
        let effects = self.session.handle(command, rand::random(), now);
        self.perform(effects)
    }

    fn malformed(&mut self) -> Result<(), End> {
        let effects = self.session.malformed();
        self.perform(effects)
    }

    fn reply(&mut self, reply: Reply) -> Result<(), End> {
        if self.transport.has_native_pings() && reply == Reply::ping() {
            self.ping_due = true;
            return Ok(());
        }
        let Some(one_way) = &mut self.one_way else { return self.send(&reply, Outbox::push) };
        let reaction = one_way.react(reply);
        self.perform_reaction(reaction)
    }

    /// Carries out the reaction of a one-way client.
    fn perform_reaction(&mut self, reaction: Reaction) -> Result<(), End> {
        match reaction {
            Reaction::Send(reply) => self.send(&reply, Outbox::push),
            Reaction::SendFirst(reply) => self.send(&reply, Outbox::push_first),
            Reaction::Ping(ping) => {
                self.send(&ping, Outbox::push)?;
                self.ask(Command::default())
            }
            Reaction::Commands(commands)
                if commands.len() > self.shared.rules.limits.commands_per_message =>
            {
                self.malformed()
            }
            Reaction::Commands(commands) => commands.into_iter().try_for_each(|command| self.ask(command)),
            Reaction::Close(disconnect) => Err(End::Close(disconnect)),
            Reaction::Nothing => Ok(()),
        }
    }

    /// Hands the session a command on behalf of a one-way client.
    fn ask(&mut self, command: Command) -> Result<(), End> {
        let effects = self.session.handle(command, rand::random(), now());
        self.perform(effects)
    }

    fn send(&self, reply: &Reply, push: impl FnOnce(&Outbox, Bytes)) -> Result<(), End> {
        if let Some(error) = &reply.error {
            self.shared.metrics.error(error.code);
        }
        let frame = self.outbox.dialect().encode(reply).map_err(|_| End::Close(codes::SERVER_ERROR))?;
        push(&self.outbox, frame);
        Ok(())
    }

    /// Takes the frames that are still queued.
    fn rest(&self) -> Vec<Bytes> {
        if self.one_way.as_ref().is_some_and(|one_way| one_way.is_holding()) {
            // The queued frames belong behind a reply to `connect` that will not come.
            return Vec::new();
        }
        self.outbox.take_rest()
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now().into_std(), unix }
}
