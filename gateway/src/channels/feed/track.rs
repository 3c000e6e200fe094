//! A channel's position in its stream: applies live publications in order, finds and fills gaps.

use std::{sync::Arc, time::SystemTime};

use tidegate_shared::protocol::Publication;

use super::{
    Backlog, Feed, Joined, Start, State,
    newest::{Newest, StoredPublication},
    window::Window,
};
use crate::outbox::Outbox;

/// Live publications that may wait while a gap is filled. With more, subscribers resume instead.
const MAX_QUEUED: usize = 1024;

/// A channel's position in its stream, and the publications at hand behind it.
pub(super) struct Track {
    /// All publications up to this sequence are applied.
    pub(super) position: u64,
    /// Live publications that wait while a gap is filled.
    pub(super) healing: Option<Vec<Live>>,
    pub(super) window: Option<Window>,
    /// What is delivered while a window is read.
    pub(super) recording: Option<Vec<Arc<Publication>>>,
    /// The newest publication, in a channel in cache mode.
    pub(super) newest: Option<Newest>,
}

/// A live message: the broker's copy of a stored publication.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Live {
    /// Its sequence in the stream.
    pub(crate) seq: u64,
    /// The sequence of the message before it in the channel; 0 if that is not stored any more.
    pub(crate) previous: u64,
    /// `None` for a removal mark: everything before it was removed on purpose.
    pub(crate) publication: Option<Publication>,
    /// When the stream stored it, if known.
    pub(crate) stored_at: Option<SystemTime>,
}

/// The result of applying a live message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Delivered to this many subscribers.
    Delivered(usize),
    /// Already applied, or waiting behind a gap.
    Known,
    /// Publications behind this sequence are missing. The caller reads them and calls `heal`.
    Gap { after: u64 },
}

impl Feed {
    /// Sets the position, unless there is one. `newest` is set for channels in cache mode.
    pub(crate) fn track(&self, position: u64, newest: Option<Newest>) {
        let mut state = self.state.lock();
        if state.track.is_none() {
            state.track = Some(Track::new(position, newest));
        }
    }

    /// The channel's position. `None` without history.
    pub(crate) fn position(&self) -> Option<u64> {
        self.state.lock().track.as_ref().map(|track| track.position)
    }

    /// Applies a live message.
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

    /// Begins to fill a gap that no live message has shown, after a lost connection to the broker. Returns the position
    /// to read from, or `None` if a gap is being filled already.
    pub(crate) fn begin_heal(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let track = state.track.as_mut().filter(|track| track.healing.is_none())?;
        track.healing = Some(Vec::new());
        Some(track.position)
    }

    /// Fills a gap with the backlog read from the stream. If the backlog is incomplete, removes all subscribers, so
    /// that nothing behind the gap reaches them, and returns them: the caller tells them to resume. The channel goes on
    /// in both cases.
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

    /// Goes on from `position` in another stream, or in one that lost its end. Removes all subscribers and returns
    /// them: the caller tells them to resume.
    pub(crate) fn restart(&self, position: u64) -> Vec<Arc<Outbox>> {
        self.state.lock().restart(position)
    }

    /// Moves the position forward to `position`, once the caller knows that no publication is between them.
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
                // Whoever asked for the record may be gone. A longer one would exceed what a client may recover.
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
    /// Whether a join that uses the window is being prepared.
    pub(super) fn is_pinned(&self) -> bool {
        self.window.as_ref().is_some_and(|window| Arc::strong_count(&window.pins) > 1)
    }

    fn new(position: u64, newest: Option<Newest>) -> Self {
        Self { position, healing: None, window: None, recording: None, newest }
    }

    /// Applies a removal mark: drops all publications at hand before it.
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
