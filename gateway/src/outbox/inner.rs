//! What waits in an outbox, and writing it to the socket. Every method runs under the outbox's lock and never waits.

use std::{cell::RefCell, collections::VecDeque, mem, sync::Arc};

use bytes::Bytes;
use tidegate_shared::protocol::codes::{self, Disconnect};

use super::{
    Drain, OutboxItem, WRITE_BUDGET,
    dialect::Dialect,
    frame::Frame,
    order::Order,
    queue::Queue,
    total::Counted,
    wire::{Wire, Written},
};

thread_local! {
    /// What is written at once when several frames wait.
    static WRITE_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) queue: Queue,
    pub(super) bytes: Counted,
    pub(super) phase: Phase,
    /// The flusher will write what is queued.
    pub(super) scheduled: bool,
    /// The connection was told that there is no room.
    pub(super) cramped: bool,
    pub(super) state: Writing,
    pub(super) rare: Option<Box<Rare>>,
}

/// Who may reach the client.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The session alone: the client is not authenticated, and pushes are dropped.
    #[default]
    Closed,
    /// `connect` succeeded, and its reply is still to come: pushes wait for it.
    Joining,
    /// Everybody.
    Open,
    /// Nobody any more: the connection writes its last frames.
    Over,
}

/// What the wire did with the last write.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    #[default]
    Free,
    /// The socket takes no more until the connection's task has waited for it.
    Blocked,
    /// The client is gone.
    Broken,
}

/// What few connections have at a time.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) end: Option<Disconnect>,
    pub(super) drain: Option<Drain>,
    pub(super) notices: VecDeque<Notice>,
    /// The rest of a write that the socket took a part of.
    rest: Bytes,
}

/// A notice for a connection's task.
#[derive(Debug)]
pub(super) enum Notice {
    /// Publications of this channel are lost to the gateway: the client has to resume.
    Lost(Box<str>),
    Order(Arc<Order>),
}

impl Inner {
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Whether a frame of this origin is queued.
    pub(super) fn takes(&self, own: bool) -> bool {
        let ends = self.rare.as_ref().is_some_and(|rare| rare.end.is_some());
        !ends && self.phase != Phase::Over && (own || self.phase != Phase::Closed)
    }

    /// Whether further replies may be made.
    pub(super) fn has_room(&self, limit: usize) -> bool {
        self.bytes.get() <= self.bytes.most(limit) / 2
    }

    /// Whether a push of this length can be queued.
    pub(super) fn fits(&self, len: usize, limit: usize) -> bool {
        self.bytes.get().saturating_add(len) <= self.bytes.most(limit)
    }

    /// Queues a frame. Returns whether it does not fit: then the connection ends.
    pub(super) fn add(&mut self, frame: Frame, limit: usize, own: bool) -> bool {
        let fits_alone = own && self.bytes.get() <= limit / 2 && frame.len() <= limit;
        if !fits_alone && self.bytes.get().saturating_add(frame.len()) > limit {
            self.overflow();
            return true;
        }
        let fits = self.charge(frame.len());
        if fits {
            self.queue.push_back(frame);
        }
        !fits
    }

    /// Counts a frame that is queued next. If nothing is left for it of what all outboxes may have, the connection ends.
    pub(super) fn charge(&mut self, len: usize) -> bool {
        let has_share = self.bytes.has_share(len);
        if has_share {
            self.bytes += len;
        } else {
            self.overflow();
        }
        has_share
    }

    /// The queued frames are dropped with the connection. The client recovers them by position.
    fn overflow(&mut self) {
        self.forget();
        self.rare().end = Some(codes::SLOW);
    }

    /// Drops the queued frames. What is left of a frame that is written in part stays: frames follow it.
    pub(super) fn forget(&mut self) {
        self.queue = Queue::default();
        self.bytes.set(self.rare.as_ref().map_or(0, |rare| rare.rest.len()));
    }

    pub(super) fn next_rare(&mut self) -> Option<OutboxItem> {
        let is_joined = matches!(self.phase, Phase::Joining | Phase::Open);
        let rare = self.rare.as_mut()?;
        if let Some(end) = &rare.end {
            return Some(OutboxItem::End(end.clone()));
        }
        if let Some(drain) = rare.drain.take() {
            return Some(OutboxItem::Drain(drain));
        }
        // An order for a connection that is still joining its first channels waits until it has joined them.
        if is_joined && let Some(notice) = rare.notices.pop_front() {
            return Some(match notice {
                Notice::Lost(channel) => OutboxItem::Lost(channel),
                Notice::Order(order) => OutboxItem::Order(order),
            });
        }
        if rare.rest.is_empty() && rare.notices.is_empty() {
            self.rare = None;
        }
        None
    }

    pub(super) fn take_frames(&mut self, most: usize) -> VecDeque<Frame> {
        let (frames, size) = self.queue.take(most);
        self.bytes -= size;
        frames
    }

    /// Writes until nothing is left or the socket takes no more.
    pub(super) fn write(&mut self, wire: &Wire, dialect: Dialect) -> Writing {
        if self.state == Writing::Broken {
            return self.state;
        }
        self.state = Writing::Free;
        while self.state == Writing::Free {
            let rest = self.rare.as_mut().map(|rare| mem::take(&mut rare.rest)).unwrap_or_default();
            if !rest.is_empty() {
                self.bytes -= rest.len();
                self.write_bytes(wire, rest);
            } else if let Some(frame) = self.queue.take_single() {
                self.bytes -= frame.len();
                self.write_bytes(wire, frame.into_bytes());
            } else if self.queue.is_empty() {
                break;
            } else {
                WRITE_BUFFER.with_borrow_mut(|buffer| {
                    buffer.clear();
                    // One large reply does not stay with the thread.
                    buffer.shrink_to(4 * WRITE_BUDGET);
                    self.bytes -= self.queue.join(dialect, WRITE_BUDGET, buffer);
                    match wire.write(buffer) {
                        Written::Bytes(count) if count == buffer.len() => {}
                        Written::Bytes(count) => {
                            self.block(Bytes::copy_from_slice(buffer.get(count..).unwrap_or_default()));
                        }
                        Written::Broken => self.break_off(),
                    }
                });
            }
        }
        self.state
    }

    fn write_bytes(&mut self, wire: &Wire, mut bytes: Bytes) {
        match wire.write(&bytes) {
            Written::Bytes(count) if count == bytes.len() => {}
            Written::Bytes(count) => self.block(bytes.split_off(count)),
            Written::Broken => self.break_off(),
        }
    }

    fn block(&mut self, rest: Bytes) {
        self.state = Writing::Blocked;
        self.bytes += rest.len();
        self.rare().rest = rest;
    }

    fn break_off(&mut self) {
        self.state = Writing::Broken;
        self.queue = Queue::default();
        self.bytes.set(0);
    }
}
