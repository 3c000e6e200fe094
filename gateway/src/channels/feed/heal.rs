//! Fills the gaps of a channel. Live messages wait while the stream is read, and then pass the same rule as all others:
//! a read may be older than they are, and messages may be lost while it runs. No I/O.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Backlog, Feed, State,
    gap::{Gap, Healing, Live},
};
use crate::outbox::Outbox;

/// What became of a gap.
#[derive(Debug)]
#[must_use]
pub(crate) enum Healed {
    /// Nothing is missing now, or the channel went on from another position meanwhile.
    Filled,
    /// Messages are still missing: the read was older than a live message, or others were lost meanwhile.
    Again(Gap),
    /// The gap cannot be filled. The subscribers are removed: the caller tells them to resume.
    Lost(Vec<Arc<Outbox>>),
}

impl Feed {
    /// Begins to fill a gap that no live message has shown, after a lost connection to the broker. The channel has, or
    /// had, a message with the sequence `known`; 0 if no such message is known. Returns `None` if a gap is being filled
    /// already: that goes on until the message is there.
    pub(crate) fn begin_heal(&self, known: u64) -> Option<Gap> {
        self.state.lock().begin_heal(known, self.connection())
    }

    /// Fills a gap with the backlog read from the stream. If the backlog is incomplete, removes all subscribers, so
    /// that nothing behind the gap reaches them. The channel goes on in every case.
    pub(crate) fn heal(&self, gap: &Gap, backlog: Backlog) -> Healed {
        let mut state = self.state.lock();
        let Some(track) = &mut state.track else { return Healed::Filled };
        let Some(healing) = track.healing.take_if(|healing| healing.round == gap.round) else {
            return Healed::Filled;
        };
        if !backlog.complete {
            let read = backlog.publications.iter().map(|p| p.offset).chain(backlog.removed).max();
            let read = read.unwrap_or_default().max(backlog.end);
            return Healed::Lost(state.give_up(&healing, read, healing.connection != self.connection()));
        }
        // The read has shown all that the channel has had until then.
        track.doubted &= healing.connection != self.connection();
        let more = backlog.more;
        state.apply(self.name(), backlog);
        if more {
            return state.keep_healing(healing).map_or(Healed::Filled, Healed::Again);
        }
        match state.apply_queue(self.name(), healing) {
            Some(gap) => Healed::Again(gap),
            None => Healed::Filled,
        }
    }

    /// Gives up filling a gap. Removes all subscribers and returns them: the caller tells them to resume. Does nothing
    /// if the gap is filled.
    pub(crate) fn give_up(&self, gap: &Gap) -> Vec<Arc<Outbox>> {
        let mut state = self.state.lock();
        let healing = state.track.as_mut().and_then(|track| track.healing.take_if(|h| h.round == gap.round));
        healing.map_or_else(Vec::new, |healing| state.give_up(&healing, 0, true))
    }

    /// Goes on from `position` in another stream, or in one that lost its end. Removes all subscribers and returns
    /// them: the caller tells them to resume.
    ///
    /// `doubted` says that the channel may have had messages behind the position, which this gateway has missed.
    pub(crate) fn restart(&self, position: u64, doubted: bool) -> Vec<Arc<Outbox>> {
        self.state.lock().restart(position, doubted)
    }
}

impl State {
    pub(super) fn begin_heal(&mut self, known: u64, connection: u64) -> Option<Gap> {
        let track = self.track.as_mut()?;
        if let Some(healing) = &mut track.healing {
            healing.known = healing.known.max(known);
            return None;
        }
        self.rounds += 1;
        let round = self.rounds;
        let queue = VecDeque::new();
        track.healing = Some(Box::new(Healing { round, known, connection, queue, bytes: 0 }));
        Some(Gap { after: track.position, round })
    }

    /// Begins to fill the gap that a live message has shown.
    pub(super) fn begin_heal_before(&mut self, live: Live, connection: u64) -> Option<Gap> {
        let gap = self.begin_heal(live.previous, connection);
        if let Some(healing) = self.track.as_mut().and_then(|track| track.healing.as_mut()) {
            healing.push(live);
        }
        gap
    }

    /// Applies what was read, each removal mark at its place.
    fn apply(&mut self, name: &str, backlog: Backlog) {
        let mut removed = backlog.removed;
        for publication in backlog.publications {
            if let Some(mark) = removed.take_if(|mark| *mark < publication.offset) {
                self.apply_one(name, Live::read(mark, None));
            }
            self.apply_one(name, Live::read(publication.offset, Some(publication)));
        }
        if let Some(mark) = removed {
            self.apply_one(name, Live::read(mark, None));
        }
    }

    fn apply_one(&mut self, name: &str, live: Live) {
        if self.track.as_ref().is_some_and(|track| live.seq > track.position) {
            self.advance(name, live);
        }
    }

    /// Applies the live messages that waited, as far as nothing is missing before them. Returns the gap that is left.
    fn apply_queue(&mut self, name: &str, mut healing: Box<Healing>) -> Option<Gap> {
        while let Some(live) = healing.queue.pop_front() {
            let position = self.track.as_ref()?.position;
            if live.previous > position && live.seq > position {
                healing.queue.push_front(live);
                return self.keep_healing(healing);
            }
            healing.bytes = healing.bytes.saturating_sub(live.bytes());
            self.apply_one(name, live);
        }
        if healing.known > self.track.as_ref()?.position {
            return self.keep_healing(healing);
        }
        None
    }

    fn keep_healing(&mut self, healing: Box<Healing>) -> Option<Gap> {
        let track = self.track.as_mut()?;
        let gap = Gap { after: track.position, round: healing.round };
        track.healing = Some(healing);
        Some(gap)
    }

    /// Goes on behind everything that is known of the channel.
    fn give_up(&mut self, healing: &Healing, read: u64, doubted: bool) -> Vec<Arc<Outbox>> {
        let position = self.track.as_ref().map_or(0, |track| track.position);
        let queued = healing.queue.iter().map(|live| live.seq);
        self.restart(queued.chain([position, healing.known, read]).max().unwrap_or(position), doubted)
    }
}
