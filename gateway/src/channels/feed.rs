//! One channel on this gateway: its members, and how far along its stream it is.
//!
//! Everything a member gets of the channel passes through here, in order and under one lock, so that joining is exact: a
//! member's first publication follows the position it was told. Gaps are found here by the chain of sequences and filled from
//! the stream by the caller. Handles only: no sockets, no broker, no clock.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{Publication, Reply},
};

pub(crate) use self::{
    subscribers::JoinOptions,
    track::{Applied, Live},
    window::Pin,
};
use self::{subscribers::Subscriber, track::Track};
use crate::outbox::Outbox;

pub(crate) mod newest;
pub(crate) mod patch;
mod subscribers;
mod track;
mod window;

/// A channel's members and its position.
pub(crate) struct Feed {
    channel: Channel,
    state: Mutex<State>,
    /// Held while somebody reads the stream for a window, so that all who wait for one share it.
    pub(crate) reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    first: Option<(ClientId, Subscriber)>,
    more: HashMap<ClientId, Subscriber>,
    /// The newest publication, while somebody gets patches of it.
    newest: Option<Bytes>,
    /// Nothing for a channel without history.
    track: Option<Track>,
    /// How many have a share in it.
    refs: usize,
}

/// From where a member joins.
#[derive(Debug, Default)]
pub(crate) enum Start {
    /// From now on.
    #[default]
    Fresh,
    /// With everything behind an offset.
    Behind(Pin),
    /// With the newest publication, unless it is the one the member has seen.
    Newest { seen: Option<u64> },
}

/// Where a client left a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) offset: u64,
    /// Empty for whichever stream there is.
    pub(crate) epoch: String,
}

impl Resume {
    /// Of a client that brings no position.
    pub(crate) fn from_nowhere() -> Self {
        Self { offset: 0, epoch: String::new() }
    }
}

/// What the stream holds of a channel behind some position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backlog {
    /// In the order of their offsets.
    pub(crate) publications: Vec<Publication>,
    /// Whether nothing in between is missing.
    pub(crate) complete: bool,
    /// The newest sequence at which everything before was removed on purpose, if that has happened since.
    pub(crate) removed: Option<u64>,
}

/// What a new member is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Joined {
    /// The channel has no history.
    Live,
    /// A fresh start behind this position; whoever options to resume could not.
    At { position: u64 },
    /// Resumed: this is what was missed.
    Resumed { missed: Vec<Arc<Publication>> },
    /// Resumed with the newest publication alone; nothing if the member has it.
    Newest { position: u64, newest: Option<Arc<Publication>> },
}

/// What a new member gets before anything else.
#[derive(Debug)]
pub(crate) enum FirstFrame {
    /// This.
    Frame(Bytes),
    /// Nothing here: its connection says it in another place.
    Nothing,
    /// Nothing, since it does not want to be a member any more.
    Left,
}

impl From<Option<Bytes>> for FirstFrame {
    fn from(frame: Option<Bytes>) -> Self {
        frame.map_or(Self::Left, Self::Frame)
    }
}

impl Feed {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel, state: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn name(&self) -> &str {
        self.channel.name()
    }

    /// One more has a share in it.
    pub(crate) fn hold(&self) {
        self.state.lock().refs += 1;
    }

    /// One fewer has; returns how many are left.
    pub(crate) fn release(&self) -> usize {
        let mut state = self.state.lock();
        state.refs -= 1;
        state.refs
    }

    /// How many have a share in it.
    pub(crate) fn refs(&self) -> usize {
        self.state.lock().refs
    }

    /// Adds a member, from where it starts; `tell` builds what it gets first.
    pub(crate) fn join<T: Into<FirstFrame>>(
        &self,
        client: ClientId,
        outbox: &Arc<Outbox>,
        options: impl Into<JoinOptions>,
        start: &Start,
        first: impl FnOnce(Joined) -> T,
    ) {
        let mut state = self.state.lock();
        let joined = state.track.as_ref().map_or(Joined::Live, |track| track.joined(start));
        let newest = match &joined {
            Joined::Resumed { missed } => missed.last().map(|publication| publication.data.clone()),
            Joined::Newest { newest, .. } => newest.as_ref().map(|publication| publication.data.clone()),
            Joined::Live | Joined::At { .. } => None,
        };
        match first(joined).into() {
            FirstFrame::Frame(frame) => outbox.push(frame),
            FirstFrame::Nothing => {}
            FirstFrame::Left => return,
        }
        let JoinOptions { delivery, join_leave_as } = options.into();
        let join_leave = join_leave_as.is_some();
        // Others hear of it from the broker, itself does so behind its answer.
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
        state.add(client, Subscriber { outbox: Arc::clone(outbox), delivery, has_newest, join_leave });
    }
}

#[cfg(test)]
mod tests;
