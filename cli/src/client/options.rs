//! How a client connects.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tidegate_shared::protocol::{Encoding, SubscribeRequest};

/// The settings of one connection.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway's address, `ws://host:port/connection/websocket`, or `wss://` with TLS.
    pub url: String,
    /// The connection token. `None` connects anonymously.
    pub token: Option<String>,
    /// How messages are encoded.
    pub encoding: Encoding,
    /// How long a command waits for its reply.
    pub timeout: Duration,
    /// The capacity of the event queue.
    pub events: usize,
    /// The positions from which server-side subscriptions are resumed, by channel.
    pub subs: BTreeMap<String, SubscribeRequest>,
    /// The `Origin` a browser would send.
    pub origin: Option<String>,
    /// A file with the certificates to trust with `wss://` (PEM). `None` trusts those of this machine.
    pub ca: Option<PathBuf>,
}

impl Options {
    /// JSON, no token, and the 5 seconds that the protocol's other clients wait for a reply.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            encoding: Encoding::Json,
            timeout: Duration::from_secs(5),
            events: 256,
            subs: BTreeMap::new(),
            origin: None,
            ca: None,
        }
    }

    /// Connects with this token.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// Uses this encoding.
    #[must_use]
    pub fn encoding(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }
}
