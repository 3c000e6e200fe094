//! nats-server: as the broker of a peer, and as a peer with its own websocket.

use std::{fmt::Write, net::SocketAddr};

use anyhow::Context;
use tempfile::TempDir;
use tidegate_cli::stack::server;
use tokio::{
    process::{Child, Command},
    task::spawn_blocking,
};

use super::{
    Server,
    spawn::{free_address, id, listening, spawn},
};
use crate::generator::{Dialect, Host, Through};

/// A running nats-server.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) child: Child,
    pub(super) address: SocketAddr,
    websocket: Option<SocketAddr>,
    dir: TempDir,
}

/// Starts one, for core NATS alone.
pub(super) async fn start(with_websocket: bool) -> anyhow::Result<Broker> {
    let program = spawn_blocking(|| server::find(None)).await??;
    let dir = tempfile::Builder::new().prefix("trial-nats-").tempdir()?;
    let address = free_address()?;
    let websocket = if with_websocket { Some(free_address()?) } else { None };
    let mut text = format!("listen: \"{address}\"\nmax_connections: 65536\nping_interval: \"25s\"\n");
    if let Some(websocket) = websocket {
        writeln!(text, "websocket {{ listen: \"{websocket}\", no_tls: true }}")?;
    }
    let (file, log) = (dir.path().join("nats.conf"), dir.path().join("log"));
    std::fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("--config").arg(&file).env("GOMAXPROCS", "1");
    let mut child = spawn(&mut command, &log)?;
    listening(&mut child, websocket.unwrap_or(address), &log).await?;
    Ok(Broker { child, address, websocket, dir })
}

/// Starts one as a peer.
pub(super) async fn websocket() -> anyhow::Result<Server> {
    let broker = start(true).await?;
    let address = broker.websocket.context("no websocket")?;
    let host = Host { dialect: Dialect::Nats, addresses: vec![address], path: "/".to_owned(), secret: None };
    let pid = id(&broker.child)?;
    let Broker { child, dir, .. } = broker;
    Ok(Server {
        host,
        through: Through::Client,
        nats: None,
        pid,
        broker: None,
        stack: None,
        children: vec![child],
        _dir: Some(dir),
    })
}
