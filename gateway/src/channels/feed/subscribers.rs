//! A channel's subscribers, their delivery options, and delivery to them.
//!
//! Never decides in which order publications come: `track` does.

use std::sync::Arc;

use tidegate_shared::{
    id::ClientId,
    protocol::{ClientInfo, Publication, Reply},
};

use super::{Feed, State, patch};
use crate::{
    outbox::{
        Outbox,
        encoded::{Delivered, Encoded, Form},
    },
    policy::delivery::DeliveryOptions,
    presence::change::MembershipChange,
};

/// A subscriber of a channel.
pub(super) struct Subscriber {
    pub(super) outbox: Arc<Outbox>,
    pub(super) delivery: Option<Box<DeliveryOptions>>,
    /// Whether it has the newest publication, so that the next may be a patch of it.
    pub(super) has_newest: bool,
    /// Whether it receives joins and leaves.
    pub(super) join_leave: bool,
    /// It has everything up to this offset: another gateway was faster. Without history, 0.
    pub(super) has_until: u64,
}

/// What a subscription asks for when it joins.
#[derive(Debug, Default)]
pub(crate) struct JoinOptions {
    pub(crate) delivery: Option<Box<DeliveryOptions>>,
    /// Set to receive joins and leaves. The first one is its own join, with this info.
    pub(crate) join_leave_as: Option<Box<ClientInfo>>,
}

impl From<Option<Box<DeliveryOptions>>> for JoinOptions {
    fn from(delivery: Option<Box<DeliveryOptions>>) -> Self {
        Self { delivery, join_leave_as: None }
    }
}

impl Feed {
    /// Removes a subscriber.
    pub(crate) fn leave(&self, client: &ClientId) {
        let mut state = self.state.lock();
        match &state.first {
            Some((first, _)) if first == client => state.first = None,
            _ => {
                state.more.remove(client);
            }
        }
    }

    /// Delivers a join or a leave to the subscribers that asked for them, except to the member itself. Returns how many
    /// received it.
    pub(crate) fn deliver_change(&self, change: &MembershipChange) -> usize {
        let mut message = Encoded::new(|encoding, _| {
            let info = change.info.clone().suited_to(encoding);
            if change.joined { Reply::join(self.name(), info) } else { Reply::leave(self.name(), info) }
        });
        let state = self.state.lock();
        let members = state.first.iter().map(|(client, member)| (client, member)).chain(&state.more);
        members
            .filter(|(client, member)| member.join_leave && client.as_str() != change.info.client)
            .map(|(_, member)| message.deliver(&member.outbox, Form::Plain).count())
            .sum()
    }

    /// How many subscribers there are.
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        usize::from(state.first.is_some()) + state.more.len()
    }

    /// All subscribers.
    pub(crate) fn subscribers(&self) -> Vec<(ClientId, Arc<Outbox>)> {
        let state = self.state.lock();
        let members = state.first.iter().map(|(client, member)| (client, member)).chain(&state.more);
        members.map(|(client, member)| (client.clone(), Arc::clone(&member.outbox))).collect()
    }
}

impl State {
    pub(super) fn add(&mut self, client: ClientId, member: Subscriber) {
        match &self.first {
            None => self.first = Some((client, member)),
            Some((first, _)) if *first == client => {}
            Some(_) => {
                self.more.insert(client, member);
            }
        }
    }

    pub(super) fn deliver(&mut self, name: &str, publication: &Publication) -> usize {
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
        let has_it = |member: &Subscriber| publication.offset > 0 && publication.offset <= member.has_until;
        for member in members.filter(|member| !has_it(member)) {
            let form = match member.delivery.as_deref() {
                Some(delivery) if !delivery.wants(publication) => continue,
                None | Some(DeliveryOptions { delta: false, .. }) => Form::Plain,
                Some(DeliveryOptions { delta: true, .. }) => {
                    patches = true;
                    if std::mem::replace(&mut member.has_newest, true) { Form::Patch } else { Form::Whole }
                }
            };
            match message.deliver(&member.outbox, form) {
                Delivered::Yes => reach += 1,
                // The client resumes, and starts behind this publication.
                Delivered::Never => member.outbox.lose(name),
            }
        }
        if patches {
            self.newest = Some(publication.data.clone());
        }
        reach
    }
}
