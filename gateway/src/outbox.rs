//! The bounded way to one socket: encoded replies that wait to be written, and notices for the connection.
//!
//! Pushing never waits. A frame that does not fit ends the connection as slow. With a wire the outbox also writes: nobody but
//! the holder of its lock writes to the socket.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tidegate_shared::protocol::codes::{self, Disconnect};
use tokio::time::Instant;

use self::{
    dialect::Dialect,
    frame::Frame,
    inner::{Inner, Notice, Phase, Writing},
    order::Order,
    total::{Counted, Total},
    wire::Wire,
};

pub(crate) mod dialect;
mod encode;
pub(crate) mod encoded;
pub(crate) mod flusher;
pub(crate) mod frame;
mod inner;
pub(crate) mod order;
mod queue;
pub(crate) mod total;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

/// Notices that may wait for one connection. With more, the connection ends as slow.
const MAX_ORDERS: usize = 1024;

/// Bytes per write.
pub(crate) const WRITE_BUDGET: usize = 16 * 1024;

/// The outbox of one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    dialect: Dialect,
    limit: usize,
    inner: Mutex<Inner>,
    waker: AtomicWaker,
    /// `None` if the connection's task writes: over TLS, and for streams.
    wire: Option<Wire>,
}

/// How a connection ends when the gateway drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Until when requests may finish.
    pub(crate) settle_until: Instant,
    /// The connection is not closed before this time.
    pub(crate) close_at: Instant,
}

/// An item of the outbox, for its connection.
#[derive(Debug)]
pub(crate) enum OutboxItem {
    /// Encoded replies, in order, for a connection that writes them itself.
    Frames(VecDeque<Frame>),
    /// The socket takes no more for now.
    Blocked,
    /// There is room again for what had none: the connection looks again at what it may do.
    Room,
    /// The client is gone.
    Gone,
    /// The connection has to end.
    End(Disconnect),
    /// The gateway drains.
    Drain(Drain),
    /// Publications of this channel are lost to the gateway: the client has to resume.
    Lost(Box<str>),
    /// An order from a service.
    Order(Arc<Order>),
}

/// Whether an outbox has to be handed to the flusher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Flush,
}

impl Outbox {
    /// An outbox whose connection writes.
    pub(crate) fn new(dialect: impl Into<Dialect>, limit: usize) -> Self {
        Self {
            dialect: dialect.into(),
            limit,
            inner: Mutex::default(),
            waker: AtomicWaker::new(),
            wire: None,
        }
    }

    /// An outbox that writes by itself.
    pub(crate) fn wired(dialect: Dialect, limit: usize, wire: Wire) -> Self {
        Self { wire: Some(wire), ..Self::new(dialect, limit) }
    }

