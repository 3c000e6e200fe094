//! Prepares a channel for a join: the gateway receives it, the backlog is at hand, the member is stored. Takes no lock
//! and decides nothing; `join` does the joining.

use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{self, ClientInfo, codes},
};

use super::Shared;
use crate::{
    channels::{
        feed::{Resume, Start},
        hub::ChannelRef,
    },
    presence::Membership,
};

/// A channel that is ready to join.
pub(super) struct Ready {
    pub(super) held: ChannelRef,
    pub(super) start: Start,
    /// The membership and the member's info, where the namespace keeps members.
    pub(super) membership: Option<Box<Membership>>,
    pub(super) member: Option<Box<ClientInfo>>,
}

impl From<ChannelRef> for Ready {
    /// Joins with the next publication, without a membership.
    fn from(held: ChannelRef) -> Self {
        Self { held, start: Start::Fresh, membership: None, member: None }
    }
}

impl Shared {
    /// Prepares a channel, from the position in `resume` if the client can recover.
    pub(super) async fn ready(
        &self,
        channel: &Channel,
        resume: Option<&Resume>,
        or_refuse: bool,
        member: Option<Box<ClientInfo>>,
    ) -> Result<Ready, protocol::Error> {
        let held =
            self.channels.interests.hold(channel).await.map_err(|error| codes::INTERNAL.because(error))?;
        let mut start = Start::Fresh;
        if let Some(resume) = resume {
            let prepared = self.channels.recovery.prepare(channel, &held.feed, resume).await;
            start = prepared.map_err(|refusal| codes::INTERNAL.because(refusal))?;
            let recovers = match &start {
                Start::Fresh => false,
                Start::Behind(_) | Start::Part(_) => true,
                Start::Newest { seen } => held.feed.has_newest(*seen),
            };
            if !recovers && or_refuse && self.channels.history.keeps(channel) {
                return Err(codes::UNRECOVERABLE.error());
            }
        }
        let membership = self.membership(channel, member.as_deref()).await?;
        Ok(Ready { held, start, membership, member })
    }

    /// Stores the client as a member of the channel.
    async fn membership(
        &self,
        channel: &Channel,
        member: Option<&ClientInfo>,
    ) -> Result<Option<Box<Membership>>, protocol::Error> {
        let client = member.and_then(|member| Some((member, ClientId::parse(&member.client)?)));
        let Some((member, client)) = client else { return Ok(None) };
        let membership = self.presence.join(channel, &client, member).await;
        membership
            .map(|membership| Some(Box::new(membership)))
            .map_err(|refusal| codes::INTERNAL.because(refusal))
    }
}
