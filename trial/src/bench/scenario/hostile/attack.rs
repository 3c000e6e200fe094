//! Attackers: sockets that say nothing, that never come to an end, or that bring every file of bytes that is known to be bad.
//!
//! Each is a task of this process, which shares a core with the generators.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::generator::{Host, opening};

/// Sockets that are opened at a time.
const OPENING: usize = 256;
/// Clients that bring files, how long each waits for the answer, and then before the next file.
const BEARERS: usize = 8;
const ANSWER: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(2);
/// A byte of a head that does not end.
const DRIP: Duration = Duration::from_millis(500);
/// After a socket was refused.
const REFUSED: Duration = Duration::from_secs(1);
/// The time in which sockets that are to be held begin, one after the other: as the server ends each after the same time, they would
/// all come again at once.
const BEGIN: Duration = Duration::from_secs(10);
/// Client addresses: one has about 28,000 ports, and a closed connection keeps its own for a minute.
const ADDRESSES: usize = 100;

/// What attackers do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Silence { sockets: usize },
    Heads { sockets: usize },
    Frames,
}

/// Running attackers. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Attack {
    tasks: JoinSet<()>,
    counts: Arc<Counts>,
}

/// What they have done.
#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    refused: AtomicU64,
}

/// The same, at the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) begun: u64,
    pub(super) refused: u64,
}

/// A file, and what is written before it.
#[derive(Debug)]
struct File {
    before: Vec<Vec<u8>>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Attacker {
    number: usize,
    to: SocketAddr,
    /// How long it waits before its first socket.
    begins_after: Duration,
    opening: Arc<Semaphore>,
    counts: Arc<Counts>,
}

impl Attack {
    pub(super) fn start(kind: Kind, host: &Host) -> anyhow::Result<Self> {
        let (mut tasks, counts) = (JoinSet::new(), Arc::new(Counts::default()));
        let to = *host.addresses.first().context("a host without an address")?;
        let opening = Arc::new(Semaphore::new(OPENING));
        let attackers = |count: usize| {
            let (opening, counts) = (Arc::clone(&opening), Arc::clone(&counts));
            (0..count).map(move |number| Attacker {
                number,
                to,
                begins_after: BEGIN.mul_f64(ratio(number, count)),
                opening: Arc::clone(&opening),
                counts: Arc::clone(&counts),
            })
        };
        match kind {
            Kind::Silence { sockets } => {
                attackers(sockets).for_each(|one| drop(tasks.spawn(one.say_nothing())));
            }
            Kind::Heads { sockets } => attackers(sockets).for_each(|one| drop(tasks.spawn(one.never_end()))),
            Kind::Frames => {
                let files: Arc<[File]> = files(host)?.into();
                attackers(BEARERS).for_each(|one| drop(tasks.spawn(one.bring(Arc::clone(&files)))));
            }
        }
        Ok(Self { tasks, counts })
    }

    /// Ends all of them, with their sockets.
    pub(super) fn end(mut self) -> Done {
        self.tasks.abort_all();
        let Counts { begun, refused } = &*self.counts;
        Done { begun: begun.load(Ordering::Relaxed), refused: refused.load(Ordering::Relaxed) }
    }
}

impl Attacker {
    async fn connect(&self, turn: usize) -> std::io::Result<TcpStream> {
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        let _permit = self.opening.acquire().await;
        let socket = TcpSocket::new_v4()?;
        let last = u8::try_from(1 + (self.number + turn) % ADDRESSES).unwrap_or(1);
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 2, last), 0)))?;
        socket.connect(self.to).await
    }

    /// Waits until the server has ended the socket. Notes whether it said anything: then the socket was refused.
    async fn until_ended(&self, stream: &mut TcpStream) {
        let mut buffer = [0; 512];
        while let Ok(1..) = stream.read(&mut buffer).await {
            if buffer.starts_with(b"HTTP/1.1 503") {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                sleep(REFUSED).await;
            }
        }
    }

    async fn say_nothing(self) {
        sleep(self.begins_after).await;
        for turn in 0.. {
            match self.connect(turn).await {
                Ok(mut stream) => self.until_ended(&mut stream).await,
                Err(_) => sleep(REFUSED).await,
            }
        }
    }

    async fn never_end(self) {
        sleep(self.begins_after).await;
        for turn in 0.. {
            let Ok(mut stream) = self.connect(turn).await else {
                sleep(REFUSED).await;
                continue;
            };
            let head = b"GET /connection/websocket HTTP/1.1\r\nHost: gateway\r\nX-Endless: ";
            for byte in head.iter().chain(b"x".iter().cycle()) {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::select! {
                    () = sleep(DRIP) => {}
                    () = self.until_ended(&mut stream) => break,
                }
            }
        }
    }

    async fn bring(self, files: Arc<[File]>) {
        for (turn, file) in files.iter().cycle().skip(self.number * files.len() / BEARERS).enumerate() {
            // The server may end the socket before it has all.
            if let Ok(stream) = self.connect(turn).await {
                let _ = bring_one(stream, file).await;
            }
            sleep(PAUSE).await;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "thousands of sockets")]
fn ratio(number: usize, count: usize) -> f64 {
    number as f64 / count.max(1) as f64
}

/// Writes a file behind what belongs before it, and waits a moment for the answer.
async fn bring_one(mut stream: TcpStream, file: &File) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    stream.set_nodelay(true)?;
    for before in &file.before {
        stream.write_all(before).await?;
        // The answer to it.
        let _ = timeout(ANSWER * 10, stream.read(&mut buffer)).await;
    }
    stream.write_all(&file.bytes).await?;
    while let Ok(Ok(1..)) = timeout(ANSWER, stream.read(&mut buffer)).await {}
    Ok(())
}

/// Every file of the gateway's tests, with what its table says is to be sent before it.
fn files(host: &Host) -> anyhow::Result<Vec<File>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/tests/frames");
    let table = folder.join("outcomes.txt");
    let table = std::fs::read_to_string(&table).with_context(|| format!("reading {}", table.display()))?;
    let [upgrade, greeting] = opening(host)?;
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| {
        let mut cells = row.split(" | ");
        let (name, sent) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        let before = match sent {
            "request" => Vec::new(),
            "frames" => vec![upgrade.clone()],
            "connected" => vec![upgrade.clone(), greeting.clone()],
            other => anyhow::bail!("{name} is sent as {other}"),
        };
        let bytes =
            std::fs::read(folder.join(format!("{name}.bin"))).with_context(|| format!("reading {name}"))?;
        Ok(File { before, bytes })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Dialect;

    #[test]
    fn every_file_of_the_table_is_brought_behind_what_belongs_before_it() {
        let host = Host {
            dialect: Dialect::Centrifuge,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 8000))],
            path: "/connection/websocket".to_owned(),
            secret: Some("a secret of thirty-two characters".to_owned()),
        };
        let files = files(&host).unwrap();
        let behind = |count| files.iter().filter(|file| file.before.len() == count).count();
        assert!([0, 1, 2].map(behind).iter().all(|count| *count > 10), "{}", files.len());
        assert!(files.iter().all(|file| !file.bytes.is_empty()));
    }
}
