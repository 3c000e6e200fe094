//! Preparing a channel for a connection that is about to join it: received by this gateway, the backlog at hand, the member
//! stored. Takes no lock and decides nothing; `join` does the joining.

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

/// A channel that can be joined.
pub(super) struct Ready {
    pub(super) held: ChannelRef,
    pub(super) start: Start,
    /// The membership, where it is kept who is in a channel, and what is said of the client there.
    pub(super) present: Option<Box<Membership>>,
    pub(super) member: Option<Box<ClientInfo>>,
}

impl From<ChannelRef> for Ready {
    /// From now on, and without being kept in the channel.
    fn from(held: ChannelRef) -> Self {
        Self { held, start: Start::Fresh, present: None, member: None }
    }
}

impl Shared {
    /// Sees to it that a channel can be joined, from where the client left it if that is possible.
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
                Start::Behind(_) => true,
                Start::Newest { seen } => held.feed.has_newest(*seen),
            };
            if !recovers && or_refuse && self.channels.history.keeps(channel) {
                return Err(codes::UNRECOVERABLE.error());
            }
        }
        let present = self.present(channel, member.as_deref()).await?;
        Ok(Ready { held, start, present, member })
    }

    /// Sees to it that whoever asks now finds the client in the channel.
    async fn present(
        &self,
        channel: &Channel,
        member: Option<&ClientInfo>,
    ) -> Result<Option<Box<Membership>>, protocol::Error> {
        let client = member.and_then(|member| Some((member, ClientId::parse(&member.client)?)));
        let Some((member, client)) = client else { return Ok(None) };
        let present = self.presence.join(channel, &client, member).await;
        present.map(|present| Some(Box::new(present))).map_err(|refusal| codes::INTERNAL.because(refusal))
    }
}
