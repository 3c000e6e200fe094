//! Server-side subscriptions: those a connection begins with, and those a service adds or ends later.
//!
//! The client does not ask for them. It learns of them in the reply to `connect` or from a push.

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    protocol::{ConnectRequest, Push, Reply, Sub, SubscribeResult, Unsubscribe, codes},
};

use super::{
    Effect, Effects, Phase, Session,
    budget::Budget,
    position::{Granted, Position, granted, resume_of, suited},
    subscriptions::{Removed, SubscribeOptions},
    token::Terms,
};
use crate::{
    channels::feed::Resume,
    policy::{rules::Tracking, tokens::Identity},
};

/// A server-side subscription that a connection begins with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServerSubscription {
    pub(crate) channel: Channel,
    /// The position the client wants to resume from.
    pub(crate) resume: Option<Resume>,
    /// The connection's info in this channel.
    pub(super) info: Bytes,
    /// Data for the client about the subscription.
    data: Bytes,
}

/// Why a connection cannot begin with the channels its token names.
#[derive(Debug, PartialEq)]
pub(super) enum Unfit {
    /// A channel name is invalid, or its namespace is not declared.
    Channel(tidegate_shared::protocol::Error),
    /// More channels than one connection may have.
    TooMany,
}

impl Session {
    /// What the reply to `connect` says of a subscription that is joined at this position. All of them share one budget.
    pub(crate) fn begins_with(
        &self,
        one: &ServerSubscription,
        position: &Position,
        budget: &mut Budget,
    ) -> Granted<Sub> {
        let encoding = self.encoding;
        let granted = position.result(one.resume.as_ref(), None, Tracking::FULL, encoding, budget);
        granted.map(|result| {
            let result = SubscribeResult { data: suited(&one.data, encoding), ..result };
            Sub::new(one.channel.name(), result)
        })
    }

    /// The subscriptions a connection begins with: its personal channels, the automatic channels of namespaces, and the
    /// channels its token names.
    pub(super) fn server_subscriptions(
        &self,
        identity: &Identity,
        request: &ConnectRequest,
    ) -> Result<Vec<ServerSubscription>, Unfit> {
        let user = identity.user.as_deref();
        let mut chosen: Vec<ServerSubscription> = Vec::new();
        let mut server_subscriptions = |channel: Channel, info: Bytes, data: Bytes| {
            if chosen.iter().all(|one| one.channel != channel) {
                let asked = request.subs.get(channel.name()).and_then(resume_of);
                let resume = asked.or_else(|| self.rules.brings_newest(&channel).then(Resume::from_nowhere));
                chosen.push(ServerSubscription { channel, resume, info, data });
            }
        };
        for channel in self.rules.automatic(user) {
            server_subscriptions(channel, Bytes::new(), Bytes::new());
        }
        for grant in &identity.channels {
            let channel = Channel::parse(&grant.channel)
                .map_err(|error| Unfit::Channel(codes::BAD_REQUEST.because(error)))?;
            if !self.rules.knows(&channel) {
                return Err(Unfit::Channel(codes::UNKNOWN_CHANNEL.error()));
            }
            if self.rules.owner(&channel).is_some_and(|owner| user != Some(owner)) {
                return Err(Unfit::Channel(codes::PERMISSION_DENIED.error()));
            }
            server_subscriptions(channel, grant.info.clone(), grant.data.clone());
        }
        if chosen.len() > self.rules.limits.channels { Err(Unfit::TooMany) } else { Ok(chosen) }
    }

    /// Subscribes the client to a channel. A push confirms it. Does nothing if the client has the channel already.
    pub(super) fn add_subscription(&mut self, channel: Channel, info: Bytes, data: Bytes) -> Effects {
        let limit = self.rules.limits.channels;
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        // A personal channel is its user's, which has it from the beginning, and no other client's.
        if self.rules.owner(&channel).is_some() || connected.subscriptions.contains(&channel) {
            return Vec::new();
        }
        if connected.subscriptions.len() >= limit {
            return self.close(codes::CHANNEL_LIMIT);
        }
        let join_leave = self.rules.join_leave(&channel, false);
        let ticket = connected.subscriptions.begin(channel, SubscribeOptions::by_server(join_leave));
        let terms = Terms { info, data, ..Terms::default() };
        connected.subscriptions.admit(ticket, terms).into_iter().collect()
    }

    /// Ends a subscription, made by the client or by the server. A push tells the client why.
    pub(super) fn end_subscription_by_order(&mut self, channel: &Channel, why: Unsubscribe) -> Effects {
        let (encoding, mut budget) = (self.encoding, self.budget());
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        let push = Push { channel: channel.name().to_owned(), unsubscribe: Some(why), ..Push::default() };
        let push = Effect::Reply(Reply { push: Some(push), ..Reply::default() });
        match connected.subscriptions.leave(channel) {
            Removed::Nothing => Vec::new(),
            Removed::Pending(pending) if pending.command == 0 => Vec::new(),
            Removed::Pending(pending) if pending.asked => {
                let error = codes::PERMISSION_DENIED.because("ended before it was decided");
                vec![Effect::Reply(Reply::error(pending.command, error))]
            }
            // The command's reply goes before the push that ends the subscription.
            Removed::Pending(pending) => {
                vec![Effect::Reply(granted(&pending, &Position::live(), encoding, &mut budget).told), push]
            }
            Removed::Active { .. } => vec![Effect::Leave { channel: channel.clone() }, push],
        }
    }
}
