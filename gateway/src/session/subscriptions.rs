//! The channels one session has, or is about to have. Pure bookkeeping.

use std::time::Instant;

use bytes::Bytes;
use tidegate_shared::channel::Channel;

use super::token::Term;
use crate::feed::{Resume, Wish};

/// The channels of one session. Few per session, so a list is smaller and as fast as a map.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    entries: Vec<Entry>,
    next_ticket: u32,
    /// The first of the entries' ends: what is asked for often.
    next_end: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    channel: Channel,
    /// Whether the server made it, not the client.
    by_server: bool,
    /// What was said about the connection in this channel, by a token or a service.
    info: Bytes,
    pending: Option<Pending>,
    /// When it ends, if its token does.
    end: Option<Instant>,
}

/// A subscription that is being prepared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    /// The command that waits for its reply; 0 when the server made the subscription.
    pub(super) command: u32,
    /// What the client is told about the subscription.
    pub(super) data: Bytes,
    /// From where the client asked to resume.
    pub(super) resume: Option<Resume>,
    /// What it asked for beyond plain publications.
    pub(super) wish: Option<Box<Wish>>,
    /// After how many seconds the client is to bring a fresh token, if it has to.
    pub(super) ttl: Option<u32>,
    /// Whether the client is told who comes and leaves.
    hears: bool,
    ticket: u32,
}

/// What a subscription begins with.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    /// The command that asked for it; 0 when the server makes it.
    pub(super) command: u32,
    pub(super) resume: Option<Resume>,
    pub(super) wish: Option<Box<Wish>>,
    pub(super) hears: bool,
    pub(super) term: Term,
}

/// What a session had of a channel it leaves.
#[derive(Debug, PartialEq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// A subscription whose command is not answered yet.
    Pending(Pending),
    /// A subscription.
    Active {
        /// Whether the server made it.
        by_server: bool,
    },
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, channel: &Channel) -> bool {
        self.entries.iter().any(|entry| entry.channel == *channel)
    }

    /// Begins a subscription; the ticket tells its preparation from a later one for the same channel.
    pub(super) fn begin(&mut self, channel: Channel, beginning: Beginning) -> u32 {
        let Beginning { command, resume, wish, hears, term } = beginning;
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let pending = Pending { command, data: term.data, resume, wish, ttl: term.ttl, hears, ticket };
        let by_server = command == 0;
        self.entries.push(Entry {
            channel,
            by_server,
            info: term.info,
            pending: Some(pending),
            end: term.end,
        });
        ticket
    }

    /// Adds a subscription that the connection begins with.
    pub(super) fn add(&mut self, channel: Channel, info: Bytes) {
        self.entries.push(Entry { channel, by_server: true, info, pending: None, end: None });
    }

    /// What was said about the connection in a channel.
    pub(super) fn info(&self, channel: &Channel) -> Bytes {
        let entry = self.entries.iter().find(|entry| entry.channel == *channel);
        entry.map(|entry| entry.info.clone()).unwrap_or_default()
    }

    /// What a subscription that is being prepared asked for.
    pub(super) fn wish(&self, ticket: u32) -> Option<Box<Wish>> {
        self.entries.iter().find(|entry| entry.is_pending(ticket))?.pending.as_ref()?.wish.clone()
    }

    /// Whether the client is told who comes and leaves, with a subscription that is being prepared.
    pub(super) fn hears(&self, ticket: u32) -> bool {
        let entry = self.entries.iter().find(|entry| entry.is_pending(ticket));
        entry.and_then(|entry| entry.pending.as_ref()).is_some_and(|pending| pending.hears)
    }

    /// Completes a subscription; nothing if it has been given up meanwhile.
    pub(super) fn complete(&mut self, ticket: u32) -> Option<Pending> {
        let pending = self.entries.iter_mut().find(|entry| entry.is_pending(ticket))?.pending.take();
        self.find_next_end();
        pending
    }

    /// Gives a complete subscription another end; false if there is none.
    pub(super) fn renew(&mut self, channel: &Channel, term: Term) -> bool {
        let complete = |entry: &&mut Entry| entry.channel == *channel && entry.pending.is_none();
        let Some(entry) = self.entries.iter_mut().find(complete) else { return false };
        entry.end = term.end;
        entry.info = term.info;
        self.find_next_end();
        true
    }

    /// When the next subscription ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// Gives up the subscriptions that have ended. One that is not complete ends when it is.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Channel> {
        if self.next_end.is_none_or(|end| end > now) {
            return Vec::new();
        }
        let over = |entry: &mut Entry| entry.pending.is_none() && entry.end.is_some_and(|end| end <= now);
        let expired = self.entries.extract_if(.., over).map(|entry| entry.channel).collect();
        self.find_next_end();
        expired
    }

    fn find_next_end(&mut self) {
        let complete = self.entries.iter().filter(|entry| entry.pending.is_none());
        self.next_end = complete.filter_map(|entry| entry.end).min();
    }

    /// Gives a subscription up, begun or complete.
    pub(super) fn leave(&mut self, channel: &Channel) -> Left {
        let Some(index) = self.entries.iter().position(|entry| entry.channel == *channel) else {
            return Left::Nothing;
        };
        let entry = self.entries.swap_remove(index);
        if entry.end.is_some() {
            self.find_next_end();
        }
        match entry.pending {
            Some(pending) => Left::Pending(pending),
            None => Left::Active { by_server: entry.by_server },
        }
    }

    /// Gives up a subscription whose preparation failed; returns the command that waits, if one does.
    pub(super) fn fail(&mut self, ticket: u32) -> Option<u32> {
        let index = self.entries.iter().position(|entry| entry.is_pending(ticket))?;
        let command = self.entries.swap_remove(index).pending.map(|pending| pending.command);
        command.filter(|command| *command != 0)
    }
}

impl Entry {
    fn is_pending(&self, ticket: u32) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.ticket == ticket)
    }
}
