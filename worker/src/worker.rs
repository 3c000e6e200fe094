//! What a worker does: it connects, waits for its consumers, and consumes until the process drains.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_nats::jetstream::consumer::PullConsumer;
use tidegate_shared::{
    access::Account,
    broker::{Broker, ConnectFailure, MissingRights},
    config::{Config, Match, Route},
    lifecycle::{Lifecycle, TaskEnded},
    topology::RouteConsumer,
};
use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    acks::Acks,
    attempt::Ends,
    bind::bind,
    clock::Clock,
    committer::Committers,
    consume::ConsumeTasks,
    engine::Engine,
    exposed::Exposed,
    fault::Faults,
    hand_overs::HandOvers,
    hook::HookRunner,
    inquiry,
    look_up::LookUps,
    metrics::Metrics,
    permit::Room,
    queues::{self, RouteQueues},
    registration::{Endpoint, Registration},
    router::Router,
    runner::Runner,
    runtimes::{self, Begun, EngineRuntime},
    stall::Stall,
};

/// The most unacknowledged publishes of one worker. Further ones wait.
const IN_FLIGHT: usize = 4096;
/// How long the worker waits for its consumers: `tidegate apply`, which creates them, often runs at the same time.
const CONSUMERS_LIMIT: Duration = Duration::from_secs(30);
/// How often the worker looks for its consumers.
const CONSUMERS_PAUSE: Duration = Duration::from_millis(500);
/// How long giving unsettled requests back to the broker may take.
const CUT_OFF_LIMIT: Duration = Duration::from_secs(2);

/// A configuration that the program cannot use. The text names the key and what to do; the program exits with code 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(String);

