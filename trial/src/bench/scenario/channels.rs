//! Scenario `channels`: what a channel costs the gateway, and a publication the broker, in memory.

use anyhow::Context;

use super::{
    Measured, Scale, What,
    crowds::settled,
    stand::{AT_ONCE, Field, SIZE, Stand, channels, float, size},
};
use crate::{
    bench::{
        results::Figure,
        server::{Needs, Peer},
    },
    generator::{Channels, Order, Pace, Verb},
    process::Memory,
};

/// Channels of one client.
const EACH: usize = 10;

/// What is held.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Channels with one client each, of so many clients.
    Channels { clients: usize, namespace: &'static str },
    /// Publications of so many clients.
    Publications { clients: usize, namespace: &'static str, for_ms: u64 },
}

pub(super) fn cases(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let clients = scale.clients(1000);
    let holders = [
        Peer::Tidegate,
        Peer::CentrifugoMemory,
        Peer::CentrifugoNats,
        Peer::Ws,
        Peer::SocketIo,
        Peer::NatsWebsocket,
    ];
    let brokers = vec![Peer::Tidegate, Peer::CentrifugoNats];
    // Ids are forgotten after two minutes.
    let for_ms = if scale == Scale::Whole { 150_000 } else { scale.millis(10_000) };
    let publications = |namespace| Held::Publications { clients: scale.clients(200), namespace, for_ms };
    let held = |namespace| Held::Channels { clients, namespace };
    let count = clients * EACH;
    vec![
        (format!("{count} channels, one client each"), holders.to_vec(), What::Channels(held("live"))),
        (
            format!("{count} channels with history, one client each"),
            vec![Peer::Tidegate, Peer::CentrifugoMemory],
            What::Channels(held("kept")),
        ),
        ("publications without history".to_owned(), brokers, What::Channels(publications("live"))),
        ("publications with history".to_owned(), vec![Peer::Tidegate], What::Channels(publications("kept"))),
    ]
}

impl Held {
    pub(super) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        match self {
            Self::Channels { clients, namespace } => {
                let mut stand = Stand::start(peer, &Needs::default(), *clients * 2, field).await?;
                let pid = stand.server.pid;
                // The first half has connections alone: their cost is known then.
                stand.connect(*clients, AT_ONCE, &Channels::default()).await?;
                let without = settled(pid).await?;
                let count = *clients * EACH;
                let own = Channels { each: EACH, recover: false, ..channels(namespace, count) };
                stand.crew.order(&Order::Leave).await?;
                stand.crew.order(&Order::Forget).await?;
                let tally = stand.connect(*clients, AT_ONCE, &own).await?;
                let with = settled(pid).await?;
                let kib = float(with.rss_kib) - float(without.rss_kib);
                let figures = vec![Figure::lower("KiB a channel", kib / size(count))];
                stand.end(figures, &tally).await
            }
            Self::Publications { clients, namespace, for_ms } => {
                let mut stand = Stand::start(peer, &Needs::default(), *clients, field).await?;
                let broker = stand.server.broker.context("no broker")?;
                stand.connect(*clients, AT_ONCE, &channels(namespace, *clients)).await?;
                let before = Memory::of(broker)?;
                let (verb, pace) = (Verb::Publish, Pace::Window(4));
                let order = Order::Ask { verb, pace, size: SIZE, warm_ms: 0, for_ms: *for_ms };
                let tally = stand.crew.order(&order).await?;
                let after = Memory::of(broker)?;
                let bytes = (float(after.rss_kib) - float(before.rss_kib)) * 1024.0;
                let figures = vec![
                    Figure::lower("bytes of the broker a publication", bytes / float(tally.sent.max(1))),
                    Figure::plain("publications", float(tally.sent)),
                ];
                stand.end(figures, &tally).await
            }
        }
    }
}
