//! `subscribe`, `unsubscribe` and `history`. The reply to `subscribe` is on the wire before the channel's first
//! publication.

use tidegate_shared::{
    channel::Channel,
    protocol::{
        self, Empty, HistoryRequest, HistoryResult, Reply, SubscribeRequest, SubscribeResult,
        UnsubscribeRequest, codes,
    },
};

use super::{
    Effect, Effects, Now, Phase, Session,
    budget::Budget,
    position::{Granted, Position, REFUSE_UNRECOVERABLE, announced, granted, resume_of},
    refuse,
    subscriptions::{Removed, SubscribeOptions},
};
use crate::{
    channels::feed::Resume,
    policy::{
        delivery::DeliveryOptions,
        rules::{Access, Action, Claim},
    },
};

impl Session {
    pub(super) fn subscribe(&mut self, id: u32, request: &SubscribeRequest, now: Now) -> Effects {
        let channel = match self.channel(id, &request.channel) {
            Ok(channel) => channel,
            Err(refusal) => return refusal,
        };
        if request.kind != 0 {
            return refuse(
                id,
                codes::NOT_AVAILABLE.because("only streams of publications can be subscribed to"),
            );
        }
        let Phase::Connected(connected) = &self.phase else { return Vec::new() };
        if channel.personal_user().is_some_and(|user| connected.user.as_deref() == Some(user)) {
            return refuse(id, codes::ALREADY_SUBSCRIBED.because("the personal channel needs no subscribe"));
        }
        if connected.subscriptions.contains(&channel) {
            return refuse(id, codes::ALREADY_SUBSCRIBED);
        }
        if connected.subscriptions.len() >= self.rules.limits.channels {
            return refuse(id, codes::LIMIT_EXCEEDED.because("too many channels on this connection"));
        }
        let admitted = match self.admit(id, &channel, &request.token, now) {
            Ok(admitted) => admitted,
            Err(refusal) => return refusal,
        };
        let delivery = match self.rules.delivery(&channel, request) {
            Ok(delivery) => delivery,
            Err(problem) => return refuse(id, codes::BAD_REQUEST.because(problem)),
        };
        let may_read = self.access_as(Action::History, &channel, true, false) == Some(Access::Granted);
        let may_see = self.access_as(Action::Presence, &channel, true, false) == Some(Access::Granted);
        let tracking = self.rules.tracking(&channel, request, may_read);
        let resume = resume_of(request).filter(|_| tracking.recoverable);
        let resume = resume.or_else(|| self.rules.brings_newest(&channel).then(Resume::from_nowhere));
        let options = SubscribeOptions {
            command: id,
            resume,
            delivery,
            tracking,
            join_leave: self.rules.join_leave(&channel, request.join_leave && may_see),
            or_refuse: request.recover && request.flag & REFUSE_UNRECOVERABLE != 0,
        };
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        let ticket = connected.subscriptions.begin(channel, options);
        match admitted {
            Some(terms) => connected.subscriptions.admit(ticket, terms).into_iter().collect(),
            None => self.ask_to_subscribe(ticket, request),
        }
    }

    /// Whether the client may do something in a channel. `None` if its namespace is not declared.
    pub(super) fn access(&self, action: Action, channel: &Channel, token: bool) -> Option<Access> {
        let Phase::Connected(connected) = &self.phase else { return None };
        self.access_as(action, channel, connected.subscriptions.has_admitted(channel), token)
    }

    fn access_as(&self, action: Action, channel: &Channel, subscribed: bool, token: bool) -> Option<Access> {
        self.rules.access(action, channel, Claim { user: self.user(), subscribed, token })
    }

    /// The patches or filter of a subscription that is being prepared.
    pub(crate) fn delivery(&self, ticket: u32) -> Option<Box<DeliveryOptions>> {
        let Phase::Connected(connected) = &self.phase else { return None };
        connected.subscriptions.delivery(ticket)
    }

