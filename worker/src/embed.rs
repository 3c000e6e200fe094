//! A worker inside a process: building it, starting it, watching it, ending it.
//!
//! Never ends the process, never sets up logging, and listens to no signal: `program` does all that.

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc};

use tidegate_shared::{
    config::Config,
    failure,
    id::random_token,
    lifecycle::{Lifecycle, TaskEnded},
};
use tokio::net::TcpListener;

use crate::{
    fault::Faults,
    health::{self, Health},
    router::Router,
    runtimes::{Begun, EngineRuntime},
    worker::{Connected, StartFailure},
};

/// When it completes, the worker drains.
type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running worker, in a process of yours.
///
/// Your `main`, your runtime and your `tracing` subscriber stay yours: a worker sets up nothing that belongs to the process, and
/// never ends it. Handlers run on the runtime that starts the worker. Everything else runs on a thread of the worker's own, so
/// handlers that block their threads lose no request. [`program`](crate::program) is the whole process around one, for those who
/// want it made.
///
/// ```no_run
/// use tidegate_worker::{Config, Json, Router, User, Worker, on};
///
/// async fn greet(User(user): User, Json(greeting): Json<String>) -> Json<String> {
///     Json(format!("{greeting}, {user}!"))
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let config = Config::for_worker(None)?;
///     let router: Router = Router::new().route("greet", on(greet));
///     let interrupted = async { drop(tokio::signal::ctrl_c().await) };
///     Worker::builder(&config).router(router).shutdown(interrupted).run().await?;
///     Ok(())
/// }
/// ```
///
/// A worker that is dropped ends at once. Requests that it had not settled go to another worker after `worker.ack_wait`, as if the
/// process had ended; [`Worker::drain`] loses no time.
#[derive(Debug)]
pub struct Worker {
    lifecycle: Lifecycle,
    health: Arc<Health>,
    internal: Option<Internal>,
    consuming: Begun<Result<(), TaskEnded>>,
    #[cfg(feature = "testing")]
    broker: tidegate_shared::broker::Broker,
    _asked: Option<Begun<()>>,
    _engine: Arc<EngineRuntime>,
}

/// What a worker needs before it starts. [`Worker::builder`] makes one.
pub struct WorkerBuilder {
    config: Config,
    router: Router,
    name: Option<String>,
    internal: Option<SocketAddr>,
    shutdown: Option<Shutdown>,
    inside: Option<(Arc<EngineRuntime>, Lifecycle)>,
    #[cfg(feature = "testing")]
    local_time: Option<fn() -> std::time::SystemTime>,
    #[cfg(feature = "testing")]
    gathers: bool,
    #[cfg(feature = "testing")]
    faults: Vec<crate::fault::Fault>,
}

/// Why a worker ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFailure {
    /// It could not start.
    #[error(transparent)]
    Start(#[from] StartFailure),
    /// A part of it ended that it cannot work without. It has finished what it had begun. Start it again.
    #[error(transparent)]
    Ended(#[from] TaskEnded),
}

/// The listener for health and metrics.
#[derive(Debug)]
struct Internal {
    address: SocketAddr,
    serving: Begun<std::io::Result<()>>,
}

impl Worker {
    /// Begins to build a worker with this configuration, whose `[[route]]` table says what there is to bind handlers to.
    pub fn builder(config: &Config) -> WorkerBuilder {
        WorkerBuilder {
            config: config.clone(),
            router: Router::new(),
            name: None,
            internal: None,
            shutdown: None,
            inside: None,
            #[cfg(feature = "testing")]
            local_time: None,
            #[cfg(feature = "testing")]
            gathers: false,
            #[cfg(feature = "testing")]
            faults: Vec::new(),
        }
    }

    /// Asks the worker to end: it takes no further requests and finishes those under way, within `worker.drain`. Wait for
    /// [`Worker::ended`] then.
    pub fn drain(&self) {
        self.lifecycle.drain();
    }

    /// Asks the worker to end now. It gives requests under way back to the broker, which costs each of them one attempt.
    pub fn stop(&self) {
        self.lifecycle.stop();
    }

    /// Waits until the worker has ended: after [`Worker::drain`], [`Worker::stop`], the end of the future that
    /// [`WorkerBuilder::shutdown`] has, or a failure.
    ///
    /// # Errors
    ///
    /// A part of the worker has ended that it cannot work without, such as a route whose consumer was deleted. The error names it.
    /// The worker has drained; start another one.
    pub async fn ended(mut self) -> Result<(), TaskEnded> {
        let Some(internal) = &mut self.internal else { return self.consuming.end().await };
        tokio::select! {
            ended = self.consuming.end() => ended,
            served = internal.serving.end() => {
                let reason = served.map_or_else(|error| failure::reason(&error), |()| "it returned".to_owned());
                self.lifecycle.fail(TaskEnded { task: "internal listener", reason });
                self.consuming.end().await
            }
        }
    }

    /// Why the worker does not do all of its work now, one sentence a line. `None` when it does. A program that serves its own
    /// health checks answers with it.
    pub fn unready(&self) -> Option<String> {
        self.health.unready()
    }

    /// All metrics of the worker, in the text format of OpenMetrics.
    pub fn metrics(&self) -> String {
        self.health.page().unwrap_or_default()
    }

    /// Where health and metrics are served, if [`WorkerBuilder::internal`] asked for it.
    pub fn internal(&self) -> Option<SocketAddr> {
        self.internal.as_ref().map(|internal| internal.address)
    }

    /// The worker's connection to NATS, for this repository's own tests.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn broker(&self) -> &tidegate_shared::broker::Broker {
        &self.broker
    }
}

