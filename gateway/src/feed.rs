//! One channel on this gateway: its members, and how far along its stream it is.
//!
//! Everything a member gets of the channel passes through here, in order and under one lock, so that joining is exact: a
//! member's first publication follows the position it was told. Gaps are found here by the chain of sequences and filled from
//! the stream by the caller. Handles only: no sockets, no broker, no clock.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use tidegate_shared::{
    filter::{self, FilterNode},
    id::ClientId,
    protocol::{ClientInfo, Publication, Reply},
};

use self::newest::{Kept, Loaded, Newest};
use crate::{
    connection::outbox::Outbox,
    encoded::{Encoded, Form},
};

pub(crate) mod newest;
pub(crate) mod patch;

/// Live publications that wait while a gap is filled; more than that and the gap is not worth filling.
const MAX_QUEUED: usize = 1024;

/// A channel's members and its position.
pub(crate) struct Feed {
    name: Box<str>,
    state: Mutex<State>,
    /// Held while somebody reads the stream for a window, so that all who wait for one share it.
    pub(crate) reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    first: Option<(ClientId, Member)>,
    more: HashMap<ClientId, Member>,
    /// The newest publication, while somebody gets patches of it.
    newest: Option<Bytes>,
    /// Nothing for a channel without history.
    track: Option<Track>,
    /// Kept though nobody is a member: its subscription is held.
    held: bool,
}

/// A member, and what it asked for.
struct Member {
    outbox: Arc<Outbox>,
    wish: Option<Box<Wish>>,
    /// Whether it has the newest publication whole, so that the next may be a patch.
    has_newest: bool,
    /// Whether it is told who comes and leaves.
    hears: bool,
}

/// What somebody who joins asks for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) wish: Option<Box<Wish>>,
    /// To be told who comes and leaves, beginning with itself, who is this.
    pub(crate) hears_as: Option<Box<ClientInfo>>,
}

impl From<Option<Box<Wish>>> for Asked {
    fn from(wish: Option<Box<Wish>>) -> Self {
        Self { wish, hears_as: None }
    }
}

/// What a member wants beyond plain publications. Most want nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wish {
    /// Patches instead of whole payloads.
    pub(crate) delta: bool,
    /// Only publications with such tags.
    pub(crate) filter: Option<FilterNode>,
}

impl Wish {
    /// Whether a publication is wanted.
    pub(crate) fn wants(&self, publication: &Publication) -> bool {
        self.filter.as_ref().is_none_or(|node| filter::matches(node, &publication.tags))
    }
}

/// How far along its stream a channel is.
struct Track {
    /// Nothing of this channel up to here is still to come.
    position: u64,
    /// Live publications behind a gap that is being filled.
    healing: Option<Vec<Live>>,
    window: Option<Window>,
    /// What is delivered while a window is being read.
    recording: Option<Vec<Arc<Publication>>>,
    /// Where members are brought the newest publication alone: that one.
    newest: Option<Newest>,
}

/// Publications at hand for members that resume.
struct Window {
    /// Complete from here on, exclusively.
    after: u64,
    publications: VecDeque<Arc<Publication>>,
    /// The most one member may be brought.
    limit: usize,
    /// Shared with everybody who is about to join with it.
    pins: Arc<()>,
}

/// Keeps the publications behind an offset at hand for a member that is about to join.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(crate) offset: u64,
    _window: Arc<()>,
}

