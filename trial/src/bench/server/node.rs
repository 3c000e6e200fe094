//! Servers over the libraries `ws` and `socket.io`: small scripts in `trial/peers`, which this program carries.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use tokio::process::Command;

use super::{
    Absent, Peer, Server, Tools,
    spawn::{free_address, id, listening, spawn},
};
use crate::generator::{Dialect, Host, Through};

const SECRET: &str = "a secret of the trial that everybody may know";
const PACKAGE: &str = include_str!("../../../peers/package.json");
const LOCK: &str = include_str!("../../../peers/package-lock.json");
const WS: &str = include_str!("../../../peers/ws.mjs");
const SOCKET_IO: &str = include_str!("../../../peers/socket-io.mjs");

pub(super) async fn start(peer: Peer, tools: &Tools) -> anyhow::Result<Server> {
    let dir = installed(&tools.dir).await?;
    let (script, dialect, path) = match peer {
        Peer::SocketIo => ("socket-io.mjs", Dialect::SocketIo, "/socket.io/?EIO=4&transport=websocket"),
        _ => ("ws.mjs", Dialect::Centrifuge, "/"),
    };
    let address = free_address()?;
    let logs = tempfile::Builder::new().prefix("trial-node-").tempdir()?;
    let log = logs.path().join("log");
    let mut command = Command::new("node");
    command.arg(dir.join(script)).env("PORT", address.port().to_string()).env("SECRET", SECRET);
    let mut child = spawn(&mut command, &log)?;
    listening(&mut child, address, &log).await?;
    let pid = id(&child)?;
    Ok(Server {
        host: Host {
            dialect,
            addresses: vec![address],
            path: path.to_owned(),
            secret: Some(SECRET.to_owned()),
        },
        through: Through::Client,
        nats: None,
        pid,
        broker: None,
        stack: None,
        children: vec![child],
        _dir: Some(logs),
    })
}

/// Writes the scripts and fetches their libraries, once, at the versions of the lock file.
async fn installed(tools: &Path) -> anyhow::Result<PathBuf> {
    let dir = std::path::absolute(tools.join("node"))?;
    std::fs::create_dir_all(&dir)?;
    for (name, text) in
        [("package.json", PACKAGE), ("package-lock.json", LOCK), ("ws.mjs", WS), ("socket-io.mjs", SOCKET_IO)]
    {
        std::fs::write(dir.join(name), text)?;
    }
    if !dir.join("node_modules").is_dir() {
        let npm = Command::new("npm").args(["ci", "--ignore-scripts", "--silent"]).current_dir(&dir).status();
        let fetched = npm.await.is_ok_and(|status| status.success());
        ensure!(fetched, Absent("npm cannot fetch its library".to_owned()));
    }
    Ok(dir)
}