    /// Makes its bytes a part of this total.
    pub(crate) fn within(self, total: Arc<Total>) -> Self {
        let inner = Inner { bytes: Counted::of(total), ..self.inner.into_inner() };
        Self { inner: Mutex::new(inner), ..self }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// The most bytes that may wait. A larger frame can never be written.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether further replies may be made. With more waiting, the connection writes first: a client that asks for much at
    /// once is slowed down, not closed. After a no, the connection is woken when whoever else writes has made room.
    pub(crate) fn has_room(&self) -> bool {
        let mut inner = self.inner.lock();
        let has_room = inner.has_room(self.limit);
        inner.cramped |= !has_room;
        has_room
    }

    /// Adds a reply of the connection's own session, which writes it. A reply that fits an empty outbox also fits one with
    /// room.
    pub(crate) fn push(&self, frame: Frame) {
        let mut inner = self.inner.lock();
        if inner.takes(true) {
            inner.add(frame, self.limit, true);
        }
    }

    /// Adds the reply to `connect` before all queued frames. From now on pushes follow it.
    pub(crate) fn push_first(&self, frame: Frame) {
        let mut inner = self.inner.lock();
        if inner.takes(true) && inner.charge(frame.len()) {
            inner.queue.push_front(frame);
        }
        if inner.phase == Phase::Joining {
            inner.phase = Phase::Open;
        }
    }

    /// Adds a push from elsewhere. Dropped while the client is not authenticated. Returns what the caller has to do.
    ///
    /// If it does not fit, what waits is written first: only a client whose socket takes no more is slow.
    fn deliver(&self, frame: Frame) -> Wanted {
        let mut inner = self.inner.lock();
        if !inner.takes(false) {
            return Wanted::Nothing;
        }
        let mut wakes = false;
        if let Some(wire) = &self.wire
            && inner.state == Writing::Free
            && inner.phase == Phase::Open
            && !inner.fits(frame.len(), self.limit)
        {
            wakes = inner.write(wire, self.dialect) != Writing::Free || inner.cramped;
        }
        let was_empty = inner.queue.is_empty();
        let ended = inner.add(frame, self.limit, false);
        let writes = self.wire.is_some() && !ended;
        let flushes =
            writes && !inner.scheduled && inner.state == Writing::Free && inner.phase == Phase::Open;
        inner.scheduled |= flushes;
        drop(inner);
        if wakes || ended || (self.wire.is_none() && was_empty) {
            self.waker.wake();
        }
        if flushes { Wanted::Flush } else { Wanted::Nothing }
    }

    /// Lets pushes be queued from now on, behind the reply to `connect`.
    pub(crate) fn open(&self) {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Closed {
            inner.phase = Phase::Joining;
        }
    }

    /// Tells the connection that the gateway drains.
    pub(crate) fn drain(&self, drain: Drain) {
        self.inner.lock().rare().drain = Some(drain);
        self.waker.wake();
    }

    /// Tells the connection that publications of this channel are lost to the gateway. The feed has removed the
    /// subscriber already.
    pub(crate) fn lose(&self, channel: &str) {
        let mut inner = self.inner.lock();
        // One notice for each channel, so that their number is bounded while a write is blocked.
        let queued = |notice: &Notice| matches!(notice, Notice::Lost(lost) if **lost == *channel);
        let notices = &mut inner.rare().notices;
        if !notices.iter().any(queued) {
            notices.push_back(Notice::Lost(channel.into()));
        }
        drop(inner);
        self.waker.wake();
    }

    /// Hands the connection an order. A disconnect takes effect even while a write is blocked.
    pub(crate) fn order(&self, order: &Arc<Order>) {
        let mut inner = self.inner.lock();
        let rare = inner.rare();
        if rare.end.is_some() {
            return;
        }
        if rare.notices.len() >= MAX_ORDERS {
            rare.end = Some(codes::SLOW);
        } else if let Some(disconnect) = order.ends_at_once() {
            rare.end = Some(disconnect);
        } else {
            rare.notices.push_back(Notice::Order(Arc::clone(order)));
        }
        drop(inner);
        self.waker.wake();
    }

    /// Takes all queued frames of a connection that ends.
    pub(crate) fn take_rest(&self) -> VecDeque<Frame> {
        self.inner.lock().take_frames(usize::MAX)
    }

    /// Takes the next item: the end first, then notices, then frames of about `most` bytes where the connection writes.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, most: usize) -> Poll<OutboxItem> {
        self.waker.register(cx.waker());
        let mut inner = self.inner.lock();
        if let Some(item) = inner.next_rare() {
            return Poll::Ready(item);
        }
        match inner.state {
            Writing::Free => {}
            Writing::Blocked => return Poll::Ready(OutboxItem::Blocked),
            Writing::Broken => return Poll::Ready(OutboxItem::Gone),
        }
        if self.wire.is_some() && inner.cramped && inner.has_room(self.limit) {
            inner.cramped = false;
            return Poll::Ready(OutboxItem::Room);
        }
        if self.wire.is_some() || most == 0 || inner.queue.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(OutboxItem::Frames(inner.take_frames(most)))
    }

    /// Completes when the outbox has overflowed, for a write that is blocked.
    pub(crate) fn poll_overflow(&self, cx: &mut Context<'_>) -> Poll<Disconnect> {
        self.waker.register(cx.waker());
        let inner = self.inner.lock();
        let end = inner.rare.as_ref().and_then(|rare| rare.end.clone());
        end.map_or(Poll::Pending, Poll::Ready)
    }

    /// Writes what is queued, as far as the socket takes it. The connection learns if it does not take everything, and if it was
    /// waiting for room.
    pub(crate) fn flush(&self) {
        let Some(wire) = &self.wire else { return };
        let mut inner = self.inner.lock();
        inner.scheduled = false;
        if inner.state == Writing::Free && (inner.write(wire, self.dialect) != Writing::Free || inner.cramped)
        {
            drop(inner);
            self.waker.wake();
        }
    }

    /// As [`Outbox::flush`], and never ready: for a branch of a loop that takes its turn behind those before it.
    pub(crate) fn flush_and_wait(&self) -> Poll<Infallible> {
        self.flush();
        Poll::Pending
    }

    /// Waits until a blocked socket has taken some more. Returns whether the client is still there.
    pub(crate) fn poll_unblock(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(wire) = &self.wire else { return Poll::Ready(true) };
        loop {
            let mut inner = self.inner.lock();
            if inner.state != Writing::Blocked {
                return Poll::Ready(inner.state == Writing::Free);
            }
            drop(inner);
            ready!(wire.poll_writable(cx));
            inner = self.inner.lock();
            let before = inner.bytes.get();
            if inner.write(wire, self.dialect) == Writing::Blocked && inner.bytes.get() < before {
                return Poll::Ready(true);
            }
        }
    }

    /// Queues the last frames of a connection. Nothing is queued behind them; what is queued already goes before them, if
    /// `keep` says so. `poll_written` writes it all.
    pub(crate) fn finish(&self, keep: bool, last: impl IntoIterator<Item = Frame>) {
        let mut inner = self.inner.lock();
        if !keep {
            inner.forget();
        }
        inner.phase = Phase::Over;
        for frame in last {
            inner.bytes += frame.len();
            inner.queue.push_back(frame);
        }
    }

    /// Completes when everything is written, or the client is gone.
    pub(crate) fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(wire) = &self.wire else { return Poll::Ready(()) };
        loop {
            if self.inner.lock().write(wire, self.dialect) != Writing::Blocked {
                return Poll::Ready(());
            }
            ready!(wire.poll_writable(cx));
        }
    }
}
