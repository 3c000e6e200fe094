//! The lines of a route with `order = "best"`: one for each ordering key that a worker holds requests of. Requests of one key are
//! worked on one after the other, in the order in which they came; those of other keys do not wait for them.
//!
//! What stands in lines is bounded, in requests and in bytes. When there is no room, the route stops pulling.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

/// The most requests of one route in all lines of a worker, those that it works on included.
const MOST_REQUESTS: usize = 4096;
/// And the most bytes of their payloads.
const MOST_BYTES: usize = 32 << 20;
/// What a request takes besides its payload.
const OVERHEAD: usize = 1024;

/// The lines of one route.
#[derive(Debug)]
pub(crate) struct Lines {
    state: Mutex<State>,
    left: Notify,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    /// By a hash of the key: two keys with the same hash share a line, which does no harm.
    lines: HashMap<u64, Line>,
    requests: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Line {
    /// Ends when the last request of the line is settled.
    last: oneshot::Receiver<()>,
    requests: usize,
}

/// The place of one request in the line of its key, until it is dropped.
#[derive(Debug)]
pub(crate) struct InLine {
    lines: Arc<Lines>,
    key: u64,
    bytes: usize,
    before: Option<oneshot::Receiver<()>>,
    _after: oneshot::Sender<()>,
}

impl Lines {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), left: Notify::new(), hasher: RandomState::new() })
    }

    /// Puts a request at the end of the line of its key.
    pub(crate) fn enter(self: &Arc<Self>, key: &str, payload: usize) -> InLine {
        let (key, bytes) = (self.hasher.hash_one(key), payload + OVERHEAD);
        let (after, last) = oneshot::channel();
        let mut state = self.lock();
        state.requests += 1;
        state.bytes += bytes;
        let before = match state.lines.entry(key) {
            Entry::Occupied(mut line) => {
                let line = line.get_mut();
                line.requests += 1;
                Some(std::mem::replace(&mut line.last, last))
            }
            Entry::Vacant(line) => {
                line.insert(Line { last, requests: 1 });
                None
            }
        };
        drop(state);
        InLine { lines: Arc::clone(self), key, bytes, before, _after: after }
    }

    /// How many requests there is room for.
    pub(crate) fn room(&self) -> usize {
        let state = self.lock();
        if state.bytes >= MOST_BYTES { 0 } else { MOST_REQUESTS.saturating_sub(state.requests) }
    }

    /// Waits until there is room for a request.
    pub(crate) async fn roomy(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.room() > 0 {
                return;
            }
            left.await;
        }
    }

    /// Whether the lines are so long that a request that waits for its next attempt should not hold its line up.
    pub(crate) fn are_long(&self) -> bool {
        let state = self.lock();
        state.requests > MOST_REQUESTS / 2 || state.bytes > MOST_BYTES / 2
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InLine {
    /// Whether nothing of the key is before it.
    pub(crate) fn is_first(&mut self) -> bool {
        let gone = |before: &mut oneshot::Receiver<()>| {
            !matches!(before.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        };
        if self.before.as_mut().is_some_and(gone) {
            self.before = None;
        }
        self.before.is_none()
    }

    /// Waits until everything before it in its line is settled. Cancel safe.
    pub(crate) async fn come(&mut self) {
        if let Some(before) = &mut self.before {
            // An error means that the one before was dropped, which is how it leaves the line.
            let _ = before.await;
            self.before = None;
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut state = self.lines.lock();
        state.requests -= 1;
        state.bytes -= self.bytes;
        if let Entry::Occupied(mut line) = state.lines.entry(self.key) {
            line.get_mut().requests -= 1;
            if line.get().requests == 0 {
                line.remove();
            }
        }
        drop(state);
        self.lines.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_line_is_worked_off_in_order_and_holds_no_other_up() {
        let lines = Lines::new();
        let (mut one, mut two, mut other) = (lines.enter("a", 1), lines.enter("a", 1), lines.enter("b", 1));
        assert!(one.is_first() && !two.is_first() && other.is_first());
        assert!(two.come().now_or_never().is_none());
        let mut three = lines.enter("a", 1);
        drop(one);
        assert!(two.come().now_or_never().is_some() && !three.is_first());
        drop(two);
        assert!(three.is_first());
        drop((three, other));
        let state = lines.lock();
        assert!(state.lines.is_empty());
        assert_eq!((state.requests, state.bytes), (0, 0));
    }

    #[test]
    fn lines_are_bounded_in_requests_and_in_bytes() {
        let lines = Lines::new();
        let large = lines.enter("a", MOST_BYTES);
        assert_eq!(lines.room(), 0);
        assert!(lines.are_long() && lines.roomy().now_or_never().is_none());
        drop(large);
        let many: Vec<_> = (0..MOST_REQUESTS).map(|n| lines.enter(&n.to_string(), 0)).collect();
        assert_eq!(lines.room(), 0);
        drop(many);
        assert!(lines.roomy().now_or_never().is_some() && !lines.are_long());
    }
}
