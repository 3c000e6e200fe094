//! The purger at work: one task for each route asks the broker for the floor and purges. The decisions are in `schedule`,
//! `floor` and `trouble`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tidegate_shared::{
    access::Account,
    broker::{Broker, ConnectFailure, MissingRights, NotDone},
    config::{Config, Match, Route},
    lifecycle::Lifecycle,
    topology::{consumer_name, request_stream},
};

use crate::{floor::Floor, metrics::Metrics, schedule::Schedule, trouble::Trouble};

/// Requests to the broker are sent one after the other for each route.
const IN_FLIGHT: usize = 64;

/// A purger, connected to the broker.
#[derive(Debug)]
pub struct Purger {
    broker: Broker,
    metrics: Arc<Metrics>,
    interval: Duration,
    routes: Vec<Arc<PurgedRoute>>,
}

/// A route whose stream is purged.
#[derive(Debug)]
struct PurgedRoute {
    config: Route,
    stream: String,
    /// `None` until the first look.
    trouble: Mutex<Option<Trouble>>,
}

impl Purger {
    /// Connects, waiting until NATS is available.
    pub async fn connect(config: &Config) -> Result<Self, ConnectFailure> {
        let nats = &config.nats;
        let broker = Broker::connect(nats, &nats.purger, "tidegate-purger", IN_FLIGHT, true).await?;
        let stored = config.routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
        let routes = stored.map(|route| {
            Arc::new(PurgedRoute {
                config: route.clone(),
                stream: request_stream(&route.name),
                trouble: Mutex::default(),
            })
        });
        let (metrics, interval) = (Arc::new(Metrics::new()), config.purger.interval);
        Ok(Self { broker, metrics, interval, routes: routes.collect() })
    }

    /// Tries the rights of the purger's user.
    pub async fn try_rights(&self, config: &Config) -> Result<(), MissingRights> {
        self.broker.try_rights(config, Account::Purger, true).await
    }

    /// The purger's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Starts the tasks, which end when the process drains.
    pub fn start(&self, lifecycle: &Lifecycle) {
        for route in &self.routes {
            let (route, broker) = (Arc::clone(route), self.broker.clone());
            let (metrics, interval) = (Arc::clone(&self.metrics), self.interval);
            let draining = lifecycle.clone();
            lifecycle.spawn_essential("purge", async move {
                tokio::select! {
                    () = draining.draining() => {}
                    never = route.keep_purging(&broker, &metrics, interval) => match never {},
                }
            });
        }
        tracing::info!(routes = self.routes.len(), "purging");
    }

    /// Why not every route is purged now. `None` when all are.
    pub fn unready(&self) -> Option<String> {
        if !self.broker.is_connected() {
            return Some("not connected to NATS".to_owned());
        }
        let problems = self.routes.iter().filter_map(|route| {
            let trouble = route.trouble.lock();
            let name = &route.config.name;
            match trouble.as_ref() {
                None => Some(format!("route {name}: not looked at yet")),
                Some(trouble) => trouble.reason().map(|reason| format!("route {name}: {reason}")),
            }
        });
        let problems: Vec<String> = problems.collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

impl PurgedRoute {
    async fn keep_purging(
        &self,
        broker: &Broker,
        metrics: &Metrics,
        interval: Duration,
    ) -> std::convert::Infallible {
        let mut schedule = Schedule::new(interval, Instant::now());
        let mut floor = Floor::new(self.config.timeout);
        let mut losses = broker.losses();
        loop {
            tokio::time::sleep_until(schedule.next().into()).await;
            // A broker that is back may have lost the last purge.
            if losses.next().now_or_never().is_some() {
                schedule.failed(Instant::now());
            }
            match self.purge(broker, metrics, &mut schedule, &mut floor).await {
                Ok(()) => self.works(),
                Err(error) => {
                    schedule.failed(Instant::now());
                    metrics.failed(&self.config.name);
                    self.fails(&error);
                }
            }
        }
    }

    /// Looks at the route once, and purges what is not above its floor.
    async fn purge(
        &self,
        broker: &Broker,
        metrics: &Metrics,
        schedule: &mut Schedule,
        floor: &mut Floor,
    ) -> Result<(), NotDone> {
        let name = self.config.name.as_str();
        let progress = broker.progress(&self.stream, consumer_name(&self.config)).await?;
        let standing = floor.look(&progress, Instant::now());
        metrics.stands(name, standing);
        if standing.warn {
            tracing::warn!(
                route = name,
                sequence = progress.floor.saturating_add(1),
                age_s = standing.age.as_secs(),
                kept = standing.kept,
                "an unfinished request holds the acknowledgement floor: the acknowledged requests behind it stay in the stream until it is done or parked"
            );
        }
        let Some(keep) = schedule.floor(progress.floor, Instant::now()) else { return Ok(()) };
        let begun = Instant::now();
        let removed = broker.purge_below(&self.stream, keep).await?;
        let took = begun.elapsed();
        schedule.purged(progress.floor, took, Instant::now());
        metrics.purged(name, removed, took);
        Ok(())
    }

    fn works(&self) {
        if self.trouble.lock().get_or_insert_default().end() {
            tracing::info!(route = self.config.name, "the route is purged again");
        }
    }

    fn fails(&self, error: &NotDone) {
        let reason = error.to_string();
        if self.trouble.lock().get_or_insert_default().begin(&reason, Instant::now()) {
            tracing::warn!(
                route = self.config.name,
                stream = self.stream,
                reason,
                "acknowledged requests are not removed: `tidegate apply` makes what is missing"
            );
        }
    }
}
