//! The public description of a stack's processes: kinds, phases, addresses.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// The kind of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The broker, of which there is one.
    Nats,
    /// A gateway.
    Gateway,
    /// A worker.
    Worker,
    /// The purger, of which there is one.
    Purger,
}

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessPhase {
    /// Started, not ready yet.
    Starting,
    /// Ready for work.
    Ready,
    /// Crashed; waits for its restart.
    Waiting,
    /// Stopped on request.
    Stopped,
}

/// The addresses of one gateway.
#[derive(Debug, Clone)]
pub struct GatewayAddress {
    /// The name of the process.
    pub name: String,
    /// The WebSocket URL for clients.
    pub websocket: String,
    /// The address for clients.
    pub public: SocketAddr,
    /// The address of health and metrics.
    pub internal: SocketAddr,
}

/// One line of `tidegate status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The name of the process.
    pub name: String,
    /// The kind.
    pub kind: Kind,
    /// The state.
    pub phase: ProcessPhase,
    /// Its process id, while it runs.
    pub pid: Option<i32>,
    /// The number of restarts.
    pub restarts: u32,
    /// The time since its last start, in milliseconds.
    pub uptime_ms: u64,
    /// The address it listens on.
    pub address: String,
    /// The URL of health and metrics, and of a gateway's server API.
    pub internal: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats",
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Purger => "purger",
        })
    }
}
