//! Scenario `fanout`: deliveries of publications, beside a raw loop over `send()`.

use anyhow::Context;

use super::{
    Measured, Scale, What,
    stand::{AT_ONCE, Field, SIZE, Stand, channels, float, per_core_second, per_second, size},
};
use crate::{
    bench::{
        results::Figure,
        server::{Needs, Peer},
    },
    generator::{Order, Pace, Through},
};

/// Who publishes, and to whom.
#[derive(Debug, Clone)]
pub(super) struct Fanout {
    clients: usize,
    /// How many channels they are in.
    channels: usize,
    namespace: &'static str,
    pace: Pace,
    size: usize,
    /// Tidegate only: over NATS, and not through the gateway's server API.
    over_nats: bool,
    warm_ms: u64,
    for_ms: u64,
}

const ALL: [Peer; 7] = [
    Peer::Raw,
    Peer::Tidegate,
    Peer::CentrifugoMemory,
    Peer::CentrifugoNats,
    Peer::Ws,
    Peer::SocketIo,
    Peer::NatsWebsocket,
];

pub(super) fn cases(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let (thousand, ten) = (scale.clients(1000), scale.clients(10_000));
    let base = Fanout {
        clients: thousand,
        channels: 1,
        namespace: "live",
        pace: Pace::Window(1),
        size: SIZE,
        over_nats: false,
        warm_ms: scale.millis(1000),
        for_ms: scale.millis(5000),
    };
    let kept = vec![Peer::Tidegate, Peer::CentrifugoMemory];
    let case = |name: String, peers: &[Peer], fanout: Fanout| (name, peers.to_vec(), What::Fanout(fanout));
    let window = |window| Fanout { pace: Pace::Window(window), ..base.clone() };
    let per_second = 1_000_000 / u32::try_from(thousand).unwrap_or(1000);
    let offered =
        Fanout { pace: Pace::Rate(scale.rate(per_second.min(1000))), over_nats: true, ..base.clone() };
    vec![
        case(format!("1 to {thousand}, one at a time"), &ALL, base.clone()),
        case(
            format!("1 to {thousand}, one at a time, published over NATS"),
            &[Peer::Raw, Peer::Tidegate],
            Fanout { over_nats: true, ..base.clone() },
        ),
        case(format!("1 to {thousand}, 16 in flight"), &ALL, window(16)),
        case(
            format!("1 to {thousand}, 16 in flight, published over NATS"),
            &[Peer::Raw, Peer::Tidegate],
            Fanout { over_nats: true, ..window(16) },
        ),
        case(format!("1 to {ten}, one at a time"), &ALL, Fanout { clients: ten, ..base.clone() }),
        case(
            format!("1 to {thousand}, with history, one at a time"),
            &kept,
            Fanout { namespace: "kept", ..base.clone() },
        ),
        case(
            format!("1 to {thousand}, with history, 16 in flight"),
            &kept,
            Fanout { namespace: "kept", ..window(16) },
        ),
        case(
            format!("1 to {thousand}, 1,000,000 deliveries/s offered, published over NATS"),
            &[Peer::Tidegate],
            offered,
        ),
        case(
            format!("{thousand} channels with one client each, 64 in flight"),
            &ALL,
            Fanout { channels: thousand, ..window(64) },
        ),
        case(
            format!("{thousand} channels with one client each, with history, 64 in flight"),
            &kept,
            Fanout { channels: thousand, namespace: "kept", ..window(64) },
        ),
        case(format!("1 to {thousand}, one at a time, 2 KiB"), &ALL, Fanout { size: 2048, ..base }),
    ]
}

impl Fanout {
    pub(super) fn keeps(&self) -> bool {
        self.namespace == "kept"
    }

    pub(super) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        let mut stand = Stand::start(peer, &Needs::default(), self.clients + 1, field).await?;
        let channels = channels(self.namespace, self.channels);
        stand.connect(self.clients, AT_ONCE, &channels).await?;
        stand.watch()?;
        let through = match (self.over_nats, &stand.server.nats) {
            (true, Some(nats)) => nats.clone(),
            (true, None) if peer != Peer::Raw => anyhow::bail!("no way over NATS"),
            _ => stand.server.through.clone(),
        };
        let order = Order::Publish {
            through: if peer == Peer::Raw { Through::Client } else { through },
            fan: self.clients / self.channels.max(1),
            channels,
            pace: self.pace,
            size: self.size,
            warm_ms: self.warm_ms,
            for_ms: self.for_ms,
            most: 0,
            cuts: None,
        };
        let mut tally = stand.crew.order(&order).await?;
        let (times, count) = (tally.deliveries.times(), tally.deliveries.count());
        let each = per_core_second(count, &tally).context("the server's processor time is not known")?;
        let mut figures = vec![
            Figure::higher("deliveries per core-second", each),
            Figure::higher("deliveries/s", per_second(count, &tally)),
            Figure::lower("p50 ms", times.p50),
            Figure::lower("p99 ms", times.p99),
        ];
        if let Pace::Rate(_) = self.pace {
            figures.push(Figure::plain(
                "delivered %",
                100.0 * float(count) / (float(tally.sent) * size(self.clients)),
            ));
            figures.push(Figure::plain("sent late by p99 ms", tally.late.times().p99));
        }
        if tally.missing + tally.twice > 0 {
            tally.failures.note_many("missing", tally.missing);
            tally.failures.note_many("twice", tally.twice);
        }
        stand.end(figures, &tally).await
    }
}
