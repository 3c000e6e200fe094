//! The purger at work: one task for each route asks the broker for the floor and purges. The decisions are in `schedule` and
//! `floor`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tidegate_shared::{
    access::Account,
    broker::{Broker, ConnectFailure, MissingRights, NotDone},
    config::{Config, Match, Route},
    fault::{Fault, Place},
    lifecycle::Lifecycle,
    topology::{consumer_name, request_stream},
};

use crate::{floor::Floor, metrics::Metrics, schedule::Schedule};

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
    /// Whether the first look has come to an end.
    looked_at: AtomicBool,
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
                looked_at: AtomicBool::new(false),
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
        let unseen = self.routes.iter().filter(|route| !route.looked_at.load(Relaxed));
        let unseen = unseen.map(|route| format!("route {}: not looked at yet", route.config.name));
        let faults = self.broker.health().open();
        let problems: Vec<String> = unseen.chain(faults.iter().map(Fault::to_string)).collect();
        (!problems.is_empty()).then(|| problems.join("\n"))
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
            let purged = self.purge(broker, metrics, &mut schedule, &mut floor).await;
            broker.note(|| Place::Purge(self.stream.clone()), &purged);
            self.looked_at.store(true, Relaxed);
            if purged.is_err() {
                schedule.failed(Instant::now());
                metrics.failed(&self.config.name);
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
}