impl Misconfigured {
    /// An error with this text.
    pub fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartFailure {
    /// The router does not fit the route table.
    #[error(transparent)]
    Misconfigured(#[from] Misconfigured),
    /// The connection to NATS cannot be made.
    #[error(transparent)]
    Connect(#[from] ConnectFailure),
    /// The thread that pulls and settles requests cannot be started.
    #[error("cannot start the worker's own thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The NATS user lacks rights.
    #[error(transparent)]
    Rights(#[from] MissingRights),
    /// The listener for health and metrics cannot be opened.
    #[error("cannot listen on {address} for health and metrics: {reason}")]
    Internal {
        /// The address.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// It was asked to stop before it had started.
    #[error("the worker was asked to stop before it had started")]
    Stopped,
    /// A route has no consumer. `tidegate apply` creates it.
    #[error("route {route} has no consumer on {stream}: run `tidegate apply` ({reason})")]
    NoConsumer {
        /// The route's name.
        route: String,
        /// The stream that lacks the consumer.
        stream: String,
        /// The broker's error.
        reason: String,
    },
}

/// Handlers connected to their routes, before they consume.
#[derive(Debug)]
pub(crate) struct Connected {
    routes: Routes,
    runtime: Arc<EngineRuntime>,
}

/// The routes of a worker and what they share.
#[derive(Debug)]
struct Routes {
    engine: Arc<Engine>,
    runners: Vec<Arc<Runner>>,
    hook_runners: Vec<Arc<HookRunner>>,
}

impl Connected {
    /// Binds the router to the route table and connects, waiting until NATS is available. `name` is the worker's name in its
    /// answers. Fails when the router does not fit the route table, or NATS refuses the connection. Handlers run on the calling
    /// runtime.
    pub(crate) async fn new(
        runtime: Arc<EngineRuntime>,
        config: &Config,
        name: &str,
        router: Router,
        faults: Faults,
    ) -> Result<Self, StartFailure> {
        let bound = bind(config, router).map_err(Misconfigured::new)?;
        let connection_name = format!("tidegate-worker {name}");
        let nats = config.nats.clone();
        let connect =
            async move { Broker::connect(&nats, &nats.worker, &connection_name, IN_FLIGHT, true).await };
        let broker = runtime.run(connect).await?.past_streams(config, false);
        let (reading, of) = (broker.clone(), config.clone());
        let starts = async move {
            let hand_overs = HandOvers::start(&reading, &of.subjects());
            let gathering = (Committers::start(&reading, &of), hand_overs, Acks::start(&reading));
            (LookUps::start(&reading), gathering, Ends::start())
        };
        let (look_ups, (committers, hand_overs, acks), ends) = runtime.run(starts).await;
        let metrics = Arc::new(Metrics::new());
        let engine = Arc::new(Engine {
            look_ups,
            committers,
            hand_overs,
            acks,
            broker,
            config: config.clone(),
            subjects: config.subjects(),
            namespaces: config.all_namespaces().into_iter().map(|namespace| namespace.name).collect(),
            name: name.to_owned(),
            stall: Arc::new(Stall::new(Arc::clone(&metrics))),
            metrics,
            clock: Clock::new(),
            room: Room::new(),
            handlers: Handle::current(),
            ends,
            alone: Semaphore::new(1),
            exposed: Exposed::default(),
            running: Arc::default(),
            deliveries: TaskTracker::new(),
            faults,
            cut_off: CancellationToken::new(),
        });
        let (mut runners, mut hook_runners) = (Vec::new(), Vec::new());
        for route in bound {
            let engine = Arc::clone(&engine);
            match route.config.matches {
                Match::Hook(event) => hook_runners.push(Arc::new(HookRunner::new(engine, route, event))),
                Match::Rpc(_) | Match::Send | Match::Publish(_) => {
                    runners.push(Arc::new(Runner::new(engine, route)));
                }
            }
        }
        Ok(Self { routes: Routes { engine, runners, hook_runners }, runtime })
    }

    /// Waits up to 30 seconds until every route that consumes from streams has its consumers, which `tidegate apply` creates.
    pub(crate) async fn find_consumers(&self) -> Result<(), StartFailure> {
        let deadline = Instant::now() + CONSUMERS_LIMIT;
        let Engine { broker, config, .. } = &*self.routes.engine;
        broker.try_rights(config, Account::Worker, false).await?;
        for runner in &self.routes.runners {
            for consumer in runner.consumers() {
                self.routes.find_consumer(&runner.route().config, &consumer, deadline).await?;
            }
        }
        broker.try_rights(config, Account::Worker, true).await?;
        Ok(())
    }

    /// The worker's metrics.
    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.routes.engine.metrics)
    }

    /// Sets what this machine's clock says to the worker. For tests of a wrong clock: nothing that the worker does depends on
    /// it.
    #[cfg(feature = "testing")]
    pub(crate) fn set_local_time(&self, local: fn() -> std::time::SystemTime) {
        self.routes.engine.clock.set_local(local);
    }

    /// Lets answers gather from now on, however fast the broker is. For tests of the batches in which they are stored.
    #[cfg(feature = "testing")]
    pub(crate) fn gather_answers(&self) {
        self.routes.engine.committers.gather_always();
    }

    /// The worker's connection to NATS.
    pub(crate) fn broker(&self) -> &Broker {
        &self.routes.engine.broker
    }

    /// Begins to consume on the engine's thread, until the process drains. Then the requests under way are finished within
    /// `worker.drain`. Requests that are not settled by then go back to the broker, which delivers them to other workers. A route
    /// that can no longer consume drains the whole worker, and the error names it.
    pub(crate) fn consume(self, lifecycle: Lifecycle) -> Begun<Result<(), TaskEnded>> {
        let Self { routes, runtime } = self;
        let (queues, registration) = (routes.queues(), routes.registration());
        runtime.begin(async move {
            tokio::select! {
                ended = routes.run(&lifecycle) => ended,
                ended = routes.engine.faults.crash() => Err(ended),
                never = queues::watch(&routes.engine, &queues) => match never {},
                never = registration.serve() => match never {},
                never = runtimes::watch(&routes.engine.handlers, &routes.engine.metrics) => match never {},
            }
        })
    }
}

impl Routes {
    /// The consumers of every route, whose figures are shown.
    fn queues(&self) -> Vec<RouteQueues> {
        let of = |runner: &Arc<Runner>| {
            let config = &runner.route().config;
            let consumers = runner.consumers().into_iter().map(|consumer| (consumer.stream, consumer.name));
            RouteQueues { route: config.name.clone(), consumers: consumers.collect() }
        };
        self.runners.iter().map(of).collect()
    }

    fn registration(&self) -> Registration {
        let subjects = &self.engine.subjects;
        let of_runner = |runner: &Arc<Runner>| {
            let config = &runner.route().config;
            let subject = config.matches.filter(subjects, "in").unwrap_or_default();
            Endpoint { route: config.name.clone(), subject }
        };
        let of_hook = |runner: &Arc<HookRunner>| {
            let route = runner.route().name().to_owned();
            Endpoint { route, subject: subjects.hook(runner.event()) }
        };
        let endpoints = self.runners.iter().map(of_runner).chain(self.hook_runners.iter().map(of_hook));
        Registration::new(&self.engine, endpoints.collect())
    }

    async fn run(&self, lifecycle: &Lifecycle) -> Result<(), TaskEnded> {
        let mut consuming = ConsumeTasks::default();
        for runner in &self.runners {
            for consumer in runner.consumers() {
                let consume = Arc::clone(runner).consume(consumer, lifecycle.clone());
                consuming.spawn(runner.route().name(), consume);
            }
        }
        for runner in &self.hook_runners {
            consuming.spawn(runner.route().name(), Arc::clone(runner).consume(lifecycle.clone()));
        }
        // Ends with this function: a draining worker still runs requests.
        let mut serving = JoinSet::new();
        let (engine, serves) = (Arc::clone(&self.engine), lifecycle.clone());
        serving.spawn(async move {
            if let Err(refusal) = inquiry::serve(&engine, &serves).await {
                tracing::error!(%refusal, "gateways cannot ask about running requests");
            }
        });
        let routes = self.runners.len() + self.hook_runners.len();
        tracing::info!(worker.name = self.engine.name, routes, "consuming");
        consuming.watch(lifecycle).await;
        let deadline = Instant::now() + self.engine.config.worker.drain;
        consuming.finish(lifecycle).await;
        self.finish_deliveries(deadline, lifecycle).await;
        lifecycle.failure().cloned().map_or(Ok(()), Err)
    }

    async fn finish_deliveries(&self, deadline: Instant, lifecycle: &Lifecycle) {
        let deliveries = &self.engine.deliveries;
        deliveries.close();
        tracing::info!(unsettled = deliveries.len(), "draining");
        let finished = tokio::select! {
            () = deliveries.wait() => true,
            () = tokio::time::sleep_until(deadline) => false,
            () = lifecycle.stopping() => false,
        };
        if !finished {
            tracing::warn!(unsettled = deliveries.len(), "giving unsettled requests back to the broker");
            self.engine.cut_off.cancel();
            let _ = tokio::time::timeout(CUT_OFF_LIMIT, deliveries.wait()).await;
        }
        // Acknowledgements may still be in the client's buffer.
        let _ = tokio::time::timeout(CUT_OFF_LIMIT, self.engine.broker.client().flush()).await;
    }

    async fn find_consumer(
        &self,
        route: &Route,
        consumer: &RouteConsumer,
        deadline: Instant,
    ) -> Result<(), StartFailure> {
        let RouteConsumer { stream, name, .. } = consumer;
        let jetstream = self.engine.broker.jetstream();
        let mut warned = false;
        loop {
            let found: Result<PullConsumer, _> = jetstream.get_consumer_from_stream(name, stream).await;
            let Err(error) = found else { return Ok(()) };
            if Instant::now() >= deadline {
                let (route, stream, reason) = (route.name.clone(), stream.clone(), error.to_string());
                return Err(StartFailure::NoConsumer { route, stream, reason });
            }
            if !warned {
                tracing::warn!(route = route.name, stream, %error, "waiting for the route's consumer: run `tidegate apply`");
                warned = true;
            }
            tokio::time::sleep(CONSUMERS_PAUSE).await;
        }
    }
}
