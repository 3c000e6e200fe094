//! How far along its stream a channel is: live publications in order, gaps found and filled.

use std::{sync::Arc, time::SystemTime};

use tidegate_shared::protocol::Publication;

use super::{
    Backlog, Feed, Joined, Start, State,
    newest::{Newest, StoredPublication},
    window::Window,
};
use crate::outbox::Outbox;

/// Live publications that wait while a gap is filled; more than that and the gap is not worth filling.
const MAX_QUEUED: usize = 1024;

/// How far along its stream a channel is.
pub(super) struct Track {
    /// Nothing of this channel up to here is still to come.
    pub(super) position: u64,
    /// Live publications behind a gap that is being filled.
    pub(super) healing: Option<Vec<Live>>,
    pub(super) window: Option<Window>,
    /// What is delivered while a window is being read.
    pub(super) recording: Option<Vec<Arc<Publication>>>,
    /// Where members are brought the newest publication alone: that one.
    pub(super) newest: Option<Newest>,
}

/// A publication as the broker repeated it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Live {
    /// Its sequence in the stream.
    pub(crate) seq: u64,
    /// The sequence of the channel's message before it; 0 if that is not stored any more.
    pub(crate) previous: u64,
    /// Nothing when everything before it has been removed on purpose.
    pub(crate) publication: Option<Publication>,
    /// When the stream took it, if that is known.
    pub(crate) stored_at: Option<SystemTime>,
}

/// What became of a live publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Handed to this many members.
    Delivered(usize),
    /// The members have it, or it waits behind a gap.
    Known,
    /// Publications behind this sequence are missing; the caller reads them and calls `heal`.
    Gap { after: u64 },
}

impl Feed {
    /// Begins to follow the channel's stream from `position`, unless it is followed already. `newest` is what is known of
    /// its newest publication, where members are brought that one alone.
    pub(crate) fn track(&self, position: u64, newest: Option<Newest>) {
        let mut state = self.state.lock();
        if state.track.is_none() {
            state.track = Some(Track::new(position, newest));
        }
    }

    /// How far along the stream the channel is; nothing without history.
    pub(crate) fn position(&self) -> Option<u64> {
        self.state.lock().track.as_ref().map(|track| track.position)
    }

    /// Takes a live publication of a channel with history.
    pub(crate) fn live(&self, live: Live) -> Applied {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(track) = &mut state.track else {
            let publication = live.publication.as_ref();
            return Applied::Delivered(publication.map_or(0, |p| state.deliver(self.name(), p)));
        };
        if let Some(queue) = &mut track.healing {
            if queue.len() < MAX_QUEUED {
                queue.push(live);
            }
            return Applied::Known;
        }
        if live.seq <= track.position {
            return Applied::Known;
        }
        if live.previous > track.position {
            let after = track.position;
            track.healing = Some(vec![live]);
            return Applied::Gap { after };
        }
        Applied::Delivered(state.advance(self.name(), live))
    }

    /// Begins to fill a gap that nothing live has shown: after the connection to the broker was away. Returns from where.
    pub(crate) fn begin_heal(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let track = state.track.as_mut().filter(|track| track.healing.is_none())?;
        track.healing = Some(Vec::new());
        Some(track.position)
    }

    /// Fills a gap with what the stream holds behind the position. If that is not everything, the members are taken out,
    /// so that nothing behind the gap reaches them, and returned: they have to be told. The channel goes on either way.
    pub(crate) fn heal(&self, backlog: Backlog) -> Vec<Arc<Outbox>> {
        let mut state = self.state.lock();
        let Some(queue) = state.track.as_mut().and_then(|track| track.healing.take()) else {
            return Vec::new();
        };
        if !backlog.complete || queue.len() >= MAX_QUEUED {
            let read = backlog.publications.iter().map(|p| p.offset).chain(backlog.removed);
            let newest = read.chain(queue.iter().map(|live| live.seq)).max();
            let position = state.track.as_ref().map_or(0, |track| track.position);
            return state.restart(newest.unwrap_or(position).max(position));
        }
        let removed = backlog.removed;
        let backlog = backlog.publications.into_iter().map(|publication| Live {
            seq: publication.offset,
            previous: 0,
            publication: Some(publication),
            stored_at: None,
        });
        for live in backlog.chain(queue) {
            if state.track.as_ref().is_some_and(|track| live.seq > track.position) {
                state.advance(self.name(), live);
            }
        }
        if let (Some(track), Some(removed)) = (&mut state.track, removed) {
            track.position = track.position.max(removed);
        }
        Vec::new()
    }

