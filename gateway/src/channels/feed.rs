//! One channel on this gateway: its subscribers and its position in the stream.
//!
//! All publications of the channel pass through here, in order and under one lock. So a join is exact: the first
//! publication a subscriber receives is the first one behind the position in its reply. The feed finds gaps by the
//! chain of sequences; the caller fills them from the stream. No sockets, no broker, no clock.

use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::AtomicU64},
    time::SystemTime,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{Publication, Reply},
};

pub(crate) use self::{
    doubt::{Standing, standing},
    gap::{Gap, Live},
    heal::Healed,
    part::Part,
    subscribers::JoinOptions,
    track::Applied,
    window::{Kept, Limit, Opened, Pin},
};
use self::{subscribers::Subscriber, track::Track};
use crate::outbox::{Outbox, frame::Frame};

mod doubt;
mod gap;
mod heal;
pub(crate) mod newest;
mod part;
pub(crate) mod patch;
mod subscribers;
mod track;
mod window;

/// A channel's subscribers and its position.
pub(crate) struct Feed {
    channel: Channel,
    state: Mutex<State>,
    /// The number of the connection to the broker over which the channel is received.
    connection: AtomicU64,
    /// Locked while a window is read from the stream, so that all requests for one share the read. Holds the part that was read
    /// last, while a client uses it.
    pub(crate) reading: tokio::sync::Mutex<Weak<Part>>,
}

#[derive(Default)]
struct State {
    first: Option<(ClientId, Subscriber)>,
    more: HashMap<ClientId, Subscriber>,
    /// The newest publication, while a subscriber receives patches of it.
    newest: Option<Bytes>,
    /// `None` for a channel without history.
    track: Option<Track>,
    /// How many references to the channel exist.
    refs: usize,
    /// How many gaps were found so far.
    rounds: u64,
}

/// From where a subscriber joins.
#[derive(Debug, Default)]
pub(crate) enum Start {
    /// With the next publication.
    #[default]
    Fresh,
    /// With all publications behind an offset.
    Behind(Pin),
    /// Not yet: the client gets the beginning of its backlog, and joins when it has the rest.
    Part(Arc<Part>),
    /// With the newest publication, unless it is the one the client has seen.
    Newest { seen: Option<u64> },
}

/// The position a client wants to resume from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) offset: u64,
    /// Empty if the client accepts any stream.
    pub(crate) epoch: String,
}

impl Resume {
    /// For a client that sends no position.
    pub(crate) fn from_nowhere() -> Self {
        Self { offset: 0, epoch: String::new() }
    }
}

/// The publications of a channel behind a position, read from its stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backlog {
    /// Ordered by offset.
    pub(crate) publications: Vec<Publication>,
    /// False if publications between them may be missing.
    pub(crate) complete: bool,
    /// The sequence of the newest removal mark behind the position: everything before it was removed on purpose.
    pub(crate) removed: Option<u64>,
    /// Whether more publications follow, which were too many or too large for one read.
    pub(crate) more: bool,
    /// The stream's last sequence, if it was read. Nothing before it is known to be missing for who begins behind it.
    pub(crate) end: u64,
    /// When the first publication was stored.
    pub(crate) oldest: Option<SystemTime>,
}

/// What a join returns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Joined {
    /// The channel has no history.
    Live,
    /// A start behind this position. A client that asked to resume has not recovered.
    At { position: u64 },
    /// Resumed, with the missed publications.
    Resumed { missed: Vec<Arc<Publication>> },
    /// A part of what was missed. Who cannot take it starts behind this position.
    Part { position: u64, part: Arc<Part> },
    /// Resumed with the newest publication only; `None` if the client has it.
    Newest { position: u64, newest: Option<Arc<Publication>> },
}

/// The first frame for a new subscriber.
#[derive(Debug)]
pub(crate) enum FirstFrame {
    /// Queue this frame.
    Frame(Frame),
    /// Queue no frame here: the connection queues its reply itself.
    Nothing,
    /// Do not join: the client unsubscribed meanwhile, or more of its backlog comes first.
    Apart,
}

impl From<Option<Frame>> for FirstFrame {
    fn from(frame: Option<Frame>) -> Self {
        frame.map_or(Self::Apart, Self::Frame)
    }
}

impl Feed {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            state: Mutex::default(),
            connection: AtomicU64::new(0),
            reading: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn name(&self) -> &str {
        self.channel.name()
    }

    /// Counts one more reference.
    pub(crate) fn hold(&self) {
        self.state.lock().refs += 1;
    }

    /// Counts one reference less. Returns how many are left.
    pub(crate) fn release(&self) -> usize {
        let mut state = self.state.lock();
        state.refs -= 1;
        state.refs
    }

    /// How many references to the channel exist.
    pub(crate) fn refs(&self) -> usize {
        self.state.lock().refs
    }

    /// Adds a subscriber. `first` builds its first frame from what the join returns. Returns the options of a client that does
    /// not join.
    pub(crate) fn join<T: Into<FirstFrame>>(
        &self,
        client: ClientId,
        outbox: &Arc<Outbox>,
        options: impl Into<JoinOptions>,
        start: &Start,
        first: impl FnOnce(Joined) -> T,
    ) -> Option<JoinOptions> {
        let mut state = self.state.lock();
        let joined = state.track.as_ref().map_or(Joined::Live, |track| track.joined(start));
        let resumed = matches!(joined, Joined::Resumed { .. });
        let newest = match &joined {
            Joined::Resumed { missed } => missed.last().map(|publication| publication.data.clone()),
            Joined::Newest { newest, .. } => newest.as_ref().map(|publication| publication.data.clone()),
            Joined::Live | Joined::At { .. } | Joined::Part { .. } => None,
        };
        let options = options.into();
        match first(joined).into() {
            FirstFrame::Frame(frame) => outbox.push(frame),
            FirstFrame::Nothing => {}
            FirstFrame::Apart => return Some(options),
        }
        let JoinOptions { delivery, join_leave_as } = options;
        let has_until = match start {
            Start::Behind(pin) if resumed => pin.offset,
            _ => 0,
        };
        let join_leave = join_leave_as.is_some();
        // The other subscribers receive this join from the broker. This one receives it behind its reply.
        if let Some(info) = join_leave_as {
            let come = Reply::join(self.name(), info.suited_to(outbox.dialect().encoding()));
            if let Ok(frame) = outbox.dialect().encode(&come) {
                outbox.push(frame);
            }
        }
        let has_newest = newest.is_some();
        if has_newest && delivery.as_ref().is_some_and(|delivery| delivery.delta) {
            state.newest = newest;
        }
        state.add(
            client,
            Subscriber { outbox: Arc::clone(outbox), delivery, has_newest, join_leave, has_until },
        );
        None
    }
}

#[cfg(test)]
mod tests;
