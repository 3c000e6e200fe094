//! The measured servers: how each is started, pinned to its core, and reached.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tidegate_cli::stack::Stack;
use tokio::process::Child;

use crate::{
    generator::{Host, Through},
    process::{self, Cores},
};

mod centrifugo;
mod nats;
mod node;
mod spawn;
mod tidegate;

/// A server that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// A loop over `send()`: the floor
    Raw,
    /// The NATS client alone, without a gateway
    BareNats,
    Tidegate,
    /// Tidegate on a broker that acknowledges before the disk does
    TidegateRelaxed,
    CentrifugoMemory,
    CentrifugoNats,
    Ws,
    SocketIo,
    NatsWebsocket,
    /// The server of --url
    #[value(skip)]
    Outside,
}

impl Peer {
    /// What the tables call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw `send()` loop",
            Self::BareNats => "bare NATS client",
            Self::Tidegate => "Tidegate",
            Self::TidegateRelaxed => "Tidegate, relaxed",
            Self::CentrifugoMemory => "Centrifugo, memory engine",
            Self::CentrifugoNats => "Centrifugo, NATS broker",
            Self::Ws => "npm `ws`",
            Self::SocketIo => "npm `socket.io`",
            Self::NatsWebsocket => "nats-server websocket",
            Self::Outside => "the server of `--url`",
        }
    }

    /// Whether others are compared with it.
    pub(crate) fn is_baseline(self) -> bool {
        matches!(self, Self::Raw | Self::BareNats)
    }

    /// Where something is that was acknowledged and is to be kept.
    pub(crate) fn kept(self) -> &'static str {
        match self {
            Self::Tidegate | Self::BareNats => "on the disk",
            Self::TidegateRelaxed => "in JetStream, on the disk later",
            Self::CentrifugoMemory => "in the memory of the server, gone with it",
            Self::SocketIo => "in the memory of the server, for its sessions, gone with it",
            Self::Raw | Self::CentrifugoNats | Self::Ws | Self::NatsWebsocket => "not kept",
            Self::Outside => "as it is configured",
        }
    }

    /// Whether it belongs to `make bench`; the others have to be fetched.
    pub(crate) fn is_own(self) -> bool {
        matches!(self, Self::Raw | Self::BareNats | Self::Tidegate | Self::TidegateRelaxed)
    }
}

/// What a scenario needs of a server.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    pub(crate) gateways: usize,
    pub(crate) workers: usize,
    /// The workers' program.
    pub(crate) worker: &'static str,
    /// What one client may leave unread.
    pub(crate) outbox: &'static str,
    /// The most connections of a gateway.
    pub(crate) connections: usize,
}

impl Default for Needs {
    fn default() -> Self {
        Self { gateways: 1, workers: 0, worker: "tidegate-worker", outbox: "1 MiB", connections: 19_500 }
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: Host,
    /// How a back end publishes.
    pub(crate) through: Through,
    /// The same past the server, over NATS, if there is such a way.
    pub(crate) nats: Option<Through>,
    pub(crate) pid: u32,
    pub(crate) broker: Option<u32>,
    pub(crate) stack: Option<Box<Stack>>,
    children: Vec<Child>,
    _dir: Option<TempDir>,
}

/// Where peers are fetched to.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) dir: PathBuf,
    pub(crate) cores: Cores,
    pub(crate) outside: Option<Outside>,
}

/// A server that runs already.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) url: String,
    pub(crate) pid: u32,
    pub(crate) secret: Option<String>,
}

/// A peer that cannot be had here, whatever the scenario.
#[derive(Debug)]
pub(crate) struct Absent(pub(crate) String);

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Absent {}

impl Server {
    /// Starts a peer. An error means that it cannot be had here, or does not start.
    pub(crate) async fn start(peer: Peer, needs: &Needs, tools: &Tools) -> anyhow::Result<Self> {
        let server = match peer {
            Peer::Raw => spawn::raw().await?,
            Peer::Tidegate | Peer::TidegateRelaxed => Box::pin(tidegate::start(peer, needs)).await?,
            Peer::CentrifugoMemory => centrifugo::start(None, tools).await?,
            Peer::CentrifugoNats => {
                let broker = nats::start(false).await?;
                centrifugo::start(Some(broker), tools).await?
            }
            Peer::Ws | Peer::SocketIo => node::start(peer, tools).await?,
            Peer::NatsWebsocket => nats::websocket().await?,
            Peer::Outside => spawn::outside(tools.outside.as_ref())?,
            Peer::BareNats => anyhow::bail!("the bare NATS client is no server"),
        };
        process::pin(server.pid, tools.cores.server)?;
        for pid in server.others() {
            process::pin(pid, tools.cores.others)?;
        }
        Ok(server)
    }

    /// The processes beside the measured one.
    fn others(&self) -> Vec<u32> {
        let stack = self.stack.iter().flat_map(|stack| stack.status()).filter_map(|process| process.pid);
        let stack = stack.filter_map(|pid| u32::try_from(pid).ok());
        stack.chain(self.broker).filter(|pid| *pid != self.pid).collect()
    }

    /// Every process that takes part.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.others().into_iter().chain([self.pid]).collect()
    }

    pub(crate) async fn end(mut self) {
        if let Some(stack) = self.stack.take() {
            stack.down().await;
        }
        for child in &mut self.children {
            // One that has ended cannot be killed.
            let _ = child.kill().await;
        }
    }
}
