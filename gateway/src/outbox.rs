//! The bounded way to one socket: encoded replies that wait to be written, and the few facts others tell a connection.
//!
//! Pushing never waits. What does not fit ends the connection as slow; it is never queued without limit.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tidegate_shared::protocol::codes::{self, Disconnect};
use tokio::time::Instant;

use self::{dialect::Dialect, order::Order};

pub(crate) mod dialect;
pub(crate) mod encoded;
pub(crate) mod order;

/// Orders that may wait for one connection; one that takes none for so long ends.
const MAX_ORDERS: usize = 1024;

/// What waits for one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    dialect: Dialect,
    limit: usize,
    inner: Mutex<Inner>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Set once `connect` succeeded: before that a push would reach somebody unknown.
    open: bool,
    end: Option<Box<Disconnect>>,
    drain: Option<Drain>,
    notices: VecDeque<Notice>,
}

/// A fact that has to reach a connection.
#[derive(Debug)]
enum Notice {
    /// Publications of this channel were missed and cannot be filled in.
    Lost(Box<str>),
    Order(Arc<Order>),
}

/// How a connection is to end when the gateway drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Until when requests may finish.
    pub(crate) settle_until: Instant,
    /// Not to be closed before.
    pub(crate) close_at: Instant,
}

/// What an outbox has for its connection.
#[derive(Debug)]
pub(crate) enum OutboxItem {
    /// Encoded replies, in order.
    Frames(Vec<Bytes>),
    /// The connection has to end.
    End(Disconnect),
    /// The gateway drains.
    Drain(Drain),
    /// This channel's publications were missed: the client has to resume.
    Lost(Box<str>),
    /// A service wants something of this connection.
    Order(Arc<Order>),
}

impl Outbox {
    pub(crate) fn new(dialect: impl Into<Dialect>, limit: usize) -> Self {
        Self { dialect: dialect.into(), limit, inner: Mutex::default(), waker: AtomicWaker::new() }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Adds a reply of the connection's own session.
    pub(crate) fn push(&self, frame: Bytes) {
        self.add(frame, true);
    }

    /// Adds a reply of the connection's own session before everything that waits.
    pub(crate) fn push_first(&self, frame: Bytes) {
        let mut inner = self.inner.lock();
        if inner.end.is_none() {
            inner.bytes += frame.len();
            inner.frames.push_front(frame);
        }
        drop(inner);
        self.waker.wake();
    }

    /// Adds a push from elsewhere; dropped while the client is not authenticated.
    pub(crate) fn deliver(&self, frame: Bytes) {
        self.add(frame, false);
    }

    fn add(&self, frame: Bytes, own: bool) {
        let mut inner = self.inner.lock();
        if inner.end.is_some() || !(own || inner.open) {
            return;
        }
        inner.bytes += frame.len();
        if inner.bytes > self.limit {
            // Queued frames are dropped with the connection: what the client missed it recovers by position.
            inner.frames = VecDeque::new();
            inner.end = Some(Box::new(codes::SLOW));
        } else {
            inner.frames.push_back(frame);
        }
        drop(inner);
        self.waker.wake();
    }

    /// From now on pushes reach the client.
    pub(crate) fn open(&self) {
        self.inner.lock().open = true;
    }

    /// Tells the connection that the gateway drains.
    pub(crate) fn drain(&self, drain: Drain) {
        self.inner.lock().drain = Some(drain);
        self.waker.wake();
    }

    /// Tells the connection that publications of this channel were missed. The channel has let go of it already.
    pub(crate) fn lose(&self, channel: &str) {
        self.inner.lock().notices.push_back(Notice::Lost(channel.into()));
        self.waker.wake();
    }

    /// Hands the connection an order. One that ends it does so even while it is stuck in a socket.
    pub(crate) fn order(&self, order: &Arc<Order>) {
        let mut inner = self.inner.lock();
        if inner.end.is_some() {
            return;
        }
        if inner.notices.len() >= MAX_ORDERS {
            inner.end = Some(Box::new(codes::SLOW));
        } else if let Some(disconnect) = order.ends_at_once() {
            inner.end = Some(Box::new(disconnect));
        } else {
            inner.notices.push_back(Notice::Order(Arc::clone(order)));
        }
        drop(inner);
        self.waker.wake();
    }

    /// Takes every frame that waits, though the connection ends.
    pub(crate) fn take_rest(&self) -> Vec<Bytes> {
        let mut inner = self.inner.lock();
        inner.bytes = 0;
        std::mem::take(&mut inner.frames).into()
    }

    /// Takes what is there: the end first, then notices, then frames up to about `most` bytes.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, most: usize) -> Poll<OutboxItem> {
        self.waker.register(cx.waker());
        let mut inner = self.inner.lock();
        if let Some(end) = &inner.end {
            return Poll::Ready(OutboxItem::End(Disconnect::clone(end)));
        }
        if let Some(drain) = inner.drain.take() {
            return Poll::Ready(OutboxItem::Drain(drain));
        }
        // An order for a connection that is still being welcomed waits until it has what the order is about.
        let notices = if inner.open { inner.notices.pop_front() } else { None };
        match notices {
            Some(Notice::Lost(channel)) => return Poll::Ready(OutboxItem::Lost(channel)),
            Some(Notice::Order(order)) => return Poll::Ready(OutboxItem::Order(order)),
            None => {}
        }
        if inner.frames.is_empty() {
            return Poll::Pending;
        }
        let mut taken = Vec::new();
        let mut size = 0;
        while size < most
            && let Some(frame) = inner.frames.pop_front()
        {
            size += frame.len();
            taken.push(frame);
        }
        inner.bytes -= size;
        if inner.frames.is_empty() {
            // An idle connection keeps no queue.
            inner.frames = VecDeque::new();
        }
        Poll::Ready(OutboxItem::Frames(taken))
    }

