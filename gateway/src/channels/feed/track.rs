//! A channel's position in its stream: applies live messages in order, and finds gaps.

use std::sync::Arc;

use tidegate_shared::protocol::Publication;

use super::{
    Feed, Joined, Start, State,
    gap::{Gap, Healing, Live, MAX_QUEUED},
    newest::{Newest, StoredPublication},
    window::{Recording, Window},
};
use crate::outbox::Outbox;

/// A channel's position in its stream, and the publications at hand behind it. What few channels have at a time is boxed: every
/// user has a channel.
pub(super) struct Track {
    /// All messages up to this sequence are applied.
    pub(super) position: u64,
    /// The sequence of the newest message that the channel is known to have had. Until the first message, 0.
    pub(super) known: u64,
    /// Whether messages behind the position may have been stored and have expired unseen.
    pub(super) doubted: bool,
    /// Set while a gap is filled.
    pub(super) healing: Option<Box<Healing>>,
    pub(super) window: Option<Box<Window>>,
    /// What is delivered while a window is read.
    pub(super) recording: Option<Box<Recording>>,
    /// The newest publication, in a channel in cache mode.
    pub(super) newest: Option<Newest>,
    /// Counts the pins: joins being prepared that use the window. A pin of another `Track` has no meaning here.
    pub(super) pins: Arc<()>,
}

/// The result of applying a live message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Delivered to this many subscribers.
    Delivered(usize),
    /// Already applied, or waiting behind a gap.
    Known,
    /// Messages before it are missing. The caller reads them and calls `heal`.
    Gap(Gap),
}

impl Feed {
    /// Sets the position, unless there is one. `newest` is set for channels in cache mode.
    pub(crate) fn track(&self, position: u64, newest: Option<Newest>) {
        let mut state = self.state.lock();
        if state.track.is_none() {
            state.track = Some(Track::new(position, newest));
        }
    }

    /// Notes that the channel has, or had, a message with this sequence.
    pub(crate) fn know(&self, seq: u64) {
        if let Some(track) = &mut self.state.lock().track {
            track.known = track.known.max(seq);
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
        if let Some(healing) = &mut track.healing {
            healing.push(live);
            return Applied::Known;
        }
        if live.seq <= track.position {
            return Applied::Known;
        }
        if live.previous > track.position || track.doubted && live.previous != track.position {
            let connection = self.connection();
            return state.begin_heal_before(live, connection).map_or(Applied::Known, Applied::Gap);
        }
        Applied::Delivered(state.advance(self.name(), live))
    }
}

impl State {
    /// `doubted` says that the channel may have had messages behind the position.
    pub(super) fn restart(&mut self, position: u64, doubted: bool) -> Vec<Arc<Outbox>> {
        if let Some(track) = &mut self.track {
            *track = Track::new(position, track.newest.take().map(|_| Newest::Unknown));
            track.doubted = doubted;
        }
        let first = self.first.take().into_iter();
        first.chain(self.more.drain()).map(|(_, member)| member.outbox).collect()
    }

    pub(super) fn advance(&mut self, name: &str, live: Live) -> usize {
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
            track.known = live.seq;
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
                // The client that asked for the record may be gone. A longer one would exceed what a client may recover.
                track.recording.take_if(|recording| recording.delivered.len() >= MAX_QUEUED);
                if let Some(recording) = &mut track.recording {
                    recording.delivered.push(Arc::clone(&publication));
                }
                if let Some(window) = &mut track.window {
                    window.push(publication, live.stored_at);
                }
            }
        }
        reach
    }
}

impl Track {
    /// Whether a join that uses the window is being prepared.
    pub(super) fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.pins) > 1
    }

    pub(super) fn new(position: u64, newest: Option<Newest>) -> Self {
        Self {
            position,
            known: 0,
            doubted: false,
            healing: None,
            window: None,
            recording: None,
            newest,
            pins: Arc::default(),
        }
    }

    /// Applies a removal mark: drops all publications at hand before it.
    fn forget(&mut self, position: u64) {
        self.position = position;
        self.known = position;
        self.recording = None;
        if let Some(newest) = &mut self.newest {
            *newest = Newest::Known(None);
        }
        if let Some(window) = &mut self.window {
            window.clear(position);
        }
    }

    pub(super) fn joined(&self, start: &Start) -> Joined {
        let position = self.position;
        let resume = match start {
            Start::Fresh => None,
            // A pin of an earlier `Track` says nothing about this one.
            Start::Behind(pin) => Some(pin.offset).filter(|_| Arc::ptr_eq(&pin.pins, &self.pins)),
            Start::Part(part) => return Joined::Part { position, part: Arc::clone(part) },
            Start::Newest { seen } => {
                let newest = self.newest.as_ref();
                return newest.map_or(Joined::At { position }, |newest| newest.joined(*seen, position));
            }
        };
        let missed = match (resume, self.window.as_deref()) {
            // Another gateway was faster: the subscriber has what this one is still to receive.
            (Some(offset), _) if offset >= position => Some(Vec::new()),
            (Some(offset), Some(window)) if window.after <= offset => {
                Some(window.publications.iter().filter(|p| p.offset > offset).map(Arc::clone).collect())
            }
            _ => None,
        };
        missed.map_or(Joined::At { position }, |missed| Joined::Resumed { missed })
    }
}
