//! One client's connection: one task that owns the transport, reads, writes, keeps time and carries out what the session decides.
//!
//! Knows nothing of NATS: it calls `requests`, `channels` and `presence`. Every wait in it has a deadline.

use std::{
    future::poll_fn,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::FutureExt;
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{
        Command, Reply,
        codes::{self, Disconnect},
    },
};
use tokio::time::{Instant, sleep_until};

use self::{
    in_flight::{InFlight, next_done},
    limits::CommonLimits,
    one_way::OneWay,
    permit::SocketPermit,
    registration::Registration,
    transport::{Failure, Transport},
};
use crate::{
    channels::Channels,
    metrics::Metrics,
    outbox::{Drain, Outbox, OutboxItem, WRITE_BUDGET, dialect::Dialect, flusher::Flusher, wire::Wire},
    policy::{crowd::Seat, hooks::Hooks, keys::Keys, pace::Hold, rules::Rules},
    presence::Presence,
    requests::{quota::Quotas, store::Store},
    session::{Now, Session},
};

mod catch_up;
mod catch_ups;
mod depth;
mod effects;
mod in_flight;
mod join;
pub(crate) mod limits;
pub(crate) mod one_way;
pub(crate) mod permit;
mod prepare;
mod read;
mod registration;
mod reply;
#[cfg(test)]
mod size;
pub(crate) mod transport;

/// How exactly the deadlines of sessions are kept.
const STEP: Duration = Duration::from_millis(250);

/// The parts that all connections of a gateway share.
pub(crate) struct Shared {
    pub(crate) rules: Arc<Rules>,
    pub(crate) common: CommonLimits,
    pub(crate) store: Arc<Store>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) keys: Keys,
    pub(crate) hooks: Hooks,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) metrics: Metrics,
    pub(crate) flusher: Arc<Flusher>,
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
    /// It has made a request that is cancelled when it ends.
    cancels: bool,
    hold: Hold,
    /// Its seat among the connections of its user.
    seat: Option<Seat<u64>>,
    permit: Option<SocketPermit>,
}

