//! The error, unsubscribe and disconnect codes: number, text, and whether a retry can help.
//!
//! The numbers up to 113 and from 3000 on are the Centrifuge protocol's; 1000 to 1099 are Tidegate's own.
//! Applications have 400 to 999 and 1100 to 1999.

use std::borrow::Cow;

use super::{Error, Push, Reply, Unsubscribe};

/// An error that answers a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// The number in `error.code`.
    pub code: u32,
    /// The text in `error.message`.
    pub message: &'static str,
    /// Whether the SDK may retry by itself.
    pub temporary: bool,
}

impl ErrorCode {
    const fn new(code: u32, message: &'static str) -> Self {
        Self { code, message, temporary: false }
    }

    const fn temporary(code: u32, message: &'static str) -> Self {
        Self { code, message, temporary: true }
    }

    /// Returns the error as a protocol message.
    pub fn error(self) -> Error {
        Error { code: self.code, message: self.message.to_owned(), temporary: self.temporary }
    }

    /// Returns the error with a detail after the general text.
    pub fn because(self, detail: impl std::fmt::Display) -> Error {
        Error { message: format!("{}: {detail}", self.message), ..self.error() }
    }
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        code.error()
    }
}

/// Something failed inside the gateway.
pub const INTERNAL: ErrorCode = ErrorCode::temporary(100, "internal server error");
/// The channel's namespace is not declared.
pub const UNKNOWN_CHANNEL: ErrorCode = ErrorCode::new(102, "unknown channel");
/// The client lacks the permission.
pub const PERMISSION_DENIED: ErrorCode = ErrorCode::new(103, "permission denied");
/// No route takes this method.
pub const METHOD_NOT_FOUND: ErrorCode = ErrorCode::new(104, "method not found");
/// The connection has this subscription already.
pub const ALREADY_SUBSCRIBED: ErrorCode = ErrorCode::new(105, "already subscribed");
/// A configured limit is reached.
pub const LIMIT_EXCEEDED: ErrorCode = ErrorCode::new(106, "limit exceeded");
/// The command is invalid.
pub const BAD_REQUEST: ErrorCode = ErrorCode::new(107, "bad request");
/// The configuration does not enable the feature.
pub const NOT_AVAILABLE: ErrorCode = ErrorCode::new(108, "not available");
/// The token has expired; the SDK fetches a new one.
pub const TOKEN_EXPIRED: ErrorCode = ErrorCode::new(109, "token expired");
/// The position belongs to a replaced stream or to trimmed publications.
pub const UNRECOVERABLE: ErrorCode = ErrorCode::new(112, "unrecoverable position");
/// The broker refused the request or cannot be reached; nothing was stored.
pub const NOT_ACCEPTED: ErrorCode = ErrorCode::temporary(1000, "not accepted, try again");
/// The request is stored, and its answer did not arrive in time.
pub const STILL_WORKING: ErrorCode = ErrorCode::new(1001, "accepted, still working");
/// The broker did not acknowledge the request in time; it may be stored.
pub const OUTCOME_UNKNOWN: ErrorCode = ErrorCode::new(1002, "outcome unknown");
/// The idempotency key belongs to a request with another body.
pub const KEY_REUSED: ErrorCode = ErrorCode::new(1003, "key used with another body");
/// Every attempt failed; the request is kept as a dead letter.
pub const DEAD_LETTER: ErrorCode = ErrorCode::new(1004, "failed for good, kept as a dead letter");
/// The request was cancelled before it was answered.
pub const CANCELLED: ErrorCode = ErrorCode::new(1005, "cancelled");

/// All errors of this file, in numeric order.
pub const ERRORS: &[ErrorCode] = &[
    INTERNAL,
    UNKNOWN_CHANNEL,
    PERMISSION_DENIED,
    METHOD_NOT_FOUND,
    ALREADY_SUBSCRIBED,
    LIMIT_EXCEEDED,
    BAD_REQUEST,
    NOT_AVAILABLE,
    TOKEN_EXPIRED,
    UNRECOVERABLE,
    NOT_ACCEPTED,
    STILL_WORKING,
    OUTCOME_UNKNOWN,
    KEY_REUSED,
    DEAD_LETTER,
    CANCELLED,
];

/// A server-side end of one subscription, sent in an unsubscribe push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscription {
    /// The number in `unsubscribe.code`. From 2500 on SDKs subscribe again.
    pub code: u32,
    /// The text in `unsubscribe.reason`.
    pub reason: &'static str,
}

impl Unsubscription {
    /// Returns the push that ends the subscription of `channel`.
    pub fn push(self, channel: impl Into<String>) -> Reply {
        let unsubscribe = Some(Unsubscribe { code: self.code, reason: self.reason.to_owned() });
        let push = Push { channel: channel.into(), unsubscribe, ..Push::default() };
        Reply { push: Some(push), ..Reply::default() }
    }
}

/// A service ended the subscription.
pub const UNSUBSCRIBED_BY_SERVER: Unsubscription =
    Unsubscription { code: 2000, reason: "server unsubscribe" };
/// Publications were missed and could not be filled in. SDKs subscribe again from their position.
pub const UNSUBSCRIBED_INSUFFICIENT_STATE: Unsubscription =
    Unsubscription { code: 2500, reason: "insufficient state" };
