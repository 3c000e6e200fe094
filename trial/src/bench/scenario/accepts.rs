//! Scenarios `uplink` and `rpc`: how much a server accepts from clients, in a closed loop.

use std::time::Duration;

use super::{
    Measured, Scale, What,
    bare::Bare,
    stand::{AT_ONCE, Field, SIZE, Stand, channels, per_core_second, per_second},
};
use crate::{
    bench::{
        results::Figure,
        server::{Needs, Peer},
    },
    generator::{Order, Pace, Verb},
    process::ForeignCpu,
};

/// What clients send.
#[derive(Debug, Clone)]
pub(super) struct Accepts {
    clients: usize,
    window: usize,
    verb: Verb,
    namespace: &'static str,
    workers: usize,
    warm_ms: u64,
    for_ms: u64,
}

/// The sides with publications of clients.
const PUBLISHERS: [Peer; 6] = [
    Peer::Tidegate,
    Peer::CentrifugoMemory,
    Peer::CentrifugoNats,
    Peer::Ws,
    Peer::SocketIo,
    Peer::NatsWebsocket,
];

pub(super) fn uplink(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let (clients, few) = (scale.clients(1000), scale.clients(200));
    let base = Accepts {
        clients,
        window: 4,
        verb: Verb::Publish,
        namespace: "kept",
        workers: 0,
        // A gateway first stores one by one, until it has seen that the disk is slow.
        warm_ms: scale.period(2500),
        for_ms: scale.millis(5000),
    };
    let kept = vec![Peer::BareNats, Peer::Tidegate, Peer::TidegateRelaxed, Peer::CentrifugoMemory];
    let case = |name: String, peers: Vec<Peer>, accepts: Accepts| (name, peers, What::Accepts(accepts));
    vec![
        case(
            format!("publications with history, {clients} clients, 4 in flight each"),
            kept.clone(),
            base.clone(),
        ),
        case(
            format!("requests stored and not waited for, {clients} clients, 4 in flight each"),
            vec![Peer::BareNats, Peer::Tidegate, Peer::TidegateRelaxed],
            Accepts { verb: Verb::Rpc("accept".to_owned()), namespace: "", ..base.clone() },
        ),
        case(
            format!("publications without history, {few} clients, 16 in flight each"),
            PUBLISHERS.to_vec(),
            Accepts { clients: few, window: 16, namespace: "live", ..base.clone() },
        ),
        case(
            format!("publications with history, {few} clients, 1 in flight each"),
            kept,
            Accepts { clients: few, window: 1, ..base },
        ),
    ]
}

pub(super) fn rpc(scale: Scale) -> Vec<(String, Vec<Peer>, What)> {
    let clients = scale.clients(200);
    let base = Accepts {
        clients,
        window: 4,
        verb: Verb::Rpc("empty".to_owned()),
        namespace: "",
        workers: 1,
        warm_ms: scale.millis(1500),
        for_ms: scale.millis(5000),
    };
    let both = [Peer::Tidegate, Peer::TidegateRelaxed];
    let kinds = [("plain", "empty"), ("every answer stored", "empty#{k}")];
    let all = [1, 4].into_iter().flat_map(|workers| kinds.map(|kind| (workers, kind)));
    let cases = all.map(|(workers, (name, method))| {
        let workers_text = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
        let name = format!("{name}, {workers_text}, {clients} callers, 4 in flight each");
        let accepts = Accepts { workers, verb: Verb::Rpc(method.to_owned()), ..base.clone() };
        (name, both.to_vec(), What::Accepts(accepts))
    });
    cases.collect()
}

impl Accepts {
    pub(super) fn keeps(&self) -> bool {
        self.namespace != "live"
    }

    pub(super) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        if peer == Peer::BareNats {
            return self.bare(field).await;
        }
        let needs = Needs { workers: self.workers, worker: "tidegate-trial-worker", ..Needs::default() };
        let mut stand = Stand::start(peer, &needs, self.clients, field).await?;
        let channels = match self.namespace {
            "" => crate::generator::Channels::default(),
            namespace => channels(namespace, self.clients),
        };
        stand.connect(self.clients, AT_ONCE, &channels).await?;
        stand.watch()?;
        let order = Order::Ask {
            verb: self.verb.clone(),
            pace: Pace::Window(self.window),
            size: SIZE,
            warm_ms: self.warm_ms,
            for_ms: self.for_ms,
        };
        let tally = stand.crew.order(&order).await?;
        let (times, count) = (tally.answers.times(), tally.answers.count());
        let mut figures = vec![Figure::higher("acknowledged/s", per_second(count, &tally))];
        let each = per_core_second(count, &tally);
        figures.extend(each.map(|each| Figure::higher("per core-second of the server", each)));
        figures.push(Figure::lower("p50 ms", times.p50));
        figures.push(Figure::lower("p99 ms", times.p99));
        stand.end(figures, &tally).await
    }

    /// The same number of publishes in flight, one by one.
    async fn bare(&self, field: &Field) -> anyhow::Result<Measured> {
        let bare = Bare::start(field).await?;
        let pids = bare.stack.status().into_iter().filter_map(|process| process.pid?.try_into().ok());
        let foreign = ForeignCpu::watch(pids.chain([std::process::id()]).collect())?;
        let length = Duration::from_millis(self.for_ms);
        let rate = bare.singles(self.clients * self.window, SIZE, length).await?;
        let foreign_cpu_percent = foreign.percent()?;
        bare.stack.down().await;
        let figures = vec![Figure::higher("acknowledged/s", rate)];
        Ok(Measured { figures, remarks: Vec::new(), foreign_cpu_percent })
    }
}
