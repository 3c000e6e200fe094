//! The subscriptions of one session, complete or being prepared. Pure.

use std::time::Instant;

use bytes::Bytes;
use tidegate_shared::channel::Channel;

use super::{Effect, token::Terms, validity::Validity};
use crate::{channels::feed::Resume, policy::delivery::DeliveryOptions, policy::rules::Tracking};

/// The subscriptions of one session. There are few, so a list is smaller than a map and as fast.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    entries: Vec<Entry>,
    next_ticket: u32,
    /// The earliest end or renewal of all entries. Cached, since every wake-up of the connection asks for it.
    next_end: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    channel: Channel,
    /// Distinguishes it from a later subscription to the same channel.
    ticket: u32,
    /// True for a server-side subscription.
    by_server: bool,
    /// The connection's info in this channel, from a token, a back end or a service.
    info: Bytes,
    pending: Option<Pending>,
    /// When it ends, if it does.
    end: Option<Instant>,
    /// When the session asks a back end to prolong it.
    renewal: Option<Instant>,
}

/// A subscription that is being prepared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    /// The command that waits for its reply; 0 for a server-side subscription.
    pub(super) command: u32,
    /// Data for the client in the reply.
    pub(super) data: Bytes,
    /// The position the client wants to resume from.
    pub(super) resume: Option<Resume>,
    /// Patches or a filter, if it asked for them.
    pub(super) delivery: Option<Box<DeliveryOptions>>,
    /// How it may use the channel's history.
    pub(super) tracking: Tracking,
    /// Seconds until the client has to send a fresh token, if it has to.
    pub(super) ttl: Option<u32>,
    /// True until it is permitted.
    pub(super) asked: bool,
    /// Whether it receives joins and leaves.
    join_leave: bool,
    /// Whether the client wants an error instead of a failed recovery.
    pub(super) or_refuse: bool,
}

/// What a subscription asks for.
#[derive(Debug)]
pub(super) struct SubscribeOptions {
    /// The command that asked for it; 0 for a server-side subscription.
    pub(super) command: u32,
    pub(super) resume: Option<Resume>,
    pub(super) delivery: Option<Box<DeliveryOptions>>,
    pub(super) tracking: Tracking,
    /// Whether it receives joins and leaves.
    pub(super) join_leave: bool,
    /// Whether the client wants an error instead of a failed recovery.
    pub(super) or_refuse: bool,
}

impl SubscribeOptions {
    /// The options of a server-side subscription.
    pub(super) fn by_server(join_leave: bool) -> Self {
        Self {
            command: 0,
            resume: None,
            delivery: None,
            tracking: Tracking::FULL,
            join_leave,
            or_refuse: false,
        }
    }
}