    /// Completes when the outbox has overflowed, for a writer that is stuck in a socket.
    pub(crate) fn poll_overflow(&self, cx: &mut Context<'_>) -> Poll<Disconnect> {
        self.waker.register(cx.waker());
        self.inner.lock().end.as_deref().map_or(Poll::Pending, |end| Poll::Ready(end.clone()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::poll_fn};
    use tidegate_shared::protocol::Encoding;

    use super::order::Action;
    use super::*;

    fn take(outbox: &Outbox, most: usize) -> Option<OutboxItem> {
        poll_fn(|cx| outbox.poll_take(cx, most)).now_or_never()
    }

    fn bytes(n: usize) -> Bytes {
        vec![b'x'; n].into()
    }

    #[test]
    fn frames_come_out_in_order_and_in_bounded_batches() {
        let outbox = Outbox::new(Encoding::Json, 100);
        for text in ["a", "b", "c"] {
            outbox.push(Bytes::from(text));
        }
        assert!(matches!(take(&outbox, 2), Some(OutboxItem::Frames(f)) if f == ["a", "b"]));
        assert!(matches!(take(&outbox, 2), Some(OutboxItem::Frames(f)) if f == ["c"]));
        assert!(take(&outbox, 2).is_none());
    }

    #[test]
    fn a_reply_can_overtake_what_waits() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.push("b".into());
        outbox.push_first("a".into());
        assert!(matches!(take(&outbox, 100), Some(OutboxItem::Frames(f)) if f == ["a", "b"]));
    }

    #[test]
    fn exactly_the_limit_fits_and_one_byte_more_ends_the_connection() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.push(bytes(60));
        outbox.push(bytes(40));
        assert!(matches!(take(&outbox, 1000), Some(OutboxItem::Frames(f)) if f.len() == 2));
        outbox.push(bytes(101));
        assert!(matches!(take(&outbox, 1000), Some(OutboxItem::End(end)) if end == codes::SLOW));
    }

    #[test]
    fn an_order_waits_for_the_welcome_unless_it_ends_the_connection() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.order(&order(Action::default()));
        assert!(take(&outbox, 10).is_none());
        outbox.open();
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::Order(_))));
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.order(&order(Action::Disconnect { code: 3503, reason: "force disconnect".to_owned() }));
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::End(end)) if end == codes::FORCE_DISCONNECT));
    }

    fn order(action: Action) -> Arc<Order> {
        Arc::new(Order { user: "42".to_owned(), action, ..Order::default() })
    }

    #[test]
    fn an_order_that_ends_a_connection_reaches_a_writer_that_is_stuck_and_what_waits_can_still_be_taken() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.open();
        outbox.push(bytes(60));
        let overflow = || poll_fn(|cx| outbox.poll_overflow(cx)).now_or_never();
        outbox.order(&order(Action::default()));
        assert!(overflow().is_none(), "it is looked at when the writer is done");
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::Order(_))));
        outbox.order(&order(Action::Disconnect { code: 3503, reason: "force disconnect".to_owned() }));
        assert_eq!(overflow(), Some(codes::FORCE_DISCONNECT));
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::End(end)) if end == codes::FORCE_DISCONNECT));
        assert_eq!(outbox.take_rest().len(), 1);
    }

    #[test]
    fn a_connection_that_takes_no_orders_ends() {
        let outbox = Outbox::new(Encoding::Json, 100);
        for _ in 0..=MAX_ORDERS {
            outbox.order(&order(Action::default()));
        }
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::End(end)) if end == codes::SLOW));
    }

    #[test]
    fn nothing_is_delivered_before_the_client_is_known() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.deliver(bytes(1));
        assert!(take(&outbox, 10).is_none());
        outbox.open();
        outbox.deliver(bytes(1));
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::Frames(_))));
    }
}
