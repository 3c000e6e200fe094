//! Every error, unsubscribe and disconnect code a client can see: number, text, and whether trying again can help.
//!
//! The numbers up to 113 and from 3000 on are the Centrifuge protocol's; 1000 to 1099 are Tidegate's own.
//! Applications have 400 to 999 and 1100 to 1999.

use std::borrow::Cow;

use super::{Error, Push, Reply, Unsubscribe};

/// An error a command can be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// The number in `error.code`.
    pub code: u32,
    /// The text in `error.message`.
    pub message: &'static str,
    /// Whether the SDK may try again by itself.
    pub temporary: bool,
}

impl ErrorCode {
    const fn new(code: u32, message: &'static str) -> Self {
        Self { code, message, temporary: false }
    }

    const fn temporary(code: u32, message: &'static str) -> Self {
        Self { code, message, temporary: true }
    }

    /// The error as it goes on the wire.
    pub fn error(self) -> Error {
        Error { code: self.code, message: self.message.to_owned(), temporary: self.temporary }
    }

    /// The error with what exactly is wrong behind the general text.
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
/// This client may not do this.
pub const PERMISSION_DENIED: ErrorCode = ErrorCode::new(103, "permission denied");
/// No route takes this method.
pub const METHOD_NOT_FOUND: ErrorCode = ErrorCode::new(104, "method not found");
/// The connection has this subscription already.
pub const ALREADY_SUBSCRIBED: ErrorCode = ErrorCode::new(105, "already subscribed");
/// A limit of the configuration is reached.
pub const LIMIT_EXCEEDED: ErrorCode = ErrorCode::new(106, "limit exceeded");
/// The command makes no sense as it stands.
pub const BAD_REQUEST: ErrorCode = ErrorCode::new(107, "bad request");
/// The feature is not switched on here.
pub const NOT_AVAILABLE: ErrorCode = ErrorCode::new(108, "not available");
/// The token has expired; the SDK fetches a new one.
pub const TOKEN_EXPIRED: ErrorCode = ErrorCode::new(109, "token expired");
/// The position belongs to a stream that is not there any more, or to what has been trimmed.
pub const UNRECOVERABLE: ErrorCode = ErrorCode::new(112, "unrecoverable position");
/// The broker refused the request or cannot be reached; nothing was stored.
pub const NOT_ACCEPTED: ErrorCode = ErrorCode::temporary(1000, "not accepted, try again");
/// The request is stored, its answer did not come in time.
pub const STILL_WORKING: ErrorCode = ErrorCode::new(1001, "accepted, still working");
/// The broker did not say in time whether it stored the request.
pub const OUTCOME_UNKNOWN: ErrorCode = ErrorCode::new(1002, "outcome unknown");
/// The idempotency key belongs to a request with another body.
pub const KEY_REUSED: ErrorCode = ErrorCode::new(1003, "key used with another body");
/// Every attempt failed; the request is kept as a dead letter.
pub const DEAD_LETTER: ErrorCode = ErrorCode::new(1004, "failed for good, kept as a dead letter");

/// Every error of this file, in the order of the numbers.
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
];

/// A way for the server to end one subscription, in an unsubscribe push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscription {
    /// The number in `unsubscribe.code`. From 2500 on SDKs subscribe again.
    pub code: u32,
    /// The text in `unsubscribe.reason`.
    pub reason: &'static str,
}

impl Unsubscription {
    /// The push that tells it.
    pub fn push(self, channel: impl Into<String>) -> Reply {
        let unsubscribe = Some(Unsubscribe { code: self.code, reason: self.reason.to_owned() });
        let push = Push { channel: channel.into(), unsubscribe, ..Push::default() };
        Reply { push: Some(push), ..Reply::default() }
    }
}

/// A service ended the subscription.
pub const UNSUBSCRIBED_BY_SERVER: Unsubscription =
    Unsubscription { code: 2000, reason: "server unsubscribe" };
