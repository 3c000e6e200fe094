//! The channels one session has, or is about to have. Pure bookkeeping.

use tidegate_shared::channel::Channel;

use crate::feed::{Resume, Wish};

/// The channels of one session. Few per session, so a list is smaller and as fast as a map.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    entries: Vec<Entry>,
    next_ticket: u32,
}

#[derive(Debug)]
struct Entry {
    channel: Channel,
    pending: Option<Pending>,
}

/// A subscription that is being prepared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    /// The command that waits for its reply.
    pub(super) command: u32,
    /// From where the client asked to resume.
    pub(super) resume: Option<Resume>,
    /// What it asked for beyond plain publications.
    pub(super) wish: Option<Box<Wish>>,
    ticket: u32,
}

/// What a session had of a channel it leaves.
#[derive(Debug, PartialEq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// A subscription whose command is not answered yet.
    Pending(Pending),
    /// A subscription.
    Active,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, channel: &Channel) -> bool {
        self.entries.iter().any(|entry| entry.channel == *channel)
    }

    /// Begins a subscription; the ticket tells its preparation from a later one for the same channel.
    pub(super) fn begin(
        &mut self,
        channel: Channel,
        command: u32,
        resume: Option<Resume>,
        wish: Option<Box<Wish>>,
    ) -> u32 {
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.entries.push(Entry { channel, pending: Some(Pending { command, resume, wish, ticket }) });
        ticket
    }

    /// What a subscription that is being prepared asked for.
    pub(super) fn wish(&self, ticket: u32) -> Option<Box<Wish>> {
        self.entries.iter().find(|entry| entry.is_pending(ticket))?.pending.as_ref()?.wish.clone()
    }

    /// Completes a subscription; nothing if it has been given up meanwhile.
    pub(super) fn complete(&mut self, ticket: u32) -> Option<Pending> {
        self.entries.iter_mut().find(|entry| entry.is_pending(ticket))?.pending.take()
    }

    /// Gives a subscription up, begun or complete.
    pub(super) fn leave(&mut self, channel: &Channel) -> Left {
        let Some(index) = self.entries.iter().position(|entry| entry.channel == *channel) else {
            return Left::Nothing;
        };
        match self.entries.swap_remove(index).pending {
            Some(pending) => Left::Pending(pending),
            None => Left::Active,
        }
    }

    /// Gives up a subscription whose preparation failed; returns the command that waits.
    pub(super) fn fail(&mut self, ticket: u32) -> Option<u32> {
        let index = self.entries.iter().position(|entry| entry.is_pending(ticket))?;
        self.entries.swap_remove(index).pending.map(|pending| pending.command)
    }
}

impl Entry {
    fn is_pending(&self, ticket: u32) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.ticket == ticket)
    }
}