impl WorkerBuilder {
    /// Adds the handlers of a router. May be called several times.
    #[must_use]
    pub fn router<S: Clone + Send + Sync + 'static>(mut self, router: Router<S>) -> Self {
        self.router = self.router.merge(router);
        self
    }

    /// Sets the worker's name in its answers and at NATS. Default: a random one.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Serves `/healthz`, `/readyz` and `/metrics` on this address, from before the connection to NATS is made. With port 0 the
    /// system chooses one, which [`Worker::internal`] says. Default: nothing is served.
    #[must_use]
    pub fn internal(mut self, address: SocketAddr) -> Self {
        self.internal = Some(address);
        self
    }

    /// Drains the worker when this future completes. It runs on the worker's own thread, so it must not block.
    #[must_use]
    pub fn shutdown(mut self, asked: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Some(Box::pin(asked));
        self
    }

    /// Sets what this machine's clock says to the worker. For tests of a wrong clock: nothing that the worker does depends on
    /// it.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn local_time(mut self, local: fn() -> std::time::SystemTime) -> Self {
        self.local_time = Some(local);
        self
    }

    /// Lets answers gather from the start, however fast the broker is, for this repository's own tests.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn gather_answers(mut self) -> Self {
        self.gathers = true;
        self
    }

    /// Plans a fault that the worker meets. May be called several times. For tests.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn fault(mut self, fault: crate::fault::Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Uses an engine and a lifecycle that exist.
    pub(crate) fn inside(mut self, engine: Arc<EngineRuntime>, lifecycle: Lifecycle) -> Self {
        self.inside = Some((engine, lifecycle));
        self
    }

    /// Runs the worker to its end, and returns when it has ended: [`WorkerBuilder::start`], then [`Worker::ended`].
    pub async fn run(self) -> Result<(), RunFailure> {
        match Box::pin(self.start()).await {
            Ok(worker) => Ok(worker.ended().await?),
            // It has no requests to finish.
            Err(StartFailure::Stopped) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Starts the worker: binds the handlers, connects, waiting until NATS is there, and waits up to 30 seconds for the consumers,
    /// which `tidegate apply` creates. The handlers run on the calling runtime.
    pub async fn start(self) -> Result<Worker, StartFailure> {
        let (engine, lifecycle) = match self.inside {
            Some((engine, lifecycle)) => (engine, lifecycle),
            None => (Arc::new(EngineRuntime::start()?), Lifecycle::new()),
        };
        let name = self.name.unwrap_or_else(random_token::<5>);
        let health = Arc::new(Health::new(lifecycle.clone(), self.router.pages()));
        let asked = self.shutdown.map(|shutdown| {
            let lifecycle = lifecycle.clone();
            engine.begin(async move {
                shutdown.await;
                lifecycle.drain();
            })
        });
        let internal = match self.internal {
            Some(address) => Some(Internal::open(&engine, address, &health).await?),
            None => None,
        };
        let address = internal.as_ref().map(|internal| tracing::field::display(internal.address));
        tracing::info!(worker.name = name, internal = address, "worker starting");
        #[cfg(feature = "testing")]
        let faults = Faults::new(self.faults);
        #[cfg(not(feature = "testing"))]
        let faults = Faults;
        let connecting = async {
            let engine = Arc::clone(&engine);
            let connected = Connected::new(engine, &self.config, &name, self.router, faults).await?;
            #[cfg(feature = "testing")]
            if let Some(local) = self.local_time {
                connected.set_local_time(local);
            }
            #[cfg(feature = "testing")]
            if self.gathers {
                connected.gather_answers();
            }
            connected.find_consumers().await?;
            Ok::<_, StartFailure>(connected)
        };
        let connected = tokio::select! {
            () = lifecycle.draining() => return Err(StartFailure::Stopped),
            connected = connecting => connected?,
        };
        health.started(connected.broker().clone(), connected.metrics());
        Ok(Worker {
            #[cfg(feature = "testing")]
            broker: connected.broker().clone(),
            consuming: connected.consume(lifecycle.clone()),
            lifecycle,
            health,
            internal,
            _asked: asked,
            _engine: engine,
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, router, internal, .. } = self;
        let mut shown = f.debug_struct("WorkerBuilder");
        shown.field("name", name).field("router", router).field("internal", internal).finish_non_exhaustive()
    }
}

impl Internal {
    /// Listens on the engine's thread, which no handler blocks.
    async fn open(
        engine: &EngineRuntime,
        address: SocketAddr,
        health: &Arc<Health>,
    ) -> Result<Self, StartFailure> {
        let refused =
            |error: std::io::Error| StartFailure::Internal { address, reason: failure::reason(&error) };
        let listener = engine.run(TcpListener::bind(address)).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let serving = engine.begin(health::serve(listener, Arc::clone(health)));
        Ok(Self { address, serving })
    }
}
