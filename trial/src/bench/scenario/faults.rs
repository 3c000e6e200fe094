//! Scenarios `recovery`, `jitter`, `avalanche` and `slow`: clients that lose their connections, and one that reads slowly.

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::{
    Measured, Scale, What,
    beside::{Watched, beside},
    stand::{AT_ONCE, Field, SIZE, Stand, channels, float},
};
use crate::{
    bench::{
        results::Figure,
        server::{Needs, Peer},
    },
    generator::{Cuts, Order, Pace, Tally, Through},
    process::Memory,
    scrape,
};

/// How long before a gateway is killed.
const CALM: Duration = Duration::from_secs(3);
/// Publications that each client has missed in the recovery storm.
const MISSED: usize = 20;
/// The rate of publications beside the faults.
const RATE: u32 = 100;
/// The metric of connections that were ended because their clients read too slowly.
const ENDED_AS_SLOW: &str = "tidegate_gateway_disconnects_total{code=\"3008\"} ";
/// The time in which clients are to be back.
const BACK_MS: f64 = 30_000.0;

/// A fault.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    clients: usize,
    channels: usize,
    for_ms: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Storm,
    Cuts(Cuts),
    Kill,
    /// Reads so many bytes a second; `None`: the same load without a slow reader.
    Slow(Option<u64>),
}

fn one(name: String, peers: &[Peer], fault: Fault) -> (String, Vec<Peer>, What) {
    (name, peers.to_vec(), What::Fault(fault))
}

pub(super) fn recovery(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let fault =
        Fault { clients: scale.clients(5000), channels: scale.clients(50), for_ms: 0, kind: Kind::Storm };
    let name = format!("{} clients that missed {MISSED} publications each, all at once", fault.clients);
    vec![one(name, &[Peer::Tidegate, Peer::CentrifugoMemory, Peer::SocketIo], fault)]
}

pub(super) fn jitter(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let cuts = Cuts { every_ms: scale.period(15_000), offline_ms: scale.period(2000) };
    let fault = Fault {
        clients: scale.clients(5000),
        channels: scale.clients(50),
        for_ms: scale.millis(40_000),
        kind: Kind::Cuts(cuts),
    };
    let name = format!(
        "{} clients, TCP cut every {} s, offline for {} s, {RATE} publications/s",
        fault.clients,
        cuts.every_ms / 1000,
        cuts.offline_ms / 1000
    );
    vec![one(name, &[Peer::Tidegate, Peer::CentrifugoMemory, Peer::SocketIo], fault)]
}

pub(super) fn avalanche(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let fault = Fault {
        clients: scale.clients(10_000),
        channels: scale.clients(50),
        for_ms: scale.millis(40_000).max(5000),
        kind: Kind::Kill,
    };
    let name = format!("{} clients, their gateway killed, {RATE} publications/s", fault.clients);
    vec![one(name, &[Peer::Tidegate], fault)]
}

pub(super) fn slow(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let fault =
        |kind| Fault { clients: scale.clients(1000), channels: 1, for_ms: scale.millis(30_000), kind };
    let peers = [Peer::Tidegate, Peer::CentrifugoMemory];
    let cases = [(None, "all read"), (Some(1024), "one reads 1 KiB/s"), (Some(0), "one reads nothing")];
    let case = |(bytes, name): (Option<u64>, &str)| {
        let fault = fault(Kind::Slow(bytes));
        one(format!("{} clients, 50 publications/s of 4 KiB, {name}", fault.clients), &peers, fault)
    };
    cases.map(case).to_vec()
}

