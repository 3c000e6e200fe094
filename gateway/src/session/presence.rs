//! Presence: what a client may ask about a channel's members, and the info of this client as a member.

use tidegate_shared::{
    channel::Channel,
    protocol::{self, ClientInfo, PresenceResult, PresenceStatsResult, Reply, codes, protobuf},
};

use super::{Connected, Effect, Effects, Phase, Session, refuse};
use crate::policy::rules::{Access, Action};

/// What a client asks about a channel's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PresenceQuery {
    /// The members, each with its user and info.
    Members,
    /// How many members and users there are.
    Count,
}

/// What was read about a channel's members.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    Members(PresenceResult),
    Count(PresenceStatsResult),
}

impl Session {
    /// This client's info as a member of a channel. `None` where the namespace keeps no members.
    pub(crate) fn member(&self, channel: &Channel) -> Option<Box<ClientInfo>> {
        let connected = match &self.phase {
            Phase::Connected(connected) => connected,
            Phase::Connecting(connecting) => &connecting.connected,
            Phase::Fresh { .. } | Phase::Refused { .. } | Phase::Asking { .. } | Phase::Closed { .. } => {
                return None;
            }
        };
        self.rules.has_members(channel).then(|| Box::new(self.info(connected, channel)))
    }

    pub(super) fn info(&self, connected: &Connected, channel: &Channel) -> ClientInfo {
        ClientInfo {
            user: connected.user.as_deref().unwrap_or_default().to_owned(),
            client: self.client.as_str().to_owned(),
            conn_info: connected.info.clone(),
            chan_info: connected.subscriptions.info(channel),
        }
    }

    /// Whether a subscription that is being prepared receives joins and leaves.
    pub(crate) fn join_leave(&self, ticket: u32) -> bool {
        matches!(&self.phase, Phase::Connected(connected) if connected.subscriptions.join_leave(ticket))
    }

    /// Whether a server-side subscription receives joins and leaves. It cannot ask for them.
    pub(crate) fn join_leave_by_default(&self, channel: &Channel) -> bool {
        self.rules.join_leave(channel, false)
    }

    pub(super) fn presence(&mut self, id: u32, name: &str, query: PresenceQuery) -> Effects {
        let channel = match self.channel(id, name) {
            Ok(channel) => channel,
            Err(refusal) => return refusal,
        };
        match self.access(Action::Presence, &channel, false) {
            None => refuse(id, codes::UNKNOWN_CHANNEL),
            Some(_) if !self.rules.has_presence(&channel) => refuse(id, codes::NOT_AVAILABLE),
            Some(Access::Denied(denial)) => refuse(id, denial.error()),
            Some(_) => vec![Effect::Presence { command: id, channel, query }],
        }
    }

    /// Replies with the members of a channel once they are read.
    pub(crate) fn members_read(&self, id: u32, found: Result<Found, protocol::Error>) -> Effects {
        let reply = match found {
            Err(error) => return refuse(id, error),
            Ok(Found::Count(stats)) => Reply { id, presence_stats: Some(stats), ..Reply::default() },
            Ok(Found::Members(members)) => {
                Reply { id, presence: Some(members.suited_to(self.encoding)), ..Reply::default() }
            }
        };
        // A larger reply would overflow the outbox and end the connection as slow on every try.
        if protobuf::len(&reply) as u64 > self.rules.limits.outbox / 2 {
            return refuse(
                id,
                codes::LIMIT_EXCEEDED.because("too many members for one reply: ask for presence_stats"),
            );
        }
        vec![Effect::Reply(reply)]
    }
}