/// Somebody came to the channel or left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) info: ClientInfo,
    /// Whether it came; otherwise it left.
    pub(crate) joined: bool,
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
pub(crate) enum Taken {
    /// Handed to this many members.
    Delivered(usize),
    /// The members have it, or it waits behind a gap.
    Known,
    /// Publications behind this sequence are missing; the caller reads them and calls `heal`.
    Gap { after: u64 },
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
pub(crate) struct Past {
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
    /// A fresh start behind this position; whoever asked to resume could not.
    At { position: u64 },
    /// Resumed: this is what was missed.
    Resumed { missed: Vec<Arc<Publication>> },
    /// Resumed with the newest publication alone; nothing if the member has it.
    Newest { position: u64, newest: Option<Arc<Publication>> },
}

/// What a new member gets before anything else.
#[derive(Debug)]
pub(crate) enum Told {
    /// This.
    Frame(Bytes),
    /// Nothing here: its connection says it in another place.
    Nothing,
    /// Nothing, since it does not want to be a member any more.
    Left,
}

impl From<Option<Bytes>> for Told {
    fn from(frame: Option<Bytes>) -> Self {
        frame.map_or(Self::Left, Self::Frame)
    }
}

impl Feed {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), state: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Begins to follow the channel's stream from `position`, unless it is followed already. `newest` is what is known of
    /// its newest publication, where members are brought that one alone.
    pub(crate) fn track(&self, position: u64, newest: Option<Newest>) {
        let mut state = self.lock();
        if state.track.is_none() {
            state.track = Some(Track::new(position, newest));
        }
    }

    /// How far along the stream the channel is; nothing without history.
    pub(crate) fn position(&self) -> Option<u64> {
        self.lock().track.as_ref().map(|track| track.position)
    }

    /// Says whether the channel's subscription is held.
    pub(crate) fn hold(&self, held: bool) {
        self.lock().held = held;
    }