/// The subscription token expired and the client brought no fresh one.
pub const UNSUBSCRIBED_EXPIRED: Unsubscription =
    Unsubscription { code: 2501, reason: "subscription expired" };

/// A service asks the client to bring a fresh token and to subscribe again from the channel's current position.
pub const UNSUBSCRIBED_STATE_INVALIDATED: Unsubscription =
    Unsubscription { code: 2502, reason: "state invalidated" };

/// All unsubscriptions of this file, in numeric order.
pub const UNSUBSCRIPTIONS: &[Unsubscription] = &[
    UNSUBSCRIBED_BY_SERVER,
    UNSUBSCRIBED_INSUFFICIENT_STATE,
    UNSUBSCRIBED_EXPIRED,
    UNSUBSCRIBED_STATE_INVALIDATED,
];

/// A server-side end of a connection: close code and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// The WebSocket close code.
    pub code: u16,
    /// The close reason: plain words of at most 32 bytes, because SDKs first try to parse it as JSON.
    pub reason: Cow<'static, str>,
}

impl Disconnect {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// Whether SDKs reconnect after it.
    pub fn reconnects(&self) -> bool {
        !matches!(self.code, 3500..=3999 | 4500..=4999)
    }
}

/// A frame breaks the WebSocket protocol (RFC 6455).
pub const PROTOCOL_ERROR: Disconnect = Disconnect::new(1002, "protocol error");
/// A text message or a close reason is no UTF-8 (RFC 6455).
pub const INVALID_UTF8: Disconnect = Disconnect::new(1007, "invalid UTF-8");
/// The client's message is longer than `gateway.limits.message`. The WebSocket standard's own code.
pub const MESSAGE_TOO_BIG: Disconnect = Disconnect::new(1009, "message too big");
/// The gateway is shutting down.
pub const SHUTDOWN: Disconnect = Disconnect::new(3001, "shutdown");
/// Something failed inside the gateway.
pub const SERVER_ERROR: Disconnect = Disconnect::new(3004, "internal server error");
/// The token expired and the client brought no fresh one.
pub const EXPIRED: Disconnect = Disconnect::new(3005, "connection expired");
/// The client reads more slowly than the gateway sends to it.
pub const SLOW: Disconnect = Disconnect::new(3008, "slow");
/// Missed publications of a server-side subscription cannot be filled in. The client reconnects and recovers.
pub const INSUFFICIENT_STATE: Disconnect = Disconnect::new(3010, "insufficient state");
/// A ping was not answered in time.
pub const NO_PONG: Disconnect = Disconnect::new(3012, "no pong");
/// The client sends faster than the broker stores, or than its rate allows.
pub const TOO_MANY_REQUESTS: Disconnect = Disconnect::new(3013, "too many requests");
/// The user has as many connections as it may have. SDKs come back: some of them may be dead, and end soon.
pub const CONNECTION_LIMIT: Disconnect = Disconnect::new(3013, "connection limit");
/// A service asks the client to bring a fresh token, because the claims of the current one are outdated.
pub const STATE_INVALIDATED: Disconnect = Disconnect::new(3014, "state invalidated");
/// No configured issuer has signed the token.
pub const INVALID_TOKEN: Disconnect = Disconnect::new(3500, "invalid token");
/// The client broke the protocol.
pub const BAD_PROTOCOL: Disconnect = Disconnect::new(3501, "bad request");
/// The client did not connect successfully in time.
pub const STALE: Disconnect = Disconnect::new(3502, "stale");
/// A service ended the connection.
pub const FORCE_DISCONNECT: Disconnect = Disconnect::new(3503, "force disconnect");
/// The server-side subscriptions exceed the limit of channels for one connection.
pub const CHANNEL_LIMIT: Disconnect = Disconnect::new(3505, "channel limit");
/// The connection is refused, on a transport that cannot carry an error reply.
pub const DENIED: Disconnect = Disconnect::new(3507, "permission denied");
/// No route takes `send`.
pub const SEND_NOT_AVAILABLE: Disconnect = Disconnect::new(3508, "not available");

/// All disconnects of this file, in numeric order.
pub const DISCONNECTS: &[Disconnect] = &[
    PROTOCOL_ERROR,
    INVALID_UTF8,
    MESSAGE_TOO_BIG,
    SHUTDOWN,
    SERVER_ERROR,
    EXPIRED,
    SLOW,
    INSUFFICIENT_STATE,
    NO_PONG,
    TOO_MANY_REQUESTS,
    STATE_INVALIDATED,
    INVALID_TOKEN,
    BAD_PROTOCOL,
    STALE,
    FORCE_DISCONNECT,
    CHANNEL_LIMIT,
    DENIED,
    SEND_NOT_AVAILABLE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_reasons_are_short_and_never_json() {
        for disconnect in DISCONNECTS {
            assert!(disconnect.reason.len() <= 32, "{disconnect:?}");
            assert!(serde_json::from_str::<serde_json::Value>(&disconnect.reason).is_err(), "{disconnect:?}");
        }
    }

    #[test]
    fn numbers_are_unique_and_sorted() {
        assert!(UNSUBSCRIPTIONS.is_sorted_by(|a, b| a.code < b.code));
        assert!(ERRORS.is_sorted_by(|a, b| a.code < b.code));
        assert!(DISCONNECTS.is_sorted_by(|a, b| a.code < b.code));
    }
}
