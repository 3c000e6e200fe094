//! Starts the processes of peers, and waits until they listen.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{Outside, Server};
use crate::generator::{Dialect, Host, Through, raw};

/// How long a peer may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Returns an address that was free just now.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// Starts a process that ends with this one, and logs to a file.
pub(super) fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
    let file = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
    command.spawn().with_context(|| format!("starting {program}"))
}

/// Waits until a process listens.
pub(super) async fn listening(child: &mut Child, address: SocketAddr, log: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(address).await.is_err() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        if let Some(status) = child.try_wait()? {
            bail!("it has ended ({status}): {}", said());
        }
        ensure!(Instant::now() < deadline, "it does not listen on {address}: {}", said());
        sleep(LOOK).await;
    }
    Ok(())
}

/// The id of a process that runs.
pub(super) fn id(child: &Child) -> anyhow::Result<u32> {
    child.id().context("it has ended")
}

/// The server that runs already.
pub(super) fn outside(outside: Option<&Outside>) -> anyhow::Result<Server> {
    let Outside { url, pid, secret } = outside.context("no --url")?;
    let rest = url.strip_prefix("ws://").context("--url begins with ws://")?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = Host {
        dialect: Dialect::Centrifuge,
        addresses: vec![address.parse().with_context(|| format!("{address} is no address with a port"))?],
        path: format!("/{path}"),
        secret: secret.clone(),
    };
    Ok(Server {
        host,
        through: Through::Client,
        nats: None,
        pid: *pid,
        broker: None,
        stack: None,
        children: Vec::new(),
        _dir: None,
    })
}

/// Starts the raw loop, which is this program.
pub(super) async fn raw() -> anyhow::Result<Server> {
    let this = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(this).arg("raw").stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let line = timeout(START_LIMIT, lines.next_line()).await??.context("the raw loop says nothing")?;
    let address = raw::address(&line)?;
    let host =
        Host { dialect: Dialect::Centrifuge, addresses: vec![address], path: "/".to_owned(), secret: None };
    let pid = id(&child)?;
    Ok(Server {
        host,
        through: Through::Client,
        nats: None,
        pid,
        broker: None,
        stack: None,
        children: vec![child],
        _dir: None,
    })
}
