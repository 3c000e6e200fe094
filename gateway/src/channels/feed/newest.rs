//! The newest publication of a channel whose clients are brought that one alone.
//!
//! Known from what came live, or from the stream; never read here.

use std::{sync::Arc, time::SystemTime};

use tidegate_shared::protocol::Publication;

use super::{Feed, Joined, Start};

/// What a channel knows of its newest publication.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Newest {
    /// Nothing: the stream has to be asked.
    #[default]
    Unknown,
    /// This one; nothing if the stream keeps none.
    Known(Option<StoredPublication>),
}

/// A publication, and when the stream took it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredPublication {
    pub(crate) publication: Arc<Publication>,
    pub(crate) stored_at: SystemTime,
}

/// Whether the newest publication was taken over from the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    Yes,
    /// It is ahead of the channel's position: what is in between has to be filled in first.
    Ahead,
}

impl Newest {
    /// Whether the stream need not be asked. What it took before `oldest` it may not keep any more.
    pub(super) fn is_known(&self, oldest: SystemTime) -> bool {
        match self {
            Self::Unknown => false,
            Self::Known(kept) => kept.as_ref().is_none_or(|kept| kept.stored_at >= oldest),
        }
    }

    /// What a member is told whose newest publication is `seen`.
    pub(super) fn joined(&self, seen: Option<u64>, position: u64) -> Joined {
        match self {
            Self::Known(Some(kept)) => {
                let newest = Some(&kept.publication).filter(|p| seen != Some(p.offset)).map(Arc::clone);
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
    /// Whether the newest publication is known here, unless the stream may have let go of what it took before `oldest`.
    pub(crate) fn knows_newest(&self, oldest: SystemTime) -> bool {
        let mut state = self.state.lock();
        let Some(newest) = state.track.as_mut().and_then(|track| track.newest.as_mut()) else { return true };
        let known = newest.is_known(oldest);
        if !known {
            *newest = Newest::Unknown;
        }
        known
    }

    /// Takes the newest publication over from the stream, unless a newer one has come meanwhile.
    pub(crate) fn load_newest(&self, kept: Option<StoredPublication>) -> Loaded {
        let mut state = self.state.lock();
        let Some(track) = &mut state.track else { return Loaded::Yes };
        if kept.as_ref().is_some_and(|kept| kept.publication.offset > track.position) {
            return Loaded::Ahead;
        }
        if let Some(newest @ Newest::Unknown) = &mut track.newest {
            *newest = Newest::Known(kept);
        }
        Loaded::Yes
    }

    /// Whether a member that joined now would be brought the newest publication, or has it.
    pub(crate) fn has_newest(&self, seen: Option<u64>) -> bool {
        let state = self.state.lock();
        let track = state.track.as_ref();
        track.is_some_and(|track| matches!(track.joined(&Start::Newest { seen }), Joined::Newest { .. }))
    }
}
