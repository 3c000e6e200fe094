//! Orders of services for connections: the data, and which of them end a connection at once. Pure.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_shared::protocol::{
    codes::{self, Disconnect},
    json,
};

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
            Action::Disconnect { code, reason } if self.session.is_empty() => {
                Some(disconnect_of(*code, reason))
            }
            Action::Disconnect { .. }
            | Action::Subscribe { .. }
            | Action::Unsubscribe { .. }
            | Action::Refresh { .. } => None,
        }
    }
}

/// The disconnect with this code and reason: the catalogue's entry if it has one.
pub(crate) fn disconnect_of(code: u16, reason: &str) -> Disconnect {
    let known = codes::DISCONNECTS.iter().find(|known| known.code == code && known.reason == reason);
    known.cloned().unwrap_or_else(|| Disconnect { code, reason: reason.to_owned().into() })
}
