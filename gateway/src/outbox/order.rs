//! Orders from services to connections: the data, and which of them end a connection at once. Pure.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_shared::protocol::{
    codes::{self, Disconnect},
    json,
};

/// An order for the connections of a user, narrowed by the other fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Order {
    pub(crate) user: String,
    pub(crate) client: String,
    /// The session of a client that posts its commands.
    pub(crate) session: String,
    /// Client ids that are excluded.
    pub(crate) whitelist: Vec<String>,
    pub(crate) action: Action,
}

/// What an order does to a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Ends the connection.
    Disconnect { code: u16, reason: String },
    /// Adds a server-side subscription.
    Subscribe {
        channel: String,
        /// The connection's info in this channel.
        #[serde(default, with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
        info: Bytes,
        /// Data for the client about the subscription.
        #[serde(default, with = "json::raw", skip_serializing_if = "Bytes::is_empty")]
        data: Bytes,
    },
    /// Ends a subscription.
    Unsubscribe { channel: String, code: u32, reason: String },
    /// Changes the connection's validity or info.
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
    /// The disconnect, if the order ends every connection that receives it.
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