impl Fault {
    pub(super) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        let gateways = if self.kind == Kind::Kill { 2 } else { 1 };
        let needs = Needs { gateways, outbox: "512 KiB", ..Needs::default() };
        let needs =
            if matches!(self.kind, Kind::Slow(_)) { needs } else { Needs { gateways, ..Needs::default() } };
        let mut stand = Stand::start(peer, &needs, self.clients + 1, field).await?;
        stand.connect(self.clients, AT_ONCE, &channels("kept", self.channels)).await?;
        stand.watch()?;
        match self.kind {
            Kind::Storm => Box::pin(self.storm(stand)).await,
            Kind::Cuts(cuts) => Box::pin(self.jitter(stand, cuts)).await,
            Kind::Kill => Box::pin(self.avalanche(stand)).await,
            Kind::Slow(bytes) => Box::pin(self.slow(stand, bytes)).await,
        }
    }

    fn publish(&self, through: Through, pace: Pace) -> Order {
        Order::Publish {
            through,
            channels: channels("kept", self.channels),
            fan: 0,
            pace,
            size: SIZE,
            warm_ms: 0,
            for_ms: self.for_ms,
            most: 0,
            cuts: None,
        }
    }

    async fn storm(&self, mut stand: Stand) -> anyhow::Result<Measured> {
        let publish = |publications| {
            let mut order = self.publish(stand.server.through.clone(), Pace::Window(64));
            if let Order::Publish { most, for_ms, .. } = &mut order {
                *most = publications * self.channels;
                *for_ms = 60_000;
            }
            order
        };
        let (first, missed) = (publish(1), publish(MISSED));
        // A client of Socket.IO can come back to what it has received, not to nothing.
        stand.crew.order(&first).await?;
        // The client that publishes for peers without a server API stays.
        stand.crew.order(&Order::Leave).await?;
        stand.crew.order(&missed).await?;
        let tally = stand.crew.order(&Order::Return { at_once: AT_ONCE }).await?;
        let cpu = tally.cpu.first().map(|nanos| float(*nanos) / 1e9);
        let mut figures = vec![
            Figure::lower("all recovered after ms", tally.seconds() * 1000.0),
            Figure::lower("p99 ms of a client", tally.joins.times().p99),
        ];
        figures.extend(cpu.map(|cpu| Figure::lower("server CPU s", cpu)));
        figures.extend(complete(&tally));
        figures.push(Figure::higher("recovered %", share(tally.resumed, tally.resumed + tally.not_resumed)));
        stand.end(figures, &tally).await
    }

    async fn jitter(&self, mut stand: Stand, faults: Cuts) -> anyhow::Result<Measured> {
        let mut order = self.publish(stand.server.through.clone(), Pace::Rate(RATE));
        if let Order::Publish { cuts, .. } = &mut order {
            *cuts = Some(faults);
        }
        let tally = stand.crew.order(&order).await?;
        let mut figures = vec![
            Figure::lower("replay p50 ms", tally.joins.times().p50),
            Figure::lower("replay p99 ms", tally.joins.times().p99),
        ];
        figures.extend(complete(&tally));
        figures.push(Figure::higher("recovered %", share(tally.resumed, tally.resumed + tally.not_resumed)));
        figures.push(Figure::plain("cuts", float(tally.cut)));
        stand.end(figures, &tally).await
    }

    async fn avalanche(&self, mut stand: Stand) -> anyhow::Result<Measured> {
        stand.crew.order(&Order::ComeBack).await?;
        let stack = stand.server.stack.as_ref().context("only a stack has two gateways")?;
        let second = stack.gateways().get(1).context("one gateway")?.clone();
        let key = stack.config().api.key.expose().to_owned();
        let through = Through::Http { address: second.internal, key, connections: 16 };
        let order = self.publish(through, Pace::Rate(RATE));
        let strike = async {
            sleep(CALM).await;
            stack.hold("gateway-1").await
        };
        let mut other = Watched::new(second.internal, "/readyz");
        let mut broker = Watched::new(scrape::monitor(stack)?, "/healthz");
        let work = async { tokio::join!(stand.crew.order(&order), strike) };
        let look = async || {
            tokio::join!(other.look(), broker.look());
        };
        let (tally, struck) = beside(work, look).await;
        struck?;
        let tally = tally?;
        let ready = stack.status().iter().filter(|process| process.restarts > 0).count();
        let returns = tally.returns.times();
        let back = tally.returns.count_within(BACK_MS);
        let mut figures = vec![
            Figure::higher("back within 30 s %", share(back, float_count(self.clients))),
            Figure::lower("p50 s until back", returns.p50 / 1000.0),
            Figure::lower("slowest s until back", returns.max / 1000.0),
        ];
        figures.extend(complete(&tally));
        figures.push(Figure::higher("recovered %", share(tally.resumed, tally.resumed + tally.not_resumed)));
        figures.push(Figure::lower("other processes restarted", float(float_count(ready))));
        figures.push(Figure::lower("other gateway not ready s", other.longest()));
        figures.push(Figure::lower("broker not ready s", broker.longest()));
        stand.end(figures, &Tally::default()).await
    }

    async fn slow(&self, mut stand: Stand, bytes: Option<u64>) -> anyhow::Result<Measured> {
        if let Some(bytes_per_second) = bytes {
            stand.crew.order(&Order::Slow { bytes_per_second }).await?;
            stand.crew.order(&Order::ComeBack).await?;
        }
        let mut order = self.publish(stand.server.through.clone(), Pace::Rate(50));
        if let Order::Publish { size, .. } = &mut order {
            *size = 4096;
        }
        let before = Memory::of(stand.server.pid)?;
        let gateway = stand.server.stack.as_ref().and_then(|stack| Some(stack.gateways().first()?.internal));
        let mut most = 0;
        let tally = beside(stand.crew.order(&order), async || {
            most = most.max(Self::waiting(gateway).await.unwrap_or_default());
        });
        let tally = tally.await?;
        let after = Memory::of(stand.server.pid)?;
        let times = tally.deliveries.times();
        let mut figures = vec![
            Figure::lower("p50 ms", times.p50),
            Figure::lower("p99 ms", times.p99),
            Figure::lower("MiB more", (float(after.rss_kib) - float(before.rss_kib)) / 1024.0),
            Figure::plain("connections closed", float(tally.ended)),
        ];
        if let Some(gateway) = gateway {
            let slow = scrape::counter(gateway, ENDED_AS_SLOW).await?;
            figures.push(Figure::plain("of them with 3008", float(slow)));
            figures.push(Figure::lower("KiB that waited at most", float(most) / 1024.0));
        }
        figures.extend(complete(&tally));
        figures.push(Figure::lower("missing and told so", float(tally.told)));
        stand.end(figures, &tally).await
    }

    /// What waits in all outboxes of a gateway. Of another server that is not known.
    async fn waiting(gateway: Option<std::net::SocketAddr>) -> anyhow::Result<u64> {
        let Some(gateway) = gateway else { return Ok(0) };
        scrape::counter(gateway, "tidegate_gateway_buffered_bytes ").await
    }
}

fn complete(tally: &Tally) -> [Figure; 2] {
    [Figure::lower("missing", float(tally.missing)), Figure::lower("twice", float(tally.twice))]
}

fn float_count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * float(part) / float(whole) }
}
