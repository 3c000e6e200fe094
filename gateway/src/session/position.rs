//! The position of a subscriber in a channel, and how the client learns it: in the reply to `subscribe`, or in a push
//! for a server-side subscription. Pure.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    protocol::{Encoding, Push, Reply, SubscribeRequest, SubscribeResult, Subscribed, json::Payload},
};

use super::{
    backlog::{Missed, NextPart, brought, next_part},
    budget::Budget,
    subscriptions::Pending,
};
use crate::{
    channels::feed::{Joined, Resume},
    policy::{delivery::DeliveryOptions, rules::Tracking},
};

/// What a client is told of its subscription.
#[derive(Debug, PartialEq)]
pub(crate) struct Granted<T> {
    /// The reply, the push or the part of a reply that says it.
    pub(crate) told: T,
    /// The client has its backlog up to this offset, and gets the rest before it joins. `None` if it has all.
    pub(crate) rest_behind: Option<u64>,
}

impl<T> Granted<T> {
    pub(super) fn map<U>(self, to: impl FnOnce(T) -> U) -> Granted<U> {
        Granted { told: to(self.told), rest_behind: self.rest_behind }
    }
}

/// The reply to `subscribe`.
pub(super) fn granted(
    pending: &Pending,
    position: &Position,
    encoding: Encoding,
    budget: &mut Budget,
) -> Granted<Reply> {
    let asked = pending.resume.as_ref();
    let delivery = pending.delivery.as_deref();
    position.result(asked, delivery, pending.tracking, encoding, budget).map(|result| {
        let result = SubscribeResult {
            expires: pending.ttl.is_some(),
            ttl: pending.ttl.unwrap_or_default(),
            data: suited(&pending.data, encoding),
            ..result
        };
        Reply { id: pending.command, subscribe: Some(result), ..Reply::default() }
    })
}

/// Application data in a form that the encoding can carry.
pub(super) fn suited(data: &Bytes, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json if !data.is_empty() => Payload::from_any(data).into_bytes(),
        Encoding::Json | Encoding::Protobuf => data.clone(),
    }
}

/// The bit of `flag` by which a client asks for an error instead of a failed recovery.
pub(super) const REFUSE_UNRECOVERABLE: i64 = 2;

/// The position the client wants to resume from, if it does.
pub(super) fn resume_of(request: &SubscribeRequest) -> Option<Resume> {
    request.recover.then(|| Resume { offset: request.offset, epoch: request.epoch.clone() })
}

/// Where a subscriber joined a channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Position {
    /// What the channel returned for the join.
    pub(crate) joined: Joined,
    /// The stream its offsets belong to. `None` without history.
    pub(crate) epoch: Option<Arc<str>>,
}

impl Position {
    /// The position in a channel without history.
    pub(crate) fn live() -> Self {
        Self { joined: Joined::Live, epoch: None }
    }

    /// The result for the client, whether it asked to resume or not. Of a backlog over the budget it has the beginning. A client that
    /// could never be sent the first publication has not recovered: it starts behind all of them.
    pub(super) fn result(
        &self,
        resume: Option<&Resume>,
        delivery: Option<&DeliveryOptions>,
        tracking: Tracking,
        encoding: Encoding,
        budget: &mut Budget,
    ) -> Granted<SubscribeResult> {
        let delta = delivery.is_some_and(|delivery| delivery.delta);
        let result =
            SubscribeResult { was_recovering: resume.is_some(), delta, ..SubscribeResult::default() };
        let positioned = SubscribeResult {
            recoverable: tracking.recoverable,
            positioned: true,
            epoch: self.epoch.as_deref().unwrap_or_default().to_owned(),
            ..result.clone()
        };
        let whole = |told| Granted { told, rest_behind: None };
        let after = resume.map_or(0, |resume| resume.offset);
        let (missed, newest) = match &self.joined {
            Joined::Live => return whole(result),
            Joined::At { .. } if !tracking.positioned => return whole(result),
            Joined::At { position } => return whole(SubscribeResult { offset: *position, ..positioned }),
            Joined::Newest { position, newest } => {
                let publications: Vec<_> = newest.iter().map(Arc::clone).collect();
                let publications = brought(&publications, delivery, encoding);
                let recovered = budget.take_some(&publications) == publications.len();
                let publications = if recovered { publications } else { Vec::new() };
                return whole(SubscribeResult { recovered, offset: *position, publications, ..positioned });
            }
            Joined::Resumed { missed } => {
                let newest = missed.last().map_or(after, |newest| newest.offset);
                (Missed { after, publications: missed, until: None }, newest)
            }
            Joined::Part { position, part } => {
                (Missed { after, publications: part.behind(after), until: Some(part.until) }, *position)
            }
        };
        match next_part(missed, delivery, encoding, budget) {
            NextPart::TooLarge => whole(SubscribeResult { offset: newest, ..positioned }),
            // The position asked for, not the newest: the publications move it.
            NextPart::Sent { publications, rest_behind } => Granted {
                told: SubscribeResult { recovered: true, offset: after, publications, ..positioned },
                rest_behind,
            },
        }
    }
}

/// The push that announces a server-side subscription, with what a reply to `subscribe` would say.
pub(super) fn announced(channel: &Channel, granted: Reply) -> Reply {
    let result = granted.subscribe.unwrap_or_default();
    let subscribe = Some(Subscribed {
        recoverable: result.recoverable,
        epoch: result.epoch,
        offset: result.offset,
        positioned: result.positioned,
        data: result.data,
    });
    let push = Push { channel: channel.name().to_owned(), subscribe, ..Push::default() };
    Reply { push: Some(push), ..Reply::default() }
}
