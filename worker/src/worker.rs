//! A worker: it connects, waits for its consumers, and consumes until the process drains.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::jetstream::consumer::PullConsumer;
use tidegate_shared::{
    access::Account,
    broker::{Broker, ConnectFailure, MissingRights},
    config::{Config, Match, Route},
    lifecycle::{Lifecycle, TaskEnded},
    topology::consumer_name,
};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    consume::ConsumeTasks,
    engine::{BoundRoute, Engine},
    handler::BoxedHandler,
    hook::HookRunner,
    metrics::Metrics,
    permit::Room,
    router::Router,
    runner::Runner,
    runtimes::{self, EngineRuntime},
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

/// Handlers connected to their routes. [`program`](crate::program) does all of this; use a worker directly to run it inside a
/// process of your own. Handlers run on the runtime that calls [`Worker::connect`]; everything else runs on a thread of the
/// worker's own, so that handlers that block their threads lose no request:
///
/// ```no_run
/// use tidegate_shared::{config::Config, lifecycle::Lifecycle};
/// use tidegate_worker::{Router, Worker, on};
///
/// async fn ping() {}
///
/// # async fn run(config: &Config) -> anyhow::Result<()> {
/// let lifecycle = Lifecycle::new();
/// lifecycle.listen_for_signals()?;
/// let worker = Worker::connect(config, "worker-1", Router::new().route("ping", on(ping))).await?;
/// worker.find_consumers().await?;
/// worker.run(&lifecycle).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Worker {
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

impl Worker {
    /// Binds the router to the route table and connects, waiting until NATS is available. `name` is the worker's name in its
    /// answers. Fails when the router has a name that is not in the route table, or NATS refuses the connection.
    pub async fn connect<S>(config: &Config, name: &str, router: Router<S>) -> Result<Self, StartFailure>
    where
        S: Clone + Send + Sync + 'static,
    {
        Self::connect_on(Arc::new(EngineRuntime::start()?), config, name, router).await
    }

    /// As [`Self::connect`], on an engine that has started.
    pub(crate) async fn connect_on<S>(
        runtime: Arc<EngineRuntime>,
        config: &Config,
        name: &str,
        router: Router<S>,
    ) -> Result<Self, StartFailure>
    where
        S: Clone + Send + Sync + 'static,
    {
        let bound = bind(config, router)?;
        let connection_name = format!("tidegate-worker {name}");
        let nats = config.nats.clone();
        let connect =
            async move { Broker::connect(&nats, &nats.worker, &connection_name, IN_FLIGHT, true).await };
        let broker = runtime.run(connect).await?;
        let metrics = Arc::new(Metrics::new());
        let engine = Arc::new(Engine {
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
            alone: Semaphore::new(1),
            deliveries: TaskTracker::new(),
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
    pub async fn find_consumers(&self) -> Result<(), StartFailure> {
        let deadline = Instant::now() + CONSUMERS_LIMIT;
        let Engine { broker, config, .. } = &*self.routes.engine;
        broker.try_rights(config, Account::Worker, false).await?;
        for runner in &self.routes.runners {
            for stream in runner.streams() {
                self.routes.find_consumer(&runner.route().config, &stream, deadline).await?;
            }
        }
        broker.try_rights(config, Account::Worker, true).await?;
        Ok(())
    }

    /// The worker's metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.routes.engine.metrics)
    }

    /// Sets what this machine's clock says to the worker. For tests of a wrong clock: nothing that the worker does depends on
    /// it.
    #[doc(hidden)]
    pub fn set_local_time(&self, local: fn() -> SystemTime) {
        self.routes.engine.clock.set_local(local);
    }

    /// The worker's connection to NATS.
    pub fn broker(&self) -> &Broker {
        &self.routes.engine.broker
    }

    /// Consumes until the process drains, then finishes the requests under way within `worker.drain` and returns. Requests that
    /// are not settled by then go back to the broker, which delivers them to other workers.
    ///
    /// # Errors
    ///
    /// A route that can no longer consume drains the whole worker, and the error names it. The program should then exit with a
    /// code other than 0, so that its supervisor starts it again. The same holds for another essential task that failed
    /// `lifecycle`.
    pub async fn run(self, lifecycle: &Lifecycle) -> Result<(), TaskEnded> {
        let Self { routes, runtime } = self;
        let lifecycle = lifecycle.clone();
        let watched = async move {
            tokio::select! {
                ended = routes.run(&lifecycle) => ended,
                never = runtimes::watch(&routes.engine.handlers, &routes.engine.metrics) => match never {},
            }
        };
        runtime.run(watched).await
    }
}

impl Routes {
    async fn run(&self, lifecycle: &Lifecycle) -> Result<(), TaskEnded> {
        let mut consuming = ConsumeTasks::default();
        for runner in &self.runners {
            for stream in runner.streams() {
                let consume = Arc::clone(runner).consume(stream, lifecycle.clone());
                consuming.spawn(runner.route().name(), consume);
            }
        }
        for runner in &self.hook_runners {
            consuming.spawn(runner.route().name(), Arc::clone(runner).consume(lifecycle.clone()));
        }
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
        stream: &str,
        deadline: Instant,
    ) -> Result<(), StartFailure> {
        let jetstream = self.engine.broker.jetstream();
        let mut warned = false;
        loop {
            let found: Result<PullConsumer, _> =
                jetstream.get_consumer_from_stream(consumer_name(route), stream).await;
            let Err(error) = found else { return Ok(()) };
            if Instant::now() >= deadline {
                let (route, stream, reason) = (route.name.clone(), stream.to_owned(), error.to_string());
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

fn bind<S>(config: &Config, router: Router<S>) -> Result<Vec<BoundRoute>, Misconfigured>
where
    S: Clone + Send + Sync + 'static,
{
    let find = |(name, handler): (String, BoxedHandler)| {
        let route = config.routes.iter().find(|route| route.name == name).cloned();
        let names = || config.routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>().join(", ");
        route.map(|route| BoundRoute::new(route, handler)).ok_or_else(|| {
            Misconfigured::new(format!(
                "there is a handler for the route {name:?}, but no such [[route]]; there are: {}",
                names()
            ))
        })
    };
    router.into_routes().into_iter().map(find).collect()
}
