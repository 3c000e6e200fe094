//! Scenarios `roundtrip` and `publish`: times at a low rate, in an open loop, beside the NATS client alone.

use std::{sync::Arc, time::Duration};

use super::{
    Measured, Scale, What,
    bare::Bare,
    stand::{AT_ONCE, Field, SIZE, Stand, channels},
};
use crate::{
    bare_nats::BareNats,
    bench::{
        results::Figure,
        server::{Needs, Peer, Server},
    },
    generator::{Channels, Order, Pace, Verb},
    open_loop,
    process::ForeignCpu,
    request_path::RequestPath,
    stats::{Percentiles, Series},
};

/// Requests at a rate.
#[derive(Debug, Clone)]
pub(super) struct Times {
    rate: u32,
    clients: usize,
    /// The namespace they publish in; none: they ask a worker.
    namespace: Option<&'static str>,
    warm_ms: u64,
    for_ms: u64,
}

pub(super) fn roundtrip(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let times = Times {
        rate: 100,
        clients: 10,
        namespace: None,
        warm_ms: scale.millis(2000),
        for_ms: scale.millis(10_000),
    };
    let peers = vec![Peer::BareNats, Peer::Tidegate];
    vec![("100/s through a worker that answers with the request".to_owned(), peers, What::Times(times))]
}

pub(super) fn publish(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let times = |namespace| {
        What::Times(Times {
            rate: 100,
            clients: 10,
            namespace: Some(namespace),
            warm_ms: scale.millis(2000),
            for_ms: scale.millis(10_000),
        })
    };
    let kept = vec![Peer::BareNats, Peer::Tidegate, Peer::TidegateRelaxed, Peer::CentrifugoMemory];
    let live = vec![
        Peer::Tidegate,
        Peer::CentrifugoMemory,
        Peer::CentrifugoNats,
        Peer::Ws,
        Peer::SocketIo,
        Peer::NatsWebsocket,
    ];
    vec![
        ("100/s with history".to_owned(), kept, times("kept")),
        ("100/s without history".to_owned(), live, times("live")),
    ]
}

impl Times {
    pub(super) fn keeps(&self) -> bool {
        self.namespace != Some("live")
    }

    pub(super) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        match (peer, self.namespace) {
            (Peer::BareNats, None) => return self.bare_roundtrip(field).await,
            (Peer::BareNats, Some(_)) => return self.bare_publish(field).await,
            _ => {}
        }
        let workers = usize::from(self.namespace.is_none());
        let mut stand =
            Stand::start(peer, &Needs { workers, ..Needs::default() }, self.clients, field).await?;
        let channels =
            self.namespace.map_or_else(Channels::default, |namespace| channels(namespace, self.clients));
        stand.connect(self.clients, AT_ONCE, &channels).await?;
        stand.watch()?;
        let verb = self.namespace.map_or_else(|| Verb::Rpc("echo".to_owned()), |_| Verb::Publish);
        let (pace, size) = (Pace::Rate(self.rate), SIZE);
        let order = Order::Ask { verb, pace, size, warm_ms: self.warm_ms, for_ms: self.for_ms };
        let tally = stand.crew.order(&order).await?;
        let mut figures = figures(tally.answers.times());
        if self.namespace.is_some() {
            let times = tally.deliveries.times();
            figures.push(Figure::lower("delivered p50 ms", times.p50));
            figures.push(Figure::lower("delivered p99 ms", times.p99));
        }
        figures.push(Figure::plain("sent late by p99 ms", tally.late.times().p99));
        stand.end(figures, &tally).await
    }

    /// The same round trip with the NATS client on both ends, on the streams of a stack.
    async fn bare_roundtrip(&self, field: &Field) -> anyhow::Result<Measured> {
        let server = Server::start(Peer::Tidegate, &Needs::default(), &field.tools).await?;
        let stack = server.stack.as_ref().ok_or_else(|| anyhow::anyhow!("a stack without itself"))?;
        let path = Arc::new(RequestPath::Bare(Box::new(BareNats::start(stack.config()).await?)));
        open_loop::slice(&path, self.rate, Duration::from_millis(self.warm_ms)).await?;
        let foreign = ForeignCpu::watch(server.pids().into_iter().chain([std::process::id()]).collect())?;
        let slice = open_loop::slice(&path, self.rate, Duration::from_millis(self.for_ms)).await?;
        let measured = Measured {
            figures: figures(slice.series.times()),
            remarks: slice.failures.lines().collect(),
            foreign_cpu_percent: foreign.percent()?,
        };
        server.end().await;
        Ok(measured)
    }

    async fn bare_publish(&self, field: &Field) -> anyhow::Result<Measured> {
        let bare = Bare::start(field).await?;
        bare.at_rate(self.rate, SIZE, Duration::from_millis(self.warm_ms)).await?;
        let pids = bare.stack.status().into_iter().filter_map(|process| process.pid?.try_into().ok());
        let foreign = ForeignCpu::watch(pids.chain([std::process::id()]).collect())?;
        let series: Series = bare.at_rate(self.rate, SIZE, Duration::from_millis(self.for_ms)).await?;
        let foreign_cpu_percent = foreign.percent()?;
        bare.stack.down().await;
        Ok(Measured { figures: figures(series.times()), remarks: Vec::new(), foreign_cpu_percent })
    }
}

fn figures(times: Percentiles) -> Vec<Figure> {
    vec![Figure::lower("p50 ms", times.p50), Figure::lower("p99 ms", times.p99)]
}
