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
    broker::{Broker, ConnectFailure, MissingRights, NotDone, Progress},
    config::{Config, Match, Route},
    fault::{Fault, Place},
    lifecycle::Lifecycle,
    subject::{Subjects, all_advisories},
    topology::{ADVISORIES, PARK, RouteConsumer, request_stream, route_consumers},
};

use crate::{
    floor::Floor, floors::Floors, grace::Grace, metrics::Metrics, schedule::Schedule, sweeper::Sweeper,
};

/// Requests to the broker are sent one after the other for each route.
const IN_FLIGHT: usize = 64;
/// How often a route is asked what is left for consumers that have nothing to do, if that takes many questions.
const MANY_QUESTIONS: Duration = Duration::from_secs(1);

/// A purger, connected to the broker.
#[derive(Debug)]
pub struct Purger {
    broker: Broker,
    metrics: Arc<Metrics>,
    interval: Duration,
    routes: Vec<Arc<PurgedRoute>>,
    sweeper: Arc<Sweeper>,
}

/// What is known of a route from one look to the next.
#[derive(Debug)]
struct Known {
    schedule: Schedule,
    floor: Floor,
    floors: Floors,
    grace: Grace,
    /// When many questions were asked last.
    asked: Option<Instant>,
}

/// A route whose stream is purged.
#[derive(Debug)]
struct PurgedRoute {
    config: Route,
    stream: String,
    subjects: Subjects,
    /// The consumers on the stream.
    consumers: Vec<RouteConsumer>,
    /// Whether the first look has come to an end.
    looked_at: AtomicBool,
}

impl Purger {
    /// Connects, waiting until NATS is available.
    pub async fn connect(config: &Config) -> Result<Self, ConnectFailure> {
        let nats = &config.nats;
        let broker = Broker::connect(nats, &nats.purger, "tidegate-purger", IN_FLIGHT, true).await?;
        let broker = broker.past_streams(config, false);
        let stored = config.routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
        let routes = stored.map(|route| {
            Arc::new(PurgedRoute {
                config: route.clone(),
                stream: request_stream(&route.name),
                subjects: config.subjects(),
                consumers: route_consumers(route).into_iter().filter(|c| c.stream != PARK).collect(),
                looked_at: AtomicBool::new(false),
            })
        });
        let (metrics, interval) = (Arc::new(Metrics::new()), config.purger.interval);
        let sweeper = Arc::new(Sweeper::new(broker.clone(), config, Arc::clone(&metrics)));
        Ok(Self { broker, metrics, interval, routes: routes.collect(), sweeper })
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
        let (sweeper, until) = (Arc::clone(&self.sweeper), lifecycle.clone());
        lifecycle.spawn_essential("sweep", async move { sweeper.run(until).await });
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
        let mut known = Known {
            schedule: Schedule::new(interval, Instant::now()),
            floor: Floor::new(self.config.timeout),
            floors: Floors::new(self.consumers.len()),
            grace: Grace::default(),
            asked: None,
        };
        let mut losses = broker.losses();
        loop {
            tokio::time::sleep_until(known.schedule.next().into()).await;
            // A broker that is back may have lost the last purge.
            if losses.next().now_or_never().is_some() {
                known.schedule.failed(Instant::now());
                known.floors.forget();
            }
            let purged = self.purge(broker, metrics, &mut known).await;
            broker.note(|| Place::Purge(self.stream.clone()), &purged);
            self.looked_at.store(true, Relaxed);
            if purged.is_err() {
                known.schedule.failed(Instant::now());
                known.floors.forget();
                metrics.failed(&self.config.name);
            }
        }
    }

    /// Reads how far all consumers are together.
    async fn look(&self, broker: &Broker, known: &mut Known) -> Result<Option<Progress>, NotDone> {
        for (index, consumer) in self.consumers.iter().enumerate() {
            let progress = broker.progress(&self.stream, &consumer.name).await?;
            known.floors.look(index, progress);
        }
        let behind = known.floors.behind();
        let behind = behind.into_iter().filter_map(|index| Some((index, self.consumers.get(index)?)));
        let behind: Vec<_> =
            behind.map(|(index, c)| (index, c.filters(&self.subjects, &self.config))).collect();
        let many = behind.iter().map(|(_, filters)| filters.len()).sum::<usize>() > 2;
        if many && known.asked.is_some_and(|asked| asked.elapsed() < MANY_QUESTIONS) {
            return Ok(known.floors.together());
        }
        if many {
            known.asked = Some(Instant::now());
        }
        for (index, filters) in behind {
            if let Some(sequence) = self.nothing_until(broker, &filters).await? {
                known.floors.nothing_until(index, sequence);
            }
        }
        Ok(known.floors.together())
    }

    /// Up to which sequence the stream has no message that one of the filters takes. `None` if it has one at all.
    async fn nothing_until(&self, broker: &Broker, filters: &[String]) -> Result<Option<u64>, NotDone> {
        let mut until = None;
        for filter in filters {
            let held = broker.held(&self.stream, filter).await?;
            if held.any {
                return Ok(None);
            }
            until = Some(until.map_or(held.last_seq, |until: u64| until.min(held.last_seq)));
        }
        Ok(until)
    }

    /// Whether the sweeper may have to read messages of this route: the broker has said that they were terminated, or delivered as
    /// often as allowed. Without the stream of advisories nothing is ever said, so nothing is waited for.
    async fn sweeper_has_work(&self, broker: &Broker) -> Result<bool, NotDone> {
        match broker.held(ADVISORIES, &all_advisories(&self.stream)).await {
            Ok(held) => Ok(held.any),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Looks at the route once, and purges what is not above its floor.
    async fn purge(&self, broker: &Broker, metrics: &Metrics, known: &mut Known) -> Result<(), NotDone> {
        let name = self.config.name.as_str();
        let Some(progress) = self.look(broker, known).await? else { return Ok(()) };
        let Known { schedule, floor, grace, .. } = known;
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
        let settled = grace.look(progress.floor, Instant::now());
        let Some(keep) = schedule.floor(settled, Instant::now()) else { return Ok(()) };
        if self.sweeper_has_work(broker).await? {
            schedule.held(Instant::now());
            return Ok(());
        }
        let begun = Instant::now();
        let removed = broker.purge_below(&self.stream, keep).await?;
        let took = begun.elapsed();
        schedule.purged(settled, took, Instant::now());
        metrics.purged(name, removed, took);
        Ok(())
    }
}
