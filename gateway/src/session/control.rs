//! What services order: to end a connection, to begin or end a subscription, to
//! change how long a connection may last.

use tidegate_shared::{
    channel::Channel,
    protocol::{
        Unsubscribe,
        codes::{self, Disconnect},
        json,
    },
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Effects, Now, Phase, Session};

/// Something ordered of some connections. They are those of the user, narrowed by whatever else is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Order {
    pub(crate) user: String,
    pub(crate) client: String,
    /// The name a client has whose commands are posted.
    pub(crate) session: String,
    /// Connections to leave alone.
    pub(crate) whitelist: Vec<String>,
    pub(crate) action: Action,
}

/// What is to happen to a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// It ends.
    Disconnect { code: u16, reason: String },
    /// It gets a channel.
    Subscribe {
        channel: String,
        /// What is said about the connection in this channel.
        #[serde(default, with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
        info: Bytes,
        /// What the client is told about the subscription.
        #[serde(default, with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
        data: Bytes,
    },
    /// One of its subscriptions ends.
    Unsubscribe { channel: String, code: u32, reason: String },
    /// Its time, or what is said about it, is another.
    Refresh {
        /// When it ends, in seconds since 1970.
        expire_at: Option<u64>,
        #[serde(default, with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
        info: Bytes,
    },
}

impl Default for Action {
    fn default() -> Self {
        Self::Refresh { expire_at: None, info: Bytes::new() }
    }
}

impl Order {
    /// How it ends whatever connection gets it, if it does and no connection has to be asked first.
    pub(crate) fn ends_at_once(&self) -> Option<Disconnect> {
        match &self.action {
            Action::Disconnect { code, reason } if self.session.is_empty() => Some(end(*code, reason)),
            Action::Disconnect { .. }
            | Action::Subscribe { .. }
            | Action::Unsubscribe { .. }
            | Action::Refresh { .. } => None,
        }
    }
}

impl Session {
    /// A service has ordered something of this connection.
    pub(crate) fn ordered(&mut self, order: &Order, now: Now) -> Effects {
        match &order.action {
            Action::Disconnect { code, reason } => self.close(end(*code, reason)),
            Action::Subscribe { channel, info, data } => Channel::parse(channel)
                .map_or_else(|_| Vec::new(), |channel| self.place(channel, info.clone(), data.clone())),
            Action::Unsubscribe { channel, code, reason } => {
                let why = Unsubscribe { code: *code, reason: reason.clone() };
                Channel::parse(channel).map_or_else(|_| Vec::new(), |channel| self.displace(&channel, why))
            }
            Action::Refresh { expire_at, info } => self.refreshed(*expire_at, info, now),
        }
    }

    fn refreshed(&mut self, expire_at: Option<u64>, info: &Bytes, now: Now) -> Effects {
        let lease = self.lease(expire_at, self.keeper_after_token(), now);
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        if expire_at.is_some() {
            connected.lease = lease;
        }
        if !info.is_empty() {
            connected.info = info.clone();
        }
        Vec::new()
    }
}

fn end(code: u16, reason: &str) -> Disconnect {
    let known = codes::DISCONNECTS.iter().find(|known| known.code == code && known.reason == reason);
    known.cloned().unwrap_or_else(|| Disconnect { code, reason: reason.to_owned().into() })
}
