//! The newest publication of a channel in cache mode, where clients recover that one only.
//!
//! It comes from live messages or from the stream. Never reads the stream itself.

use std::{sync::Arc, time::SystemTime};

use tidegate_shared::protocol::Publication;

use super::{Feed, Joined, Start};

/// What a feed knows of its newest publication.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Newest {
    /// The stream has to be read.
    #[default]
    Unknown,
    /// This one; `None` if the stream keeps none.
    Known(Option<StoredPublication>),
}

/// A publication, and when the stream stored it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredPublication {
    pub(crate) publication: Arc<Publication>,
    pub(crate) stored_at: SystemTime,
}

/// Whether the newest publication was taken over from the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    Yes,
    /// It is ahead of the feed's position: the gap has to be filled first.
    Ahead,
}

impl Newest {
    /// Whether the newest publication is known. One stored before `oldest` may have expired from the stream.
    pub(super) fn is_known(&self, oldest: SystemTime) -> bool {
        match self {
            Self::Unknown => false,
            Self::Known(stored) => stored.as_ref().is_none_or(|stored| stored.stored_at >= oldest),
        }
    }

    /// What a join returns for a client whose newest publication is `seen`.
    pub(super) fn joined(&self, seen: Option<u64>, position: u64) -> Joined {
        if let Some(seen) = seen.filter(|seen| *seen > position) {
            // Another gateway was faster. What this one has is older than what the client has.
            return Joined::Newest { position: seen, newest: None };
        }
        match self {
            Self::Known(Some(stored)) => {
                let newest = Some(&stored.publication).filter(|p| seen != Some(p.offset)).map(Arc::clone);
                Joined::Newest { position, newest }
            }
            Self::Known(None) | Self::Unknown if seen == Some(position) => {
                Joined::Newest { position, newest: None }
            }
            Self::Known(None) | Self::Unknown => Joined::At { position },
        }
    }
}

impl Feed {
    /// Whether the newest publication is known. One stored before `oldest` may have expired, so it is forgotten.
    pub(crate) fn knows_newest(&self, oldest: SystemTime) -> bool {
        let mut state = self.state.lock();
        let Some(newest) = state.track.as_mut().and_then(|track| track.newest.as_mut()) else { return true };
        let known = newest.is_known(oldest);
        if !known {
            *newest = Newest::Unknown;
        }
        known
    }

    /// Takes over the newest publication that was read from the stream, unless a newer one came live.
    pub(crate) fn load_newest(&self, stored: Option<StoredPublication>) -> Loaded {
        let mut state = self.state.lock();
        let Some(track) = &mut state.track else { return Loaded::Yes };
        if stored.as_ref().is_some_and(|stored| stored.publication.offset > track.position) {
            return Loaded::Ahead;
        }
        if let Some(newest @ Newest::Unknown) = &mut track.newest {
            *newest = Newest::Known(stored);
        }
        Loaded::Yes
    }

    /// Whether a client that joined now would recover.
    pub(crate) fn has_newest(&self, seen: Option<u64>) -> bool {
        let state = self.state.lock();
        let track = state.track.as_ref();
        track.is_some_and(|track| matches!(track.joined(&Start::Newest { seen }), Joined::Newest { .. }))
    }
}