    /// The stream is another one, or ends before the position: goes on from `position`, and returns the members to tell.
    pub(crate) fn restart(&self, position: u64) -> Vec<Arc<Outbox>> {
        self.state.lock().restart(position)
    }

    /// Nothing of this channel is between its position and `position`, which somebody knows who has seen more.
    pub(crate) fn advance_to(&self, position: u64) {
        if let Some(track) = self.state.lock().track.as_mut().filter(|track| track.healing.is_none()) {
            track.position = track.position.max(position);
        }
    }
}

impl State {
    fn restart(&mut self, position: u64) -> Vec<Arc<Outbox>> {
        if let Some(track) = &mut self.track {
            *track = Track::new(position, track.newest.take().map(|_| Newest::Unknown));
        }
        let first = self.first.take().into_iter();
        first.chain(self.more.drain()).map(|(_, member)| member.outbox).collect()
    }

    fn advance(&mut self, name: &str, live: Live) -> usize {
        let Some(publication) = live.publication else {
            if let Some(track) = &mut self.track {
                track.forget(live.seq);
            }
            return 0;
        };
        let publication = Publication { offset: live.seq, ..publication };
        let reach = self.deliver(name, &publication);
        if let Some(track) = &mut self.track {
            track.position = live.seq;
            if track.window.is_some() || track.recording.is_some() || track.newest.is_some() {
                let publication = Arc::new(publication);
                if let Some(newest) = &mut track.newest {
                    *newest = live.stored_at.map_or(Newest::Unknown, |stored_at| {
                        Newest::Known(Some(StoredPublication {
                            publication: Arc::clone(&publication),
                            stored_at,
                        }))
                    });
                }
                // Whoever asked for the record may be gone; more than this could not be brought to anybody anyway.
                track.recording.take_if(|recording| recording.len() >= MAX_QUEUED);
                if let Some(recording) = &mut track.recording {
                    recording.push(Arc::clone(&publication));
                }
                if let Some(window) = &mut track.window {
                    window.publications.push_back(publication);
                    window.trim();
                }
            }
        }
        reach
    }
}

impl Track {
    /// Whether somebody is about to join with the window.
    pub(super) fn is_pinned(&self) -> bool {
        self.window.as_ref().is_some_and(|window| Arc::strong_count(&window.pins) > 1)
    }

    fn new(position: u64, newest: Option<Newest>) -> Self {
        Self { position, healing: None, window: None, recording: None, newest }
    }

    /// Everything up to here has been removed on purpose: nobody is brought any of it any more.
    fn forget(&mut self, position: u64) {
        self.position = position;
        self.recording = None;
        if let Some(newest) = &mut self.newest {
            *newest = Newest::Known(None);
        }
        if let Some(window) = &mut self.window {
            window.publications.clear();
            window.after = position;
        }
    }

    pub(super) fn joined(&self, start: &Start) -> Joined {
        let position = self.position;
        let resume = match start {
            Start::Fresh => None,
            Start::Behind(pin) => Some(pin.offset),
            Start::Newest { seen } => {
                let newest = self.newest.as_ref();
                return newest.map_or(Joined::At { position }, |newest| newest.joined(*seen, position));
            }
        };
        let missed = match (resume, &self.window) {
            (Some(offset), _) if offset == position => Some(Vec::new()),
            (Some(offset), Some(window)) if window.after <= offset && offset < position => {
                let missed: Vec<_> =
                    window.publications.iter().filter(|p| p.offset > offset).map(Arc::clone).collect();
                (missed.len() <= window.limit).then_some(missed)
            }
            _ => None,
        };
        missed.map_or(Joined::At { position }, |missed| Joined::Resumed { missed })
    }
}