    /// The channel is joined at this position, or a part of the backlog is at hand. Returns the reply: granted, or an error if the client has not recovered and
    /// wants an error for that. `None` if the client unsubscribed meanwhile.
    pub(crate) fn subscribed(
        &mut self,
        ticket: u32,
        channel: &Channel,
        position: &Position,
        budget: &mut Budget,
    ) -> Option<Result<Granted<Reply>, Reply>> {
        let encoding = self.encoding;
        let Phase::Connected(connected) = &mut self.phase else { return None };
        let pending = connected.subscriptions.complete(ticket)?;
        let granted = granted(&pending, position, encoding, budget);
        let lost = |result: &SubscribeResult| result.positioned && result.was_recovering && !result.recovered;
        if pending.or_refuse && granted.told.subscribe.as_ref().is_some_and(lost) {
            connected.subscriptions.leave(channel);
            return Some(Err(Reply::error(pending.command, codes::UNRECOVERABLE.error())));
        }
        Some(Ok(if pending.command == 0 { granted.map(|told| announced(channel, told)) } else { granted }))
    }

    /// Refuses a subscription whose channel cannot be joined.
    pub(crate) fn not_subscribed(&mut self, ticket: u32, error: protocol::Error) -> Effects {
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        let command = connected.subscriptions.fail(ticket);
        command.map(|id| refuse(id, error)).unwrap_or_default()
    }

    /// Ends the subscription to a channel with an unfilled gap. The client subscribes again from its position.
    pub(crate) fn lost(&mut self, channel: &Channel) -> Effects {
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        if channel.personal_user().is_some() {
            return self.close(codes::INSUFFICIENT_STATE);
        }
        match connected.subscriptions.leave(channel) {
            Removed::Nothing | Removed::Pending(_) => Vec::new(),
            Removed::Active { by_server: true } => self.close(codes::INSUFFICIENT_STATE),
            Removed::Active { by_server: false } => {
                let push = codes::UNSUBSCRIBED_INSUFFICIENT_STATE.push(channel.name());
                vec![Effect::Leave { channel: channel.clone() }, Effect::Reply(push)]
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, id: u32, request: &UnsubscribeRequest) -> Effects {
        let (encoding, mut budget) = (self.encoding, self.budget());
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        let done = Effect::Reply(Reply { id, unsubscribe: Some(Empty {}), ..Reply::default() });
        // Unsubscribing from a channel without a subscription succeeds, so an invalid name does too.
        let Ok(channel) = Channel::parse(&request.channel) else { return vec![done] };
        match connected.subscriptions.leave(&channel) {
            Removed::Nothing => vec![done],
            Removed::Pending(pending) if pending.command == 0 => vec![done],
            Removed::Pending(pending) if pending.asked => {
                let error = codes::PERMISSION_DENIED.because("unsubscribed before a back end decided");
                vec![Effect::Reply(Reply::error(pending.command, error)), done]
            }
            // Replies come in the order of the commands, so the `subscribe` is answered before the `unsubscribe`.
            Removed::Pending(pending) => {
                vec![Effect::Reply(granted(&pending, &Position::live(), encoding, &mut budget).told), done]
            }
            Removed::Active { .. } => vec![Effect::Leave { channel }, done],
        }
    }

    pub(super) fn history(&mut self, id: u32, ask: HistoryRequest) -> Effects {
        let channel = match self.channel(id, &ask.channel) {
            Ok(channel) => channel,
            Err(refusal) => return refusal,
        };
        match self.access(Action::History, &channel, false) {
            None => refuse(id, codes::UNKNOWN_CHANNEL),
            Some(Access::Denied(denial)) => refuse(id, denial.error()),
            Some(_) if !self.rules.has_history(&channel) => refuse(id, codes::NOT_AVAILABLE),
            Some(_) if ask.reverse && ask.since.as_ref().is_some_and(|since| since.offset == 0) => {
                refuse(id, codes::BAD_REQUEST.because("nothing is before the beginning"))
            }
            Some(_) => vec![Effect::History { command: id, channel, ask: Box::new(ask) }],
        }
    }

    /// Replies to `history`. `None` means that the requested position belongs to another stream.
    pub(crate) fn paged(&self, id: u32, page: Result<Option<HistoryResult>, protocol::Error>) -> Effects {
        match page {
            Ok(Some(mut page)) => {
                page.publications =
                    page.publications.into_iter().map(|p| p.suited_to(self.encoding)).collect();
                let fits = self.budget().take_some(&page.publications);
                if fits == 0 && !page.publications.is_empty() {
                    let why = "the next publication is larger than gateway.limits.outbox";
                    return refuse(id, codes::LIMIT_EXCEEDED.because(why));
                }
                page.publications.truncate(fits);
                vec![Effect::Reply(Reply { id, history: Some(page), ..Reply::default() })]
            }
            Ok(None) => refuse(id, codes::UNRECOVERABLE),
            Err(error) => refuse(id, error),
        }
    }
}
