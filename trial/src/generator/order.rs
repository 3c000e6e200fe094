//! What a generator process is told to do, one order a line, and what it answers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{dialect::Dialect, tally::Tally};

/// A server of a protocol over WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) dialect: Dialect,
    /// All clients begin at the first, and come back at the next one.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) path: String,
    /// Signs the tokens of the clients (HS256).
    pub(crate) secret: Option<String>,
}

/// Who publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Through {
    /// A connection of its own, by the server's protocol.
    Client,
    /// The server API, over so many connections.
    Http { address: SocketAddr, key: String, connections: usize },
    /// NATS, on this subject before the channel's token.
    Nats { address: SocketAddr, user: String, password: String, subject: String },
}

/// The channels of clients: `bench:` is the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Channels {
    /// What the names begin with, up to the number.
    pub(crate) prefix: String,
    /// How many there are; client `n` is in channel `n % count`, or in `each` of them from `n * each` on. None: no channel.
    pub(crate) count: usize,
    pub(crate) each: usize,
    /// Whether clients come back where they left.
    pub(crate) recover: bool,
}

impl Channels {
    /// The number of the first channel of a client. Pure.
    pub(crate) fn first_of(&self, client: usize) -> usize {
        client.saturating_mul(self.each.max(1)) % self.count.max(1)
    }

    pub(crate) fn name(&self, number: usize) -> String {
        format!("{}{number}", self.prefix)
    }
}

/// How fast requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// So many unanswered at a time, of each client; or undelivered publications.
    Window(usize),
    /// So many a second in all.
    Rate(u32),
}

/// What clients ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verb {
    /// A publication in the client's own channel.
    Publish,
    Rpc(String),
}

/// How clients lose their connections during an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cuts {
    /// Each connection lives about this long, and the client is offline for that long.
    pub(crate) every_ms: u64,
    pub(crate) offline_ms: u64,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// From now on the processor time of these processes is part of the answers.
    Watch {
        pids: Vec<u32>,
    },
    /// Connects clients and keeps them.
    Connect {
        host: Host,
        first: usize,
        count: usize,
        at_once: usize,
        channels: Channels,
    },
    /// Ends every connection; clients remember where they were.
    Leave,
    /// Forgets all clients, whose connections have ended.
    Forget,
    /// Connects those that are offline.
    Return {
        at_once: usize,
    },
    /// Clients ask, each its own.
    Ask {
        verb: Verb,
        pace: Pace,
        size: usize,
        warm_ms: u64,
        for_ms: u64,
    },
    /// Somebody publishes to all channels in turn; each publication is to reach `fan` clients.
    Publish {
        through: Through,
        channels: Channels,
        fan: usize,
        pace: Pace,
        size: usize,
        warm_ms: u64,
        for_ms: u64,
        /// Ends earlier after so many publications; 0 is no limit.
        most: usize,
        cuts: Option<Cuts>,
    },
    /// The last of the clients reads so many bytes a second from now on.
    Slow {
        bytes_per_second: u64,
    },
    /// From now on clients whose connection ends come back by themselves, as the SDKs do.
    ComeBack,
    /// Nothing; the tally of what came since the last order.
    Look,
    End,
}

/// The answer to an order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done(Box<Tally>),
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_the_channels() {
        let channels = Channels { prefix: "bench:c".to_owned(), count: 50, each: 1, recover: false };
        assert_eq!([0, 49, 50, 51].map(|client| channels.first_of(client)), [0, 49, 0, 1]);
        let own = Channels { count: 100, each: 10, ..channels };
        assert_eq!([0, 1, 9].map(|client| own.first_of(client)), [0, 10, 90]);
        assert_eq!(own.name(7), "bench:c7");
    }
}