/// The subscription that was removed, if there was one.
#[derive(Debug, PartialEq)]
pub(super) enum Removed {
    /// The session had no subscription to the channel.
    Nothing,
    /// A subscription that was still being prepared.
    Pending(Pending),
    /// A complete subscription.
    Active {
        /// True for a server-side subscription.
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

    /// Whether the channel has a subscription that is complete or permitted.
    pub(super) fn has_admitted(&self, channel: &Channel) -> bool {
        let admitted = |entry: &Entry| entry.pending.as_ref().is_none_or(|pending| !pending.asked);
        self.entries.iter().any(|entry| entry.channel == *channel && admitted(entry))
    }

    /// Adds a subscription that is not permitted yet. The returned ticket distinguishes it from a later one to the same
    /// channel.
    pub(super) fn begin(&mut self, channel: Channel, options: SubscribeOptions) -> u32 {
        let SubscribeOptions { command, resume, delivery, tracking, join_leave, or_refuse } = options;
        let data = Bytes::new();
        let pending = Pending {
            command,
            data,
            resume,
            delivery,
            tracking,
            ttl: None,
            asked: true,
            join_leave,
            or_refuse,
        };
        self.push(channel, command == 0, Bytes::new(), Some(pending))
    }

    /// Adds a complete server-side subscription.
    pub(super) fn add(&mut self, channel: Channel, info: Bytes) {
        self.push(channel, true, info, None);
    }

    fn push(&mut self, channel: Channel, by_server: bool, info: Bytes, pending: Option<Pending>) -> u32 {
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.entries.push(Entry { channel, ticket, by_server, info, pending, end: None, renewal: None });
        ticket
    }

    /// Permits a subscription and returns the effect that joins its channel. `None` if it was removed meanwhile.
    pub(super) fn admit(&mut self, ticket: u32, terms: Terms) -> Option<Effect> {
        let entry = self.entries.iter_mut().find(|entry| entry.is_pending(ticket))?;
        entry.info = terms.info;
        entry.set(terms.validity);
        let channel = entry.channel.clone();
        let pending = entry.pending.as_mut()?;
        (pending.asked, pending.ttl, pending.data) = (false, terms.validity.ttl, terms.data);
        let (resume, or_refuse) = (pending.resume.clone(), pending.or_refuse);
        Some(Effect::Join { ticket, channel, resume, or_refuse })
    }

    /// The connection's info in a channel.
    pub(super) fn info(&self, channel: &Channel) -> Bytes {
        let entry = self.entries.iter().find(|entry| entry.channel == *channel);
        entry.map(|entry| entry.info.clone()).unwrap_or_default()
    }

    /// The patches or filter of a subscription that is being prepared.
    pub(super) fn delivery(&self, ticket: u32) -> Option<Box<DeliveryOptions>> {
        self.entries.iter().find(|entry| entry.is_pending(ticket))?.pending.as_ref()?.delivery.clone()
    }

    /// Whether a subscription that is being prepared receives joins and leaves.
    pub(super) fn join_leave(&self, ticket: u32) -> bool {
        let entry = self.entries.iter().find(|entry| entry.is_pending(ticket));
        entry.and_then(|entry| entry.pending.as_ref()).is_some_and(|pending| pending.join_leave)
    }

    /// Completes a subscription. `None` if it was removed meanwhile.
    pub(super) fn complete(&mut self, ticket: u32) -> Option<Pending> {
        let pending = self.entries.iter_mut().find(|entry| entry.is_pending(ticket))?.pending.take();
        self.find_next_end();
        pending
    }

    /// Replaces the validity of a complete subscription. Returns false if there is none.
    pub(super) fn renew(&mut self, channel: &Channel, terms: Terms) -> bool {
        let complete = |entry: &&mut Entry| entry.channel == *channel && entry.pending.is_none();
        let Some(entry) = self.entries.iter_mut().find(complete) else { return false };
        entry.set(terms.validity);
        entry.info = terms.info;
        self.find_next_end();
        true
    }

    /// Prolongs the complete subscription with this ticket, if it still exists.
    pub(super) fn prolong(&mut self, ticket: u32, validity: Validity, info: Bytes) {
        if let Some(entry) = self.complete_entry(ticket) {
            entry.set(validity);
            if !info.is_empty() {
                entry.info = info;
            }
            self.find_next_end();
        }
    }

    /// Sets the next time a back end is asked to prolong it.
    pub(super) fn ask_again(&mut self, ticket: u32, at: Instant) {
        if let Some(entry) = self.complete_entry(ticket) {
            entry.renewal = Some(at);
            self.find_next_end();
        }
    }

    /// Removes the complete subscription with this ticket and returns its channel.
    pub(super) fn end(&mut self, ticket: u32) -> Option<Channel> {
        let is_it = |entry: &Entry| entry.ticket == ticket && entry.pending.is_none();
        let index = self.entries.iter().position(is_it)?;
        let channel = self.entries.swap_remove(index).channel;
        self.find_next_end();
        Some(channel)
    }

    /// Takes the subscriptions whose renewal is due.
    pub(super) fn take_renewals(&mut self, now: Instant) -> Vec<(u32, Channel)> {
        if self.next_end.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let due = |entry: &mut Entry| {
            let due = entry.pending.is_none() && entry.renewal.take_if(|at| *at <= now).is_some();
            due.then(|| (entry.ticket, entry.channel.clone()))
        };
        let renewals = self.entries.iter_mut().filter_map(due).collect();
        self.find_next_end();
        renewals
    }

    fn complete_entry(&mut self, ticket: u32) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.ticket == ticket && entry.pending.is_none())
    }

    /// When the next subscription ends or has to be prolonged.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// Removes the expired subscriptions. A pending one expires once it is complete.
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
        self.next_end = complete.flat_map(|entry| [entry.end, entry.renewal]).flatten().min();
    }

    /// Removes a subscription, pending or complete.
    pub(super) fn leave(&mut self, channel: &Channel) -> Removed {
        let Some(index) = self.entries.iter().position(|entry| entry.channel == *channel) else {
            return Removed::Nothing;
        };
        let entry = self.entries.swap_remove(index);
        if entry.end.is_some() || entry.renewal.is_some() {
            self.find_next_end();
        }
        match entry.pending {
            Some(pending) => Removed::Pending(pending),
            None => Removed::Active { by_server: entry.by_server },
        }
    }

    /// Removes a subscription whose preparation failed. Returns the command that waits for a reply.
    pub(super) fn fail(&mut self, ticket: u32) -> Option<u32> {
        let index = self.entries.iter().position(|entry| entry.is_pending(ticket))?;
        let command = self.entries.swap_remove(index).pending.map(|pending| pending.command);
        command.filter(|command| *command != 0)
    }
}

impl Entry {
    fn is_pending(&self, ticket: u32) -> bool {
        self.ticket == ticket && self.pending.is_some()
    }

    fn set(&mut self, validity: Validity) {
        (self.end, self.renewal) = (validity.end, validity.renewal);
    }
}
