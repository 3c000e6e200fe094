//! Scenarios `idle` and `connect`: many connections that do nothing, and many that come at once.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Measured, Scale, What,
    stand::{AT_ONCE, Field, Stand, float, per_core_second, per_second, size},
};
use crate::{
    bench::{
        results::Figure,
        server::{Needs, Peer},
    },
    generator::{Channels, Order},
    process::{self, Memory},
};

/// Memory has settled when it stays within this range over some readings, this far apart: the allocator gives memory back with
/// a delay of its own.
const STEADY_KIB: u64 = 64;
const READINGS: usize = 6;
const PAUSE: Duration = Duration::from_millis(500);
/// Memory that does not settle in this time is read as it is.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// The interval of pings of all sides but NATS, which has the same.
const PING: Duration = Duration::from_secs(25);

/// A crowd.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    clients: usize,
    idle: Option<Duration>,
}

/// The sides that hold connections.
const HOLDERS: [Peer; 6] = [
    Peer::Tidegate,
    Peer::CentrifugoMemory,
    Peer::CentrifugoNats,
    Peer::Ws,
    Peer::SocketIo,
    Peer::NatsWebsocket,
];

pub(super) fn idle(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let (clients, wait) = (scale.clients(10_000), Duration::from_millis(scale.period(25_000)));
    let many = scale.clients(19_000);
    vec![
        (
            format!(
                "{clients} connections with a token and a personal channel, pings every {} s",
                PING.as_secs()
            ),
            HOLDERS.to_vec(),
            What::Crowd(Crowd { clients, idle: Some(wait) }),
        ),
        (
            format!("{many} connections"),
            vec![Peer::Tidegate],
            What::Crowd(Crowd { clients: many, idle: Some(wait) }),
        ),
    ]
}

pub(super) fn connect(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let clients = scale.clients(5000);
    let name = format!("{clients} connects with a token (HS256), {AT_ONCE} at a time");
    let peers = [&[Peer::Raw], &HOLDERS[..]].concat();
    vec![(name, peers, What::Crowd(Crowd { clients, idle: None }))]
}

impl Crowd {
    pub(super) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        let mut stand = Stand::start(peer, &Needs::default(), self.clients, field).await?;
        let pid = stand.server.pid;
        let Some(wait) = self.idle else {
            let mut tally = stand.connect(self.clients, AT_ONCE, &Channels::default()).await?;
            let times = tally.joins.times();
            let mut figures = vec![Figure::higher("connects/s", per_second(tally.joins.count(), &tally))];
            let each = per_core_second(tally.joins.count(), &tally);
            figures.extend(each.map(|each| Figure::higher("connects per core-second", each)));
            figures.push(Figure::lower("p99 ms", times.p99));
            figures.push(Figure::lower("slowest ms", times.max));
            tally.failures = crate::stats::Failures::default();
            return stand.end(figures, &tally).await;
        };
        let empty = settled(pid).await?;
        let connected = stand.connect(self.clients, AT_ONCE, &Channels::default()).await?;
        let full = settled(pid).await?;
        stand.watch()?;
        let before = process::cpu(pid)?;
        sleep(wait).await;
        let used = process::cpu(pid)?.saturating_sub(before);
        let kib = float(full.rss_kib) - float(empty.rss_kib);
        let micros = used.as_secs_f64() * 1e6 / wait.as_secs_f64();
        let mut left = stand.crew.order(&Order::Look).await?;
        let lost = connected.up.saturating_sub(left.up);
        if lost > 0 {
            left.failures.note_many("connections did not stay", lost);
        }
        let figures = vec![
            Figure::lower("KiB a connection", kib / size(self.clients)),
            Figure::lower("us of CPU a second and connection", micros / size(self.clients)),
            Figure::plain("MiB when empty", float(empty.rss_kib) / 1024.0),
        ];
        stand.end(figures, &left).await
    }
}

/// Reads the memory once it is steady.
pub(super) async fn settled(pid: u32) -> anyhow::Result<Memory> {
    let started = tokio::time::Instant::now();
    let mut readings = vec![Memory::of(pid)?];
    loop {
        sleep(PAUSE).await;
        let memory = Memory::of(pid)?;
        readings.push(memory);
        if is_steady(&readings) || started.elapsed() > SETTLE_LIMIT {
            return Ok(memory);
        }
    }
}

fn is_steady(readings: &[Memory]) -> bool {
    let Some(tail) = readings.len().checked_sub(READINGS).and_then(|from| readings.get(from..)) else {
        return false;
    };
    let (low, high) =
        tail.iter().fold((u64::MAX, 0), |(low, high), m| (low.min(m.rss_kib), high.max(m.rss_kib)));
    high - low <= STEADY_KIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_steady_when_its_last_readings_agree() {
        let memory = |rss_kib: u64| Memory { rss_kib, anonymous_kib: rss_kib / 2 };
        let mut readings = vec![memory(1000), memory(5000)];
        assert!(!is_steady(&readings));
        readings.extend([memory(5010); READINGS - 1]);
        assert!(is_steady(&readings));
        readings.push(memory(5200));
        assert!(!is_steady(&readings));
    }
}
