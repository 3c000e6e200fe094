//! `subscribe` and `unsubscribe`: a channel's reply is on the wire before its first publication.

use tidegate_shared::{
    channel::Channel,
    protocol::{self, Empty, Reply, SubscribeRequest, SubscribeResult, UnsubscribeRequest, codes},
};

use super::{
    Effect, Effects, Phase, Session, refuse,
    subscriptions::{Left, Pending},
};

impl Session {
    pub(super) fn subscribe(&mut self, id: u32, request: &SubscribeRequest) -> Effects {
        if request.channel.is_empty() {
            return self.close(codes::BAD_PROTOCOL);
        }
        let channel = match Channel::parse(&request.channel) {
            Ok(channel) => channel,
            Err(error) => return refuse(id, codes::BAD_REQUEST.because(error)),
        };
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        if channel.personal_user().is_some_and(|user| connected.user.as_deref() == Some(user)) {
            return refuse(id, codes::ALREADY_SUBSCRIBED.because("the personal channel needs no subscribe"));
        }
        let Some(audience) = self.rules.may_subscribe(&channel) else {
            return refuse(id, codes::UNKNOWN_CHANNEL);
        };
        if !audience.includes(connected.user.is_some()) {
            return refuse(id, codes::PERMISSION_DENIED);
        }
        if connected.subscriptions.contains(&channel) {
            return refuse(id, codes::ALREADY_SUBSCRIBED);
        }
        if connected.subscriptions.len() >= self.rules.limits.channels {
            return refuse(id, codes::LIMIT_EXCEEDED.because("too many channels on this connection"));
        }
        let ticket = connected.subscriptions.begin(channel.clone(), id, request.recover);
        vec![Effect::Interest { ticket, channel }]
    }

    /// The channel's publications reach this gateway now, or cannot.
    pub(crate) fn subscribed(&mut self, ticket: u32, result: Result<(), protocol::Error>) -> Effects {
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        if let Err(error) = result {
            let command = connected.subscriptions.fail(ticket);
            return command.map(|id| refuse(id, error)).unwrap_or_default();
        }
        let Some((pending, channel)) = connected.subscriptions.complete(ticket) else { return Vec::new() };
        vec![subscribed_reply(pending), Effect::Join { channel }]
    }

    pub(super) fn unsubscribe(&mut self, id: u32, request: &UnsubscribeRequest) -> Effects {
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        let done = Effect::Reply(Reply { id, unsubscribe: Some(Empty {}), ..Reply::default() });
        // A name that is no channel cannot be subscribed to, and leaving what one does not have succeeds.
        let Ok(channel) = Channel::parse(&request.channel) else { return vec![done] };
        match connected.subscriptions.leave(&channel) {
            Left::Nothing => vec![done],
            // Replies come in the order of the commands: the subscription was granted, and is over before it began.
            Left::Pending(pending) => vec![subscribed_reply(pending), done],
            Left::Active => vec![Effect::Leave { channel }, done],
        }
    }
}

/// Without history nothing can be resumed, and a client that asks for it is told so.
fn subscribed_reply(pending: Pending) -> Effect {
    let result = SubscribeResult { recoverable: false, recovered: false, was_recovering: pending.recovering };
    Effect::Reply(Reply { id: pending.command, subscribe: Some(result), ..Reply::default() })
}