    /// Whether nothing refers to the channel any more.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        let awaited = state.track.as_ref().is_some_and(Track::is_pinned);
        !state.held && !awaited && state.is_empty()
    }

    /// Adds a member, from where it starts; `tell` builds what it gets first.
    pub(crate) fn join<T: Into<Told>>(
        &self,
        client: ClientId,
        outbox: &Arc<Outbox>,
        asked: impl Into<Asked>,
        start: &Start,
        tell: impl FnOnce(Joined) -> T,
    ) {
        let mut state = self.lock();
        let joined = state.track.as_ref().map_or(Joined::Live, |track| track.joined(start));
        let newest = match &joined {
            Joined::Resumed { missed } => missed.last().map(|publication| publication.data.clone()),
            Joined::Newest { newest, .. } => newest.as_ref().map(|publication| publication.data.clone()),
            Joined::Live | Joined::At { .. } => None,
        };
        match tell(joined).into() {
            Told::Frame(frame) => outbox.push(frame),
            Told::Nothing => {}
            Told::Left => return,
        }
        let Asked { wish, hears_as } = asked.into();
        let hears = hears_as.is_some();
        // Others hear of it from the broker, itself does so behind its answer.
        if let Some(info) = hears_as {
            let come = Reply::join(&*self.name, info.suited_to(outbox.dialect().encoding()));
            if let Ok(frame) = outbox.dialect().encode(&come) {
                outbox.push(frame);
            }
        }
        let has_newest = newest.is_some();
        if has_newest && wish.as_ref().is_some_and(|wish| wish.delta) {
            state.newest = newest;
        }
        state.add(client, Member { outbox: Arc::clone(outbox), wish, has_newest, hears });
    }

    /// Removes a member.
    pub(crate) fn leave(&self, client: &ClientId) {
        let mut state = self.lock();
        match &state.first {
            Some((first, _)) if first == client => state.first = None,
            _ => {
                state.more.remove(client);
            }
        }
    }

    /// Tells those who asked for it that somebody else came or left; returns how many.
    pub(crate) fn tell(&self, change: &Change) -> usize {
        let mut message = Encoded::new(|encoding, _| {
            let info = change.info.clone().suited_to(encoding);
            if change.joined { Reply::join(&*self.name, info) } else { Reply::leave(&*self.name, info) }
        });
        let state = self.lock();
        let members = state.first.iter().map(|(client, member)| (client, member)).chain(&state.more);
        members
            .filter(|(client, member)| member.hears && client.as_str() != change.info.client)
            .map(|(_, member)| message.deliver(&member.outbox, Form::Plain))
            .sum()
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        let state = self.lock();
        usize::from(state.first.is_some()) + state.more.len()
    }

    /// Every member.
    pub(crate) fn members(&self) -> Vec<(ClientId, Arc<Outbox>)> {
        let state = self.lock();
        let members = state.first.iter().map(|(client, member)| (client, member)).chain(&state.more);
        members.map(|(client, member)| (client.clone(), Arc::clone(&member.outbox))).collect()
    }

    /// Takes a live publication of a channel with history.
    pub(crate) fn live(&self, live: Live) -> Taken {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(track) = &mut state.track else {
            let publication = live.publication.as_ref();
            return Taken::Delivered(publication.map_or(0, |p| state.deliver(&self.name, p)));
        };
        if let Some(queue) = &mut track.healing {
            if queue.len() < MAX_QUEUED {
                queue.push(live);
            }
            return Taken::Known;
        }
        if live.seq <= track.position {
            return Taken::Known;
        }
        if live.previous > track.position {
            let after = track.position;
            track.healing = Some(vec![live]);
            return Taken::Gap { after };
        }
        Taken::Delivered(state.advance(&self.name, live))
    }

    /// Begins to fill a gap that nothing live has shown: after the connection to the broker was away. Returns from where.
    pub(crate) fn suspect(&self) -> Option<u64> {
        let mut state = self.lock();
        let track = state.track.as_mut().filter(|track| track.healing.is_none())?;
        track.healing = Some(Vec::new());
        Some(track.position)
    }

    /// Fills a gap with what the stream holds behind the position. If that is not everything, the members are taken out,
    /// so that nothing behind the gap reaches them, and returned: they have to be told. The channel goes on either way.
    pub(crate) fn heal(&self, past: Past) -> Vec<Arc<Outbox>> {
        let mut state = self.lock();
        let Some(queue) = state.track.as_mut().and_then(|track| track.healing.take()) else {
            return Vec::new();
        };
        if !past.complete || queue.len() >= MAX_QUEUED {
            let read = past.publications.iter().map(|p| p.offset).chain(past.removed);
            let newest = read.chain(queue.iter().map(|live| live.seq)).max();
            let position = state.track.as_ref().map_or(0, |track| track.position);
            return state.restart(newest.unwrap_or(position).max(position));
        }
        let removed = past.removed;
        let past = past.publications.into_iter().map(|publication| Live {
            seq: publication.offset,
            previous: 0,
            publication: Some(publication),
            stored_at: None,
        });
        for live in past.chain(queue) {
            if state.track.as_ref().is_some_and(|track| live.seq > track.position) {
                state.advance(&self.name, live);
            }
        }
        if let (Some(track), Some(removed)) = (&mut state.track, removed) {
            track.position = track.position.max(removed);
        }
        Vec::new()
    }

    /// The stream is another one, or ends before the position: goes on from `position`, and returns the members to tell.
    pub(crate) fn restart(&self, position: u64) -> Vec<Arc<Outbox>> {
        self.lock().restart(position)
    }

    /// Nothing of this channel is between its position and `position`, which somebody knows who has seen more.
    pub(crate) fn reach(&self, position: u64) {
        if let Some(track) = self.lock().track.as_mut().filter(|track| track.healing.is_none()) {
            track.position = track.position.max(position);
        }
    }

    /// Whether the newest publication is known here, unless the stream may have let go of what it took before `oldest`.
    pub(crate) fn knows_newest(&self, oldest: SystemTime) -> bool {
        let mut state = self.lock();
        let Some(newest) = state.track.as_mut().and_then(|track| track.newest.as_mut()) else { return true };
        let known = newest.is_known(oldest);
        if !known {
            *newest = Newest::Unknown;
        }
        known
    }

    /// Takes the newest publication over from the stream, unless a newer one has come meanwhile.
    pub(crate) fn load_newest(&self, kept: Option<Kept>) -> Loaded {
        let mut state = self.lock();
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
        let state = self.lock();
        let track = state.track.as_ref();
        track.is_some_and(|track| matches!(track.joined(&Start::Newest { seen }), Joined::Newest { .. }))
    }

    /// Keeps everything behind `offset` at hand until the pin is dropped, if that needs no reading of the stream.
    pub(crate) fn pin(&self, offset: u64, limit: usize) -> Option<Pin> {
        let mut state = self.lock();
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
        if let Some(track) = &mut self.lock().track {
            track.recording = Some(Vec::new());
        }
    }

    /// Opens a window with what the stream holds behind `after`, if that is complete and not too much.
    pub(crate) fn open_window(&self, after: u64, past: Past, limit: usize) {
        let mut state = self.lock();
        let Some(track) = &mut state.track else { return };
        let Some(recorded) = track.recording.take() else { return };
        if !past.complete || past.publications.len() > limit {
            return;
        }
        let begun = recorded.first().map_or(track.position + 1, |publication| publication.offset);
        let read =
            past.publications.into_iter().filter(|p| p.offset > after && p.offset < begun).map(Arc::new);
        track.window = Some(Window::new(after, read.chain(recorded).collect(), limit));
    }

    /// Gives the window's memory back, unless somebody is about to join with it; false if it has to stay.
    pub(crate) fn close_window(&self) -> bool {
        let mut state = self.lock();
        let Some(track) = &mut state.track else { return true };
        if track.is_pinned() {
            return false;
        }
        track.window = None;
        true
    }

    /// Whether there is a window.
    pub(crate) fn has_window(&self) -> bool {
        self.lock().track.as_ref().is_some_and(|track| track.window.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }

    fn add(&mut self, client: ClientId, member: Member) {
        match &self.first {
            None => self.first = Some((client, member)),
            Some((first, _)) if *first == client => {}
            Some(_) => {
                self.more.insert(client, member);
            }
        }
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
                        Newest::Known(Some(Kept { publication: Arc::clone(&publication), stored_at }))
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

    fn deliver(&mut self, name: &str, publication: &Publication) -> usize {
        let before = self.newest.take();
        let mut message = Encoded::new(|encoding, form| {
            let before = before.as_ref().filter(|_| form == Form::Patch);
            Reply::publication(
                name,
                match form {
                    Form::Plain => publication.clone().suited_to(encoding),
                    Form::Whole | Form::Patch => patch::patched(publication, before, encoding),
                },
            )
        });
        let (mut reach, mut patches) = (0, false);
        let members = self.first.iter_mut().map(|(_, member)| member).chain(self.more.values_mut());
        for member in members {
            let form = match member.wish.as_deref() {
                Some(wish) if !wish.wants(publication) => continue,
                None | Some(Wish { delta: false, .. }) => Form::Plain,
                Some(Wish { delta: true, .. }) => {
                    patches = true;
                    if std::mem::replace(&mut member.has_newest, true) { Form::Patch } else { Form::Whole }
                }
            };
            reach += message.deliver(&member.outbox, form);
        }
        if patches {
            self.newest = Some(publication.data.clone());
        }
        reach
    }
}

impl Track {
    /// Whether somebody is about to join with the window.
    fn is_pinned(&self) -> bool {
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

    fn joined(&self, start: &Start) -> Joined {
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

impl Window {
    fn new(after: u64, publications: VecDeque<Arc<Publication>>, limit: usize) -> Self {
        Self { after, publications, limit, pins: Arc::default() }
    }

    /// Nobody may be brought more than the limit, so nothing older is of use.
    fn trim(&mut self) {
        while self.publications.len() > self.limit
            && let Some(oldest) = self.publications.pop_front()
        {
            self.after = oldest.offset;
        }
    }
}

#[cfg(test)]
mod tests;
