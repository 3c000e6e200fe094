//! Scenario `hostile`: attackers beside a hundred clients, whose deliveries are to come as before.

use std::time::Duration;

use super::{
    Measured, Scale, What,
    beside::beside,
    crowds::settled,
    stand::{AT_ONCE, Field, SIZE, Stand, channels, float},
};
use crate::{
    bench::{
        results::Figure,
        server::{Needs, Peer},
    },
    generator::{Order, Pace, Tally},
    process::Memory,
};

mod attack;

/// The most connections of the gateway.
const CONNECTIONS: usize = 10_000;
/// Publications a second to the clients.
const RATE: u32 = 100;
/// How long the clients are measured without an attack.
const CALM_MS: u64 = 10_000;

/// An attack beside clients.
#[derive(Debug, Clone)]
pub(super) struct Hostile {
    clients: usize,
    connections: usize,
    for_ms: u64,
    kind: attack::Kind,
}

pub(super) fn cases(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let (clients, connections) = (scale.clients(5000) / 50, scale.clients(CONNECTIONS));
    let clients = clients.max(2);
    let case = |name: String, kind, for_ms| {
        let hostile = Hostile { clients, connections, for_ms: scale.millis(for_ms), kind };
        // The loop ends no attacker and reads no file: what the same sockets cost on this machine where nothing is done with them.
        let peers = match kind {
            attack::Kind::Silence { .. } | attack::Kind::Heads { .. } => vec![Peer::Tidegate, Peer::Raw],
            attack::Kind::Frames => vec![Peer::Tidegate],
        };
        (name, peers, What::Hostile(hostile))
    };
    let (sockets, heads) = (connections + connections / 20, scale.clients(2000));
    vec![
        case(
            format!("{sockets} sockets that say nothing, where {connections} may be open"),
            attack::Kind::Silence { sockets },
            30_000,
        ),
        case(
            format!("{heads} requests whose heads do not end, a byte every half second"),
            attack::Kind::Heads { sockets: heads },
            30_000,
        ),
        case("8 clients with every file of gateway/tests/frames".to_owned(), attack::Kind::Frames, 60_000),
    ]
}

impl Hostile {
    pub(super) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        let needs = Needs { connections: self.connections, ..Needs::default() };
        let mut stand = Stand::start(peer, &needs, self.clients, field).await?;
        let pid = stand.server.pid;
        let count = self.clients.div_ceil(10);
        stand.connect(self.clients, AT_ONCE, &channels("live", count)).await?;
        stand.watch()?;
        let publish = |for_ms| Order::Publish {
            through: stand.server.through.clone(),
            channels: channels("live", count),
            fan: 0,
            pace: Pace::Rate(RATE),
            size: SIZE,
            warm_ms: 0,
            for_ms,
            most: 0,
            cuts: None,
        };
        let (calm, beside_attack) = (publish(CALM_MS.min(self.for_ms)), publish(self.for_ms));
        let calm = stand.crew.order(&calm).await?;
        let before = settled(pid).await?;
        let attack = attack::Attack::start(self.kind, &stand.server.host)?;
        let mut most = before.rss_kib;
        let attacked = beside(stand.crew.order(&beside_attack), async || {
            most = Memory::of(pid).map_or(most, |memory| most.max(memory.rss_kib));
        });
        let attacked = attacked.await?;
        let attack = attack.end();
        let after = settled(pid).await?;
        let left = stand.crew.order(&Order::Look).await?;
        let mib = |kib: u64| float(kib) / 1024.0;
        let mut figures = vec![
            Figure::plain("MiB before", mib(before.rss_kib)),
            Figure::lower("MiB at most", mib(most)),
            Figure::lower("MiB after", mib(after.rss_kib)),
            Figure::plain("p99 ms without it", calm.deliveries.times().p99),
            Figure::lower("p99 ms beside it", attacked.deliveries.times().p99),
            Figure::plain("sent late by p99 ms", attacked.late.times().p99),
            Figure::plain(
                "attempts/s",
                float(attack.begun) / Duration::from_millis(self.for_ms).as_secs_f64(),
            ),
            Figure::plain("attempts refused", float(attack.refused)),
        ];
        figures.extend(harm(self.clients, &[calm, attacked, left]));
        stand.end(figures, &Tally::default()).await
    }
}

/// What the clients have noticed.
fn harm(clients: usize, tallies: &[Tally]) -> [Figure; 2] {
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let up = tallies.last().map_or(0, |tally| tally.up);
    [
        Figure::lower("missing", float(sum(|tally| tally.missing))),
        Figure::lower("clients that lost their connection", float((clients as u64).saturating_sub(up))),
    ]
}
