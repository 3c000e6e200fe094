//! The public description of a stack's processes: kinds, phases, addresses.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The broker, of which there is one.
    Nats,
    /// A gateway.
    Gateway,
    /// A worker.
    Worker,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessPhase {
    /// It was started and is not ready yet.
    Starting,
    /// It works.
    Ready,
    /// It crashed and will be started again.
    Waiting,
    /// It is down because somebody asked for it.
    Stopped,
}

/// Where one gateway is.
#[derive(Debug, Clone)]
pub struct GatewayAddress {
    /// The process' name.
    pub name: String,
    /// Where clients connect, as they write it.
    pub websocket: String,
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where health and metrics are.
    pub internal: SocketAddr,
}

/// One line of `tidegate status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The process' name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What it is doing.
    pub phase: ProcessPhase,
    /// Its process id, while it runs.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// For how long it has been running.
    pub uptime_ms: u64,
    /// Where it listens.
    pub address: String,
    /// Where its health and metrics are, and a gateway's server API.
    pub internal: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats",
            Self::Gateway => "gateway",
            Self::Worker => "worker",
        })
    }
}
