//! What the routes of a worker share, and one route with the handler that is bound to it.

use std::sync::Arc;

use tidegate_shared::{
    broker::Broker,
    config::{Config, Match, Route},
    subject::Subjects,
};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{clock::Clock, handler::BoxedHandler, metrics::Metrics, permit::Room, stall::Stall};

/// What all routes of a worker share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) broker: Broker,
    pub(crate) config: Config,
    pub(crate) subjects: Subjects,
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
    /// For the one suspect at a time that is tried alone.
    pub(crate) alone: Semaphore,
    /// One task per delivery that is not settled.
    pub(crate) deliveries: TaskTracker,
    /// Cancelled when the drain limit is over: every unsettled delivery then goes back to the broker.
    pub(crate) cut_off: CancellationToken,
}

/// One route and its handler.
#[derive(Debug)]
pub(crate) struct BoundRoute {
    pub(crate) config: Route,
    /// The route's `match`, shared with the route's jobs.
    pub(crate) matches: Arc<Match>,
    pub(crate) handler: BoxedHandler,
}

impl BoundRoute {
    pub(crate) fn new(config: Route, handler: BoxedHandler) -> Self {
        let matches = Arc::new(config.matches.clone());
        Self { config, matches, handler }
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }
}
