//! One route of one worker: its two consumers, the permits they share, and the life of a delivery.
//!
//! Decides when a request is worked on, never how it ends; that is `settle`.

use std::{sync::Arc, time::Duration};

use tidegate_shared::{
    broker::Broker,
    config::{Config, Match, Route},
    lifecycle::Lifecycle,
    subject::Subjects,
    topology::consumer_name,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    delivery::Delivery,
    handler::BoxedHandler,
    metrics::{Metrics, Outcome},
    pull::{Interrupted, Source},
};

/// A message needs a sign of life this often per `ack_wait`, so that two may be lost.
const SIGNS_PER_ACK_WAIT: u32 = 3;
/// How long a request that was cut off waits for another worker.
const RETURN_DELAY: Duration = Duration::from_secs(1);
/// The longest pause after a failed pull.
const PAUSE_CAP: Duration = Duration::from_secs(1);

/// A permit, if there was one.
type Permit = Option<OwnedSemaphorePermit>;

/// What all routes of a worker share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) broker: Broker,
    pub(crate) config: Config,
    pub(crate) subjects: Subjects,
    /// The namespaces that exist.
    pub(crate) namespaces: Vec<String>,
    /// The worker's name in its answers.
    pub(crate) name: String,
    pub(crate) metrics: Arc<Metrics>,
    /// Deliveries that are not settled.
    pub(crate) deliveries: TaskTracker,
    /// Ends whatever is not settled.
    pub(crate) cut_off: CancellationToken,
}

/// One route of one worker.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) route: Route,
    pub(crate) matches: Arc<Match>,
    pub(crate) handler: BoxedHandler,
    pub(crate) permits: Arc<Semaphore>,
}

impl Runner {
    pub(crate) fn new(engine: Arc<Engine>, route: Route, handler: BoxedHandler) -> Self {
        let matches = Arc::new(route.matches.clone());
        let permits = Arc::new(Semaphore::new(route.concurrency));
        Self { engine, route, matches, handler, permits }
    }

    /// Pulls one of the route's two consumers until the worker drains.
    pub(crate) async fn consume(self: Arc<Self>, stream: &'static str, lifecycle: Lifecycle) {
        let mut source = Source::new(self.engine.broker.clone(), stream, consumer_name(&self.route));
        let mut failures = 0_u32;
        loop {
            let pulled = tokio::select! {
                biased;
                () = lifecycle.draining() => break,
                pulled = self.pull(&mut source, &lifecycle) => pulled,
            };
            match pulled {
                Ok(()) => failures = 0,
                Err(interrupted) => {
                    if failures == 0 {
                        tracing::warn!(route = self.route.name, stream, %interrupted, "consuming stopped; trying again");
                    }
                    let pause = Duration::from_millis(100).saturating_mul(2_u32.saturating_pow(failures));
                    failures += 1;
                    tokio::select! {
                        () = lifecycle.draining() => break,
                        () = tokio::time::sleep(pause.min(PAUSE_CAP)) => {}
                    }
                }
            }
        }
        for message in source.close().await {
            self.take(Delivery::new(message), &lifecycle);
        }
    }

    /// One pull: as many messages as permits are free. No permit is held meanwhile, since the other consumer may use it.
    async fn pull(self: &Arc<Self>, source: &mut Source, lifecycle: &Lifecycle) -> Result<(), Interrupted> {
        drop(self.permits.acquire().await);
        source.ask(self.permits.available_permits().max(1)).await?;
        while let Some(message) = source.next().await? {
            self.take(Delivery::new(message), lifecycle);
        }
        Ok(())
    }

    /// Takes a permit, if there is one, before the next pull counts those that are free.
    fn take(self: &Arc<Self>, delivery: Delivery, lifecycle: &Lifecycle) {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        let (this, lifecycle) = (Arc::clone(self), lifecycle.clone());
        self.engine.deliveries.spawn(async move {
            let outcome = this.attend(&delivery, permit, &lifecycle).await;
            this.engine.metrics.ended(&this.route.name, outcome);
        });
    }

    /// Keeps the delivery alive until it is settled, handed on or cut off.
    async fn attend(&self, delivery: &Delivery, permit: Permit, lifecycle: &Lifecycle) -> Outcome {
        let interval = self.engine.config.worker.ack_wait / SIGNS_PER_ACK_WAIT;
        tokio::select! {
            biased;
            () = self.engine.cut_off.cancelled() => {
                delivery.nak(RETURN_DELAY).await;
                Outcome::Returned
            }
            never = delivery.keep_alive(interval) => match never {},
            outcome = self.when_permitted(delivery, permit, lifecycle) => outcome,
        }
    }

    /// Settles the delivery when it has a permit. A draining worker begins nothing, and hands it on instead.
    async fn when_permitted(&self, delivery: &Delivery, permit: Permit, lifecycle: &Lifecycle) -> Outcome {
        let permit = tokio::select! {
            biased;
            () = lifecycle.draining() => None,
            permit = self.permitted(permit) => permit,
        };
        match permit {
            Some(_permit) => self.settle(delivery).await,
            None => self.hand_on(delivery).await,
        }
    }

    async fn permitted(&self, permit: Permit) -> Permit {
        match permit {
            Some(permit) => Some(permit),
            None => Arc::clone(&self.permits).acquire_owned().await.ok(),
        }
    }
}