/// Why the loop of a connection ended.
enum End {
    /// The client's socket broke or was closed without a close frame.
    Gone,
    /// The client closed the connection, with this code and reason.
    Left(Bytes),
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
    /// With a wire the outbox writes, else the transport.
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Transport,
        wire: Option<Wire>,
        dialect: Dialect,
        permit: Option<SocketPermit>,
    ) -> Self {
        let client = ClientId::random(&shared.rules.gateway);
        let limit = usize::try_from(shared.rules.limits.outbox).unwrap_or(usize::MAX);
        let outbox = match wire {
            Some(wire) => Outbox::wired(dialect, limit, wire),
            None => Outbox::new(dialect, limit),
        };
        let outbox = Arc::new(outbox.within(Arc::clone(&shared.common.buffered)));
        let session = Session::new(Arc::clone(&shared.rules), client, dialect.encoding(), now().instant);
        let registration = Registration::new(
            Arc::clone(&shared.channels.hub),
            &shared.metrics,
            (session.client().clone(), transport.session()),
            Arc::clone(&outbox),
        );
        let one_way = (dialect == Dialect::OneWay).then(|| Box::new(OneWay::new(shared.rules.limits.outbox)));
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
            cancels: false,
            hold: Hold::default(),
            seat: None,
            permit,
        }
    }

    /// Serves the client until it goes, is closed, or the gateway drains.
    ///
    /// By reference, and with the ends boxed: the future of a connection that is doing nothing stays small.
    pub(crate) async fn run(&mut self) {
        let end = self.serve().await;
        self.registration.leave_all();
        if self.cancels && self.drain.is_none() {
            let callers = Arc::clone(&self.shared.channels.callers);
            Box::pin(callers.gone(self.session.client())).await;
        }
        self.log_end(&end);
        match end {
            End::Gone => {}
            End::Left(content) => Box::pin(self.transport.finish_close(&self.outbox, &content)).await,
            End::Close(disconnect) => {
                self.shared.metrics.disconnected(disconnect.code);
                // Queued frames are still written, unless the client is too slow for them, or they belong behind a reply to
                // `connect` that will not come.
                let keep = disconnect != codes::SLOW && !self.is_holding();
                let mut last = Vec::new();
                if self.transport.closes_with_a_push() {
                    last.extend(self.outbox.dialect().encode(&Reply::disconnect(disconnect.clone())));
                }
                Box::pin(self.transport.close(&self.outbox, keep, last, disconnect)).await;
            }
        }
    }

    fn log_end(&self, end: &End) {
        let (code, reason) = match end {
            End::Gone => (None, "the socket ended"),
            End::Left(_) => (None, "the client closed the connection"),
            End::Close(disconnect) => (Some(disconnect.code), disconnect.reason.as_ref()),
        };
        tracing::debug!(
            user = self.session.user_for_log(),
            client.id = %self.session.client(),
            close.code = code,
            reason,
            "disconnected"
        );
    }

    /// The loop. Branches in order of priority: finished operations, time, the outbox, the client.
    async fn serve(&mut self) -> End {
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            let holding = self.is_holding();
            let deadline = self.deadline();
            if let Some(deadline) = deadline
                && timer.deadline() != deadline
            {
                timer.as_mut().reset(deadline);
            }
            let reading = self.is_reading();
            let Self { outbox, in_flight, transport, .. } = self;
            let flow = tokio::select! {
                biased;
                () = next_done(in_flight, || holding || outbox.has_room()) => self.finished_one(),
                // Not before every operation that has ended by now is answered: their replies are one write.
                never = poll_fn(|_| outbox.flush_and_wait()), if !holding => match never {},
                () = &mut timer, if deadline.is_some() => self.tick(reading).await,
                item = poll_fn(|cx| outbox.poll_take(cx, WRITE_BUDGET)), if !holding => self.item(item).await,
                input = transport.next(outbox), if reading => self.received(input).await.map(|_| ()),
            };
            if let Err(end) = flow {
                return end;
            }
        }
    }

    /// Whether nothing may reach the client before a reply to `connect` that is still to come.
    fn is_holding(&self) -> bool {
        self.one_way.as_ref().is_some_and(|one_way| one_way.is_holding())
    }

    /// With too many unsettled operations, replies that wait, or more commands than its rate, the connection stops reading: TCP slows
    /// the client down to the broker's pace, its own, or the configured one.
    fn is_reading(&self) -> bool {
        !self.hold.is_held() && self.may_read()
    }

    /// Whether nothing but its rate keeps it from reading.
    fn may_read(&self) -> bool {
        self.drain.is_none()
            && !self.session.is_connecting()
            && self.outbox.has_room()
            && self
                .in_flight
                .as_ref()
                .is_none_or(|in_flight| in_flight.unsettled < self.shared.rules.limits.max_in_flight)
    }

    fn deadline(&self) -> Option<Instant> {
        let session = self.session.next_timeout().map(|at| in_steps(Instant::from_std(at)));
        let drain = self.drain.map(|drain| match &self.in_flight {
            Some(_) => drain.settle_until.max(drain.close_at),
            None => drain.close_at,
        });
        [session, drain, self.held_until()].into_iter().flatten().min()
    }

    /// Handles timeouts. Reads first what the client has sent, since a pong may wait behind a write that was blocked.
    async fn tick(&mut self, reading: bool) -> Result<(), End> {
        let at = Instant::now();
        self.hold.release(&self.shared.common.rates, self.shared.common.rates.now());
        let mut reading = reading;
        if reading && let Some(input) = self.transport.next(&self.outbox).now_or_never() {
            // With more to read than one budget the pong may still be unread.
            reading = Box::pin(self.received(input)).await?;
        }
        if self.drain.is_some() && self.deadline_of_drain_passed(at) {
            let effects = self.session.shut_down();
            return self.perform(effects);
        }
        // A message that comes in parts without an end is no reason to wait for a pong.
        let reading = reading || self.may_read() && self.transport.is_amid_message();
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
                Box::pin(self.transport.write(frames, &self.outbox)).await?;
                self.read_on().await
            }
            OutboxItem::Blocked => {
                Box::pin(Transport::unblock(&self.outbox)).await?;
                self.read_on().await
            }
            OutboxItem::Room => Ok(()),
            OutboxItem::Gone => Err(End::Gone),
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

    /// An outbox that never empties does not keep commands from being read.
    async fn read_on(&mut self) -> Result<(), End> {
        if self.is_reading()
            && let Some(input) = self.transport.next(&self.outbox).now_or_never()
        {
            Box::pin(self.received(input)).await?;
        }
        Ok(())
    }
}

/// The next step at or after this moment. The pings of many idle clients that are due at about the same time then wake the
/// process once, and so do their answers.
fn in_steps(at: Instant) -> Instant {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since = at.saturating_duration_since(*BEGIN).as_nanos();
    let steps = u32::try_from(since.div_ceil(STEP.as_nanos())).unwrap_or(u32::MAX);
    *BEGIN + STEP.saturating_mul(steps)
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now().into_std(), unix }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_step_is_never_before_its_moment(nanos in 0_u64..3_600_000_000_000) {
            let at = Instant::now() + Duration::from_nanos(nanos);
            let step = in_steps(at);
            prop_assert!(at <= step && step < at + STEP, "{:?} before", at.saturating_duration_since(step));
            prop_assert_eq!(in_steps(step), step);
        }
    }
}
