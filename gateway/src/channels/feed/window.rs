//! Publications at hand for members that resume: read once from the stream, then extended by what comes live.

use std::{collections::VecDeque, sync::Arc};

use tidegate_shared::protocol::Publication;

use super::{Backlog, Feed};

/// Publications at hand for members that resume.
pub(super) struct Window {
    /// Complete from here on, exclusively.
    pub(super) after: u64,
    pub(super) publications: VecDeque<Arc<Publication>>,
    /// The most one member may be brought.
    pub(super) limit: usize,
    /// Shared with everybody who is about to join with it.
    pub(super) pins: Arc<()>,
}

/// Keeps the publications behind an offset at hand for a member that is about to join.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(crate) offset: u64,
    pub(super) _window: Arc<()>,
}

impl Feed {
    /// Keeps everything behind `offset` at hand until the pin is dropped, if that needs no reading of the stream.
    pub(crate) fn pin(&self, offset: u64, limit: usize) -> Option<Pin> {
        let mut state = self.state.lock();
        let track = state.track.as_mut()?;
        if track.window.is_none() && track.position == offset {
            // Nothing was missed yet; what comes before the member has joined it will have missed.
            track.window = Some(Window::new(offset, VecDeque::new(), limit));
        }
        let window = track.window.as_ref().filter(|window| window.after <= offset)?;
        Some(Pin { offset, _window: Arc::clone(&window.pins) })
    }

    /// Begins to record what is delivered while the stream is read for a window.
    pub(crate) fn record(&self) {
        if let Some(track) = &mut self.state.lock().track {
            track.recording = Some(Vec::new());
        }
    }

    /// Opens a window with what the stream holds behind `after`, if that is complete and not too much.
    pub(crate) fn open_window(&self, after: u64, backlog: Backlog, limit: usize) {
        let mut state = self.state.lock();
        let Some(track) = &mut state.track else { return };
        let Some(recorded) = track.recording.take() else { return };
        if !backlog.complete || backlog.publications.len() > limit {
            return;
        }
        let begun = recorded.first().map_or(track.position + 1, |publication| publication.offset);
        let read =
            backlog.publications.into_iter().filter(|p| p.offset > after && p.offset < begun).map(Arc::new);
        track.window = Some(Window::new(after, read.chain(recorded).collect(), limit));
    }

    /// Gives the window's memory back, unless somebody is about to join with it; false if it has to stay.
    pub(crate) fn close_window(&self) -> bool {
        let mut state = self.state.lock();
        let Some(track) = &mut state.track else { return true };
        if track.is_pinned() {
            return false;
        }
        track.window = None;
        true
    }

    /// Whether there is a window.
    pub(crate) fn has_window(&self) -> bool {
        self.state.lock().track.as_ref().is_some_and(|track| track.window.is_some())
    }
}

impl Window {
    fn new(after: u64, publications: VecDeque<Arc<Publication>>, limit: usize) -> Self {
        Self { after, publications, limit, pins: Arc::default() }
    }

    /// Nobody may be brought more than the limit, so nothing older is of use.
    pub(super) fn trim(&mut self) {
        while self.publications.len() > self.limit
            && let Some(oldest) = self.publications.pop_front()
        {
            self.after = oldest.offset;
        }
    }
}
