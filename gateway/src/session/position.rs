//! The position of a subscriber in a channel, and how the client learns it: in the reply to `subscribe`, or in a push
//! for a server-side subscription. Pure.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    protocol::{
        Encoding, Publication, Push, Reply, SubscribeRequest, SubscribeResult, Subscribed, json::Payload,
    },
};

use super::{budget::Budget, subscriptions::Pending};
use crate::{
    channels::feed::{Joined, Resume, patch},
    policy::{delivery::DeliveryOptions, rules::Tracking},
};

/// The reply to `subscribe`.
pub(super) fn granted(
    pending: &Pending,
    position: &Position,
    encoding: Encoding,
    mut budget: Budget,
) -> Reply {
    let result = SubscribeResult {
        expires: pending.ttl.is_some(),
        ttl: pending.ttl.unwrap_or_default(),
        data: suited(&pending.data, encoding),
        ..position.result(
            pending.resume.as_ref(),
            pending.delivery.as_deref(),
            pending.tracking,
            encoding,
            &mut budget,
        )
    };
    Reply { id: pending.command, subscribe: Some(result), ..Reply::default() }
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

    /// The result for the client, whether it asked to resume or not. A backlog over the budget is not recovered: the client
    /// starts behind it.
    pub(super) fn result(
        &self,
        resume: Option<&Resume>,
        delivery: Option<&DeliveryOptions>,
        tracking: Tracking,
        encoding: Encoding,
        budget: &mut Budget,
    ) -> SubscribeResult {
        let delta = delivery.is_some_and(|delivery| delivery.delta);
        let result =
            SubscribeResult { was_recovering: resume.is_some(), delta, ..SubscribeResult::default() };
        let positioned = SubscribeResult {
            recoverable: tracking.recoverable,
            positioned: true,
            epoch: self.epoch.as_deref().unwrap_or_default().to_owned(),
            ..result.clone()
        };
        match &self.joined {
            Joined::Live => result,
            Joined::At { .. } if !tracking.positioned => result,
            Joined::At { position } => SubscribeResult { offset: *position, ..positioned },
            Joined::Newest { position, newest } => {
                let publications = brought(newest.iter(), delivery, encoding);
                if !budget.take_all(&publications) {
                    return SubscribeResult { offset: *position, ..positioned };
                }
                SubscribeResult { recovered: true, offset: *position, publications, ..positioned }
            }
            Joined::Resumed { missed } => {
                // The position asked for, not the newest: the publications move it.
                let asked = resume.map_or(0, |resume| resume.offset);
                let publications = brought(missed.iter(), delivery, encoding);
                if !budget.take_all(&publications) {
                    let newest = missed.last().map_or(asked, |newest| newest.offset);
                    return SubscribeResult { offset: newest, ..positioned };
                }
                SubscribeResult { recovered: true, offset: asked, publications, ..positioned }
            }
        }
    }
}

/// The missed publications in a reply: filtered, and each as a patch of the one before it where patches were granted.
fn brought<'a>(
    publications: impl Iterator<Item = &'a Arc<Publication>>,
    delivery: Option<&DeliveryOptions>,
    encoding: Encoding,
) -> Vec<Publication> {
    let wanted = publications.filter(|p| delivery.is_none_or(|delivery| delivery.wants(p)));
    if delivery.is_some_and(|delivery| delivery.delta) {
        patch::chain(wanted.map(AsRef::as_ref), encoding)
    } else {
        wanted.map(|p| Publication::clone(p).suited_to(encoding)).collect()
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
