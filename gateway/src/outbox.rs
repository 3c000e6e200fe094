//! The bounded queue of one socket: encoded replies that wait to be written, and notices for the connection.
//!
//! Pushing never waits. A frame that does not fit ends the connection as slow.

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

/// Notices that may wait for one connection. With more, the connection ends as slow.
const MAX_ORDERS: usize = 1024;

/// The queue of one connection.
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
    /// Set once `connect` succeeded. Before that, pushes are dropped, since the client is not authenticated.
    open: bool,
    end: Option<Box<Disconnect>>,
    drain: Option<Drain>,
    notices: VecDeque<Notice>,
}

/// A notice for a connection's task.
#[derive(Debug)]
enum Notice {
    /// Publications of this channel are lost to the gateway: the client has to resume.
    Lost(Box<str>),
    Order(Arc<Order>),
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
    /// Encoded replies, in order.
    Frames(Vec<Bytes>),
    /// The connection has to end.
    End(Disconnect),
    /// The gateway drains.
    Drain(Drain),
    /// Publications of this channel are lost to the gateway: the client has to resume.
    Lost(Box<str>),
    /// An order from a service.
    Order(Arc<Order>),
}

impl Outbox {
    pub(crate) fn new(dialect: impl Into<Dialect>, limit: usize) -> Self {
        Self { dialect: dialect.into(), limit, inner: Mutex::default(), waker: AtomicWaker::new() }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The most bytes that may wait. A larger frame can never be written.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether further replies may be made. With more waiting, the connection writes first: a client that asks for much at
    /// once is slowed down, not closed.
    pub(crate) fn has_room(&self) -> bool {
        self.inner.lock().bytes <= self.limit / 2
    }

    /// Adds a reply of the connection's own session. A reply that fits an empty outbox also fits one with room.
    pub(crate) fn push(&self, frame: Bytes) {
        self.add(frame, true);
    }

    /// Adds a reply of the connection's own session before all queued frames.
    pub(crate) fn push_first(&self, frame: Bytes) {
        let mut inner = self.inner.lock();
        if inner.end.is_none() {
            inner.bytes += frame.len();
            inner.frames.push_front(frame);
        }
        drop(inner);
        self.waker.wake();
    }

    /// Adds a push from elsewhere. Dropped while the client is not authenticated.
    pub(crate) fn deliver(&self, frame: Bytes) {
        self.add(frame, false);
    }

    fn add(&self, frame: Bytes, own: bool) {
        let mut inner = self.inner.lock();
        if inner.end.is_some() || !(own || inner.open) {
            return;
        }
        let fits_alone = own && inner.bytes <= self.limit / 2 && frame.len() <= self.limit;
        inner.bytes += frame.len();
        if inner.bytes > self.limit && !fits_alone {
            // The queued frames are dropped with the connection. The client recovers them by position.
            inner.frames = VecDeque::new();
            inner.end = Some(Box::new(codes::SLOW));
        } else {
            inner.frames.push_back(frame);
        }
        drop(inner);
        self.waker.wake();
    }

    /// Lets pushes reach the client from now on.
    pub(crate) fn open(&self) {
        self.inner.lock().open = true;
    }

    /// Tells the connection that the gateway drains.
    pub(crate) fn drain(&self, drain: Drain) {
        self.inner.lock().drain = Some(drain);
        self.waker.wake();
    }

    /// Tells the connection that publications of this channel are lost to the gateway. The feed has removed the
    /// subscriber already.
    pub(crate) fn lose(&self, channel: &str) {
        let mut inner = self.inner.lock();
        // One notice for each channel, so that their number is bounded while a write is blocked.
        let queued = |notice: &Notice| matches!(notice, Notice::Lost(lost) if **lost == *channel);
        if !inner.notices.iter().any(queued) {
            inner.notices.push_back(Notice::Lost(channel.into()));
        }
        drop(inner);
        self.waker.wake();
    }

    /// Hands the connection an order. A disconnect takes effect even while a write is blocked.
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

    /// Takes all queued frames of a connection that ends.
    pub(crate) fn take_rest(&self) -> Vec<Bytes> {
        let mut inner = self.inner.lock();
        inner.bytes = 0;
        std::mem::take(&mut inner.frames).into()
    }

    /// Takes the next item: the end first, then notices, then frames of about `most` bytes.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, most: usize) -> Poll<OutboxItem> {
        self.waker.register(cx.waker());
        let mut inner = self.inner.lock();
        if let Some(end) = &inner.end {
            return Poll::Ready(OutboxItem::End(Disconnect::clone(end)));
        }
        if let Some(drain) = inner.drain.take() {
            return Poll::Ready(OutboxItem::Drain(drain));
        }
        // An order for a connection that is still joining its first channels waits until it has joined them.
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
            // An idle connection keeps no allocation.
            inner.frames = VecDeque::new();
        }
        Poll::Ready(OutboxItem::Frames(taken))
    }

    /// Completes when the outbox has overflowed, for a write that is blocked.
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
    fn a_reply_can_go_before_the_queued_frames() {
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
    fn a_reply_fits_if_it_fits_an_empty_outbox_and_there_is_room() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.open();
        outbox.push(bytes(50));
        assert!(outbox.has_room());
        outbox.push(bytes(100));
        assert!(!outbox.has_room());
        assert!(matches!(take(&outbox, 1000), Some(OutboxItem::Frames(f)) if f.len() == 2));
        outbox.push(bytes(50));
        outbox.deliver(bytes(100));
        assert!(
            matches!(take(&outbox, 1000), Some(OutboxItem::End(end)) if end == codes::SLOW),
            "a publication"
        );
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
    fn a_disconnect_reaches_a_blocked_write_and_the_queued_frames_can_still_be_taken() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.open();
        outbox.push(bytes(60));
        let overflow = || poll_fn(|cx| outbox.poll_overflow(cx)).now_or_never();
        outbox.order(&order(Action::default()));
        assert!(overflow().is_none(), "an order waits until the write is done");
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::Order(_))));
        outbox.order(&order(Action::Disconnect { code: 3503, reason: "force disconnect".to_owned() }));
        assert_eq!(overflow(), Some(codes::FORCE_DISCONNECT));
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::End(end)) if end == codes::FORCE_DISCONNECT));
        assert_eq!(outbox.take_rest().len(), 1);
    }

    #[test]
    fn a_channel_that_is_lost_again_and_again_waits_once() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.open();
        for _ in 0..3 {
            outbox.lose("chat:a");
            outbox.lose("chat:b");
        }
        for expected in ["chat:a", "chat:b"] {
            assert!(matches!(take(&outbox, 10), Some(OutboxItem::Lost(lost)) if *lost == *expected));
        }
        assert!(take(&outbox, 10).is_none());
        outbox.lose("chat:a");
        assert!(take(&outbox, 10).is_some(), "a later loss is told");
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
    fn no_push_is_delivered_before_the_client_is_authenticated() {
        let outbox = Outbox::new(Encoding::Json, 100);
        outbox.deliver(bytes(1));
        assert!(take(&outbox, 10).is_none());
        outbox.open();
        outbox.deliver(bytes(1));
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::Frames(_))));
    }
}