/// The code and reason of an unsubscribe push after which SDKs subscribe again from their position: publications were
/// missed and could not be filled in.
pub const UNSUBSCRIBED_INSUFFICIENT_STATE: Unsubscription =
    Unsubscription { code: 2500, reason: "insufficient state" };
/// The subscription token's time is over and no fresh one came.
pub const UNSUBSCRIBED_EXPIRED: Unsubscription =
    Unsubscription { code: 2501, reason: "subscription expired" };

/// A service wants the client to bring a fresh token, and to start anew from where the channel is.
pub const UNSUBSCRIBED_STATE_INVALIDATED: Unsubscription =
    Unsubscription { code: 2502, reason: "state invalidated" };

/// Every unsubscription of this file, in the order of the numbers.
pub const UNSUBSCRIPTIONS: &[Unsubscription] = &[
    UNSUBSCRIBED_BY_SERVER,
    UNSUBSCRIBED_INSUFFICIENT_STATE,
    UNSUBSCRIBED_EXPIRED,
    UNSUBSCRIBED_STATE_INVALIDATED,
];

/// A way for the server to end a connection: the close code and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// The WebSocket close code.
    pub code: u16,
    /// The close reason. Plain words of at most 32 bytes: SDKs try to read it as JSON first.
    pub reason: Cow<'static, str>,
}

impl Disconnect {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// Whether SDKs connect again after it.
    pub fn reconnects(&self) -> bool {
        !matches!(self.code, 3500..=3999 | 4500..=4999)
    }
}

/// The client's message is longer than `gateway.limits.message`. The WebSocket standard's own code.
pub const MESSAGE_TOO_BIG: Disconnect = Disconnect::new(1009, "message too big");
/// The gateway is shutting down.
pub const SHUTDOWN: Disconnect = Disconnect::new(3001, "shutdown");
/// Something failed inside the gateway.
pub const SERVER_ERROR: Disconnect = Disconnect::new(3004, "internal server error");
/// The token's time is over and no fresh one came.
pub const EXPIRED: Disconnect = Disconnect::new(3005, "connection expired");
/// The client reads too slowly for what it is sent.
pub const SLOW: Disconnect = Disconnect::new(3008, "slow");
/// Publications of a channel the server subscribed this client to were missed and cannot be filled in: the client resumes.
pub const INSUFFICIENT_STATE: Disconnect = Disconnect::new(3010, "insufficient state");
/// A ping was not answered in time.
pub const NO_PONG: Disconnect = Disconnect::new(3012, "no pong");
/// The client sends faster than its messages can be stored.
pub const TOO_MANY_REQUESTS: Disconnect = Disconnect::new(3013, "too many requests");
/// A service wants the client to bring a fresh token: what the one it has says is not true any more.
pub const STATE_INVALIDATED: Disconnect = Disconnect::new(3014, "state invalidated");
/// The token is not one of ours.
pub const INVALID_TOKEN: Disconnect = Disconnect::new(3500, "invalid token");
/// The client broke the protocol.
pub const BAD_PROTOCOL: Disconnect = Disconnect::new(3501, "bad request");
/// No successful connect command came in time.
pub const STALE: Disconnect = Disconnect::new(3502, "stale");
/// A service ended the connection.
pub const FORCE_DISCONNECT: Disconnect = Disconnect::new(3503, "force disconnect");
/// The server would have to subscribe the client to more channels than one connection may have.
pub const CHANNEL_LIMIT: Disconnect = Disconnect::new(3505, "channel limit");
/// A payload cannot be carried by this connection's encoding.
pub const INAPPROPRIATE: Disconnect = Disconnect::new(3506, "inappropriate protocol");
/// A client that cannot be told of errors may not connect.
pub const DENIED: Disconnect = Disconnect::new(3507, "permission denied");
/// No route takes `send`.
pub const SEND_NOT_AVAILABLE: Disconnect = Disconnect::new(3508, "not available");

/// Every disconnect of this file, in the order of the numbers.
pub const DISCONNECTS: &[Disconnect] = &[
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
    INAPPROPRIATE,
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
