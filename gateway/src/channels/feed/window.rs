//! Publications at hand for clients that resume: read once from the stream, then extended by live ones.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use tidegate_shared::protocol::Publication;

use super::{Backlog, Feed, Part};

/// Publications at hand for clients that resume.
pub(super) struct Window {
    /// It is complete behind this offset.
    pub(super) after: u64,
    pub(super) publications: VecDeque<Arc<Publication>>,
    /// How much one client may recover.
    limit: Limit,
    /// How much the publications hold.
    bytes: usize,
    /// No publication was stored before. `None` if all were stored since the window was opened.
    oldest: Option<SystemTime>,
    /// Over which connection to the broker the channel was received when the window was opened. Messages that a later one did
    /// not bring are missing here.
    connection: u64,
}

/// What is delivered while a window is read.
pub(super) struct Recording {
    /// `known` when the read began.
    pub(super) known: u64,
    /// The connection to the broker at that time.
    pub(super) connection: u64,
    pub(super) delivered: Vec<Arc<Publication>>,
}

/// How many publications a read or a window may hold, and how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) publications: usize,
    pub(crate) bytes: usize,
}

/// What the stream keeps of a channel. A window holds no more for a client than a read of the stream would bring, so that the
/// outcome does not depend on whether there is a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How many publications a client can have missed at most, and recover: one less than are kept, because the one that it
    /// has received last must still be there.
    pub(crate) publications: usize,
    /// Those that were stored before have expired.
    pub(crate) since: SystemTime,
}

/// Keeps the publications behind an offset at hand until a join is done.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(crate) offset: u64,
    pub(super) pins: Arc<()>,
}

/// Whether a window was opened.
#[derive(Debug, PartialEq)]
pub(crate) enum Opened {
    Yes,
    /// The backlog is too long. This is its beginning.
    Part(Arc<Part>),
    /// The backlog is incomplete.
    No,
    /// The read ends before what subscribers have received. A later one will have it.
    Stale,
}

impl Feed {
    /// Keeps everything behind `offset` at hand until the pin is dropped. `None` if the stream has to be read for that.
    pub(crate) fn pin(&self, offset: u64, limit: Limit, kept: Kept) -> Option<Pin> {
        let mut state = self.state.lock();
        let track = state.track.as_mut()?;
        let connection = self.connection();
        if track.window.is_none() && track.position <= offset && !track.doubted {
            // Nothing is missed so far. A publication that comes before the join is kept in the window.
            track.window =
                Some(Box::new(Window::new(track.position, [].into_iter(), limit, None, connection)));
        }
        let valid = |window: &&Window| !track.doubted || window.connection == connection;
        track.window.as_deref().filter(valid).filter(|window| window.has_all_behind(offset, kept))?;
        Some(Pin { offset, pins: Arc::clone(&track.pins) })
    }

    /// Records what is delivered while a window is read.
    pub(crate) fn record(&self) {
        if let Some(track) = &mut self.state.lock().track {
            let connection = self.connection();
            track.recording =
                Some(Box::new(Recording { known: track.known, connection, delivered: Vec::new() }));
        }
    }

    /// Opens a window with the backlog behind `after`, which was read from the stream `epoch`, if it is complete and within `limit`.
    pub(crate) fn open_window(
        &self,
        (epoch, after): (&Arc<str>, u64),
        backlog: Backlog,
        limit: Limit,
    ) -> Opened {
        let mut state = self.state.lock();
        let Some(track) = &mut state.track else { return Opened::No };
        let Some(recording) = track.recording.take() else { return Opened::No };
        let Recording { known, connection, delivered: recorded } = *recording;
        if !backlog.complete {
            return Opened::No;
        }
        let read = backlog.publications.last().map(|publication| publication.offset).max(backlog.removed);
        if backlog.more || backlog.publications.len() > limit.publications {
            let mut publications: Vec<_> = backlog.publications.into_iter().map(Arc::new).collect();
            let cut = publications.len() > limit.publications;
            publications.truncate(limit.publications);
            let read = if cut { publications.last().map(|last| last.offset) } else { read };
            let Some(until) = read.filter(|until| *until > after) else { return Opened::No };
            return Opened::Part(Arc::new(Part { epoch: Arc::clone(epoch), after, until, publications }));
        }
        if known > after && read < Some(known) {
            return Opened::Stale;
        }
        let begun = recorded.first().map_or(track.position + 1, |publication| publication.offset);
        let read =
            backlog.publications.into_iter().filter(|p| p.offset > after && p.offset < begun).map(Arc::new);
        let oldest = backlog.oldest;
        track.window = Some(Box::new(Window::new(after, read.chain(recorded), limit, oldest, connection)));
        Opened::Yes
    }

    /// Drops the window. Returns false while a `Pin` keeps it alive.
    pub(crate) fn close_window(&self) -> bool {
        let mut state = self.state.lock();
        let Some(track) = &mut state.track else { return true };
        if track.is_pinned() {
            return false;
        }
        track.window = None;
        true
    }

    /// How many bytes of publications the window holds.
    pub(crate) fn window_bytes(&self) -> usize {
        let state = self.state.lock();
        state.track.as_ref().and_then(|track| track.window.as_ref()).map_or(0, |window| window.bytes)
    }

    /// Whether there is a window.
    pub(crate) fn has_window(&self) -> bool {
        self.state.lock().track.as_ref().is_some_and(|track| track.window.is_some())
    }
}

impl Window {
    fn new(
        after: u64,
        publications: impl Iterator<Item = Arc<Publication>>,
        limit: Limit,
        oldest: Option<SystemTime>,
        connection: u64,
    ) -> Self {
        let mut this = Self { after, publications: VecDeque::new(), limit, bytes: 0, oldest, connection };
        publications.for_each(|publication| this.push(publication, oldest));
        this
    }

    /// Whether a client at this offset finds all that it missed, and the stream keeps all of it.
    fn has_all_behind(&self, offset: u64, kept: Kept) -> bool {
        let missed = self.publications.iter().rev().take_while(|p| p.offset > offset).count();
        self.after <= offset
            && (missed == 0
                || missed <= kept.publications && self.oldest.is_none_or(|oldest| oldest >= kept.since))
    }

    /// Adds the newest publication, and drops the oldest ones beyond the limit: no client may recover more.
    pub(super) fn push(&mut self, publication: Arc<Publication>, stored_at: Option<SystemTime>) {
        self.oldest = self.oldest.or(stored_at);
        self.bytes += publication.data.len();
        self.publications.push_back(publication);
        while (self.publications.len() > self.limit.publications || self.bytes > self.limit.bytes)
            && let Some(oldest) = self.publications.pop_front()
        {
            self.after = oldest.offset;
            self.bytes = self.bytes.saturating_sub(oldest.data.len());
        }
    }

    /// Drops all publications: the channel begins at `position`.
    pub(super) fn clear(&mut self, position: u64) {
        self.publications.clear();
        self.bytes = 0;
        self.oldest = None;
        self.after = position;
    }
}
