//! What the routes of a worker share, and one route with the handler that is bound to it.

use std::sync::Arc;

use tidegate_shared::{
    broker::Broker,
    config::{Config, Match, Order, Route},
    subject::Subjects,
};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    acks::Acks, attempt::Ends, clock::Clock, committer::Committers, exposed::Exposed, fault::Faults,
    gate::Gate, hand_overs::HandOvers, lines::Lines, look_up::LookUps, metrics::Metrics, permit::Room,
    places::Places, running::Running, service::HandlerService, stall::Stall, starts::Starts,
};

/// So many times as many answers of a route may be on their way as handlers run.
const ANSWERING: usize = 4;

/// What all routes of a worker share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) broker: Broker,
    pub(crate) config: Config,
    pub(crate) subjects: Subjects,
    pub(crate) look_ups: LookUps,
    /// Stores answers.
    pub(crate) committers: Committers,
    /// Brings answers to gateways.
    pub(crate) hand_overs: HandOvers,
    pub(crate) acks: Acks,
    /// The names of all configured namespaces.
    pub(crate) namespaces: Vec<String>,
    /// The worker's name in its answers.
    pub(crate) name: String,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    /// Answers that wait because the result cache is full.
    pub(crate) stall: Arc<Stall>,
    /// For requests that are answered and have given their permit back.
    pub(crate) room: Room,
    /// The runtime that handlers run on. Everything else runs on the engine's own.
    pub(crate) handlers: Handle,
    /// Brings ended attempts back from there.
    pub(crate) ends: Ends,
    /// For the one suspect at a time that is tried alone.
    pub(crate) alone: Semaphore,
    /// Those that it waits for.
    pub(crate) exposed: Exposed,
    /// One task per delivery that is not settled.
    pub(crate) deliveries: TaskTracker,
    /// The requests that it runs now.
    pub(crate) running: Arc<Running>,
    /// What a test has planned.
    pub(crate) faults: Faults,
    /// Cancelled when the drain limit is over: every unsettled delivery then goes back to the broker.
    pub(crate) cut_off: CancellationToken,
}

/// One route and its handler.
#[derive(Debug)]
pub(crate) struct BoundRoute {
    pub(crate) config: Route,
    /// The route's `match`, shared with the route's jobs.
    pub(crate) matches: Arc<Match>,
    pub(crate) handler: HandlerService,
    /// The lines of its ordering keys, with `order = "best"`.
    pub(crate) lines: Option<Arc<Lines>>,
    /// The limits of attempts begun in a second, if it has some: its own, and one that other routes may share.
    pub(crate) starts: Vec<Arc<Starts>>,
    /// For requests whose handler has ended, while their answers are stored or handed over.
    pub(crate) answering: Arc<Places>,
    /// Closed while none of its requests are pulled.
    pub(crate) gate: Gate,
}

impl BoundRoute {
    pub(crate) fn new(
        config: Route,
        handler: HandlerService,
        gate: Gate,
        shared: Option<Arc<Starts>>,
    ) -> Self {
        let matches = Arc::new(config.matches.clone());
        let lines = (config.order == Order::Best).then(Lines::new);
        let starts = Starts::of_route(&config).map(Arc::new).into_iter().chain(shared).collect();
        // One at a time means that one is finished before the next begins.
        let answering = if config.concurrency > 1 { config.concurrency * ANSWERING } else { 0 };
        Self { config, matches, handler, lines, starts, answering: Places::new(answering), gate }
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }
}
