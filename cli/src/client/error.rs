//! The errors of a client, separated by what the caller can do next.

use tidegate_shared::protocol::{self, codes::Disconnect};

/// A connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connection closed: {code} {reason}")]
pub struct Closed {
    /// The server's close code, or one of the codes below 3000 that stand for a broken transport.
    pub code: u16,
    /// The close reason.
    pub reason: String,
}

impl Closed {
    /// The transport ended without a close frame.
    pub(crate) fn lost(why: impl std::fmt::Display) -> Self {
        Self { code: 1006, reason: why.to_string() }
    }

    /// The client closed the connection.
    pub(crate) fn by_caller() -> Self {
        Self { code: 1000, reason: "closed by the caller".to_owned() }
    }

    /// The server sent a malformed reply.
    pub(crate) fn malformed(why: impl std::fmt::Display) -> Self {
        Self { code: 1002, reason: format!("malformed reply: {why}") }
    }

    /// Whether a reconnect can succeed.
    pub fn reconnects(&self) -> bool {
        Disconnect { code: self.code, reason: "".into() }.reconnects()
    }
}

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The gateway, or a worker behind it, answered with an error.
    #[error("{code} {message}")]
    Server {
        /// The error code.
        code: u32,
        /// The close reason.
        message: String,
        /// Whether the same call may succeed later.
        temporary: bool,
    },
    /// The connection ended first: whether the command was carried out is unknown.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// No reply came in time: whether the command was carried out is unknown.
    #[error("no reply in time")]
    Timeout,
    /// The payload cannot be carried by this connection's encoding; nothing was sent.
    #[error("{0}")]
    Payload(String),
}

impl CallError {
    /// The server's error code.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Server { code, .. } => Some(*code),
            Self::Closed(_) | Self::Timeout | Self::Payload(_) => None,
        }
    }

    /// Whether a handler gave this error, rather than the gateway.
    pub fn is_applications(&self) -> bool {
        matches!(self.code(), Some(400..=999 | 1100..=1999))
    }
}

impl From<protocol::Error> for CallError {
    fn from(error: protocol::Error) -> Self {
        Self::Server { code: error.code, message: error.message, temporary: error.temporary }
    }
}

/// Why a connection attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address is invalid.
    #[error("cannot connect to {url}: {reason}")]
    Address {
        /// The address.
        url: String,
        /// The reason.
        reason: String,
    },
    /// No server answers at the address.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// The error of the system.
        reason: String,
    },
    /// A server answers, but with something else than a WebSocket handshake.
    #[error("{url} does not answer as a WebSocket: {reason}")]
    NoWebSocket {
        /// The address.
        url: String,
        /// The error of the protocol.
        reason: String,
    },
    /// The handshake was refused.
    #[error("{url} refused the handshake with HTTP status {status}")]
    Http {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// The connect command failed.
    #[error(transparent)]
    Refused(#[from] CallError),
}

impl ConnectError {
    /// Whether a retry can succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Address { .. } | Self::Refused(CallError::Payload(_)) => false,
            // A gateway that is killed during the handshake does not finish it.
            Self::Unreachable { .. } | Self::NoWebSocket { .. } | Self::Refused(CallError::Timeout) => true,
            Self::Http { status, .. } => *status >= 500 || *status == 429,
            Self::Refused(CallError::Server { temporary, .. }) => *temporary,
            Self::Refused(CallError::Closed(closed)) => closed.reconnects(),
        }
    }
}
