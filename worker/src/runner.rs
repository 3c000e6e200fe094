//! One route of one worker: its two consumers, the permits they share, and the life of a delivery.
//!
//! Decides when a request is worked on. How the request ends is up to `settle`.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tidegate_shared::{
    lifecycle::Lifecycle,
    topology::{PARK, consumer_name, request_stream},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    backoff::Pauses,
    delivery::Delivery,
    engine::{BoundRoute, Engine},
    metrics::Ending,
    pull::{PullError, Puller},
    settle::{self, Settlement},
};

/// In-progress acknowledgements per `ack_wait`: two may be lost before the broker delivers the message again.
const PROGRESS_PER_ACK_WAIT: u32 = 3;
/// How long a request that was cut off waits for another worker.
const RETURN_DELAY: Duration = Duration::from_secs(1);
/// How long storing such a request for another worker may take. After that it goes back to the broker.
const HAND_ON_LIMIT: Duration = Duration::from_secs(1);
/// The pause after the first failed pull.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Runs one route whose requests come from streams.
#[derive(Debug)]
pub(crate) struct Runner {
    engine: Arc<Engine>,
    route: Arc<BoundRoute>,
    permits: Arc<Semaphore>,
}

impl Runner {
    pub(crate) fn new(engine: Arc<Engine>, route: BoundRoute) -> Self {
        let permits = Arc::new(Semaphore::new(route.config.concurrency));
        Self { engine, route: Arc::new(route), permits }
    }

    pub(crate) fn route(&self) -> &BoundRoute {
        &self.route
    }

    /// The streams that its requests come from: the route's own, and that of all parked requests.
    pub(crate) fn streams(&self) -> [String; 2] {
        [request_stream(self.route.name()), PARK.to_owned()]
    }

    /// Pulls from one of the route's two consumers until the worker drains.
    pub(crate) async fn consume(self: Arc<Self>, stream: String, lifecycle: Lifecycle) {
        let consumer = consumer_name(&self.route.config);
        let mut puller = Puller::new(self.engine.broker.clone(), &stream, consumer);
        let mut pauses = Pauses::new(FIRST_PAUSE);
        loop {
            let pulled = tokio::select! {
                biased;
                () = lifecycle.draining() => break,
                pulled = self.pull(&mut puller, &lifecycle) => pulled,
            };
            let Err(error) = pulled else {
                pauses.succeeded();
                continue;
            };
            // What others would meet too is a fault, which is logged as such.
            tracing::debug!(route = self.route.name(), stream, %error, "a pull failed: trying again");
            tokio::select! {
                () = lifecycle.draining() => break,
                () = tokio::time::sleep(pauses.failed()) => {}
            }
        }
        for message in puller.close().await {
            self.take(Delivery::new(message), &lifecycle);
        }
    }

    /// Makes one pull, of as many messages as permits are free. It holds no permit: the route's other consumer may use them.
    async fn pull(self: &Arc<Self>, puller: &mut Puller, lifecycle: &Lifecycle) -> Result<(), PullError> {
        drop(self.permits.acquire().await);
        puller.ask(self.permits.available_permits().max(1)).await?;
        while let Some(message) = puller.next().await? {
            self.take(Delivery::new(message), lifecycle);
        }
        Ok(())
    }

    /// Starts the delivery's task. Takes a free permit before that, so that the next pull does not count it as free.
    fn take(self: &Arc<Self>, delivery: Delivery, lifecycle: &Lifecycle) {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        let (this, lifecycle) = (Arc::clone(self), lifecycle.clone());
        self.engine.deliveries.spawn(async move {
            let delivery = Arc::new(delivery);
            let ending = this.attend(&delivery, permit, &lifecycle).await;
            delivery.count(&this.engine.metrics, this.route.name(), ending);
        });
    }

    /// Sends in-progress acknowledgements until the delivery is settled, handed on or cut off.
    async fn attend(
        &self,
        delivery: &Arc<Delivery>,
        permit: Option<OwnedSemaphorePermit>,
        lifecycle: &Lifecycle,
    ) -> Ending {
        let interval = self.engine.config.worker.ack_wait / PROGRESS_PER_ACK_WAIT;
        tokio::select! {
            biased;
            () = self.engine.cut_off.cancelled() => self.cut_off(delivery, lifecycle).await,
            never = delivery.keep_alive(interval) => match never {},
            ending = self.when_permitted(delivery, permit, lifecycle) => ending,
        }
    }

    /// Gives a request back that was not finished in time. The end of a drain is not the request's fault and uses no attempt. A
    /// request that is cut off because the worker must end now has used one.
    async fn cut_off(&self, delivery: &Arc<Delivery>, lifecycle: &Lifecycle) -> Ending {
        let settlement = Settlement::new(&self.engine, &self.route, delivery).ok();
        let stops = lifecycle.stopping().now_or_never().is_some();
        let hands_on = async {
            match settlement {
                Some(settlement) if stops => settlement.give_up(RETURN_DELAY).await,
                Some(settlement) => settlement.hand_on_after(RETURN_DELAY).await,
                None => std::future::pending().await,
            }
        };
        if let Ok(ending) = timeout(HAND_ON_LIMIT, hands_on).await {
            return ending;
        }
        delivery.nak(RETURN_DELAY).await;
        Ending::Returned
    }

    /// Settles the delivery once it has a permit. A draining worker begins no request: it hands the request on.
    async fn when_permitted(
        &self,
        delivery: &Arc<Delivery>,
        permit: Option<OwnedSemaphorePermit>,
        lifecycle: &Lifecycle,
    ) -> Ending {
        let permit = tokio::select! {
            biased;
            () = lifecycle.draining() => None,
            permit = self.permitted(permit) => permit,
        };
        let settlement = Settlement::new(&self.engine, &self.route, delivery);
        match (permit, settlement) {
            (Some(permit), Ok(settlement)) => settlement.settle(permit).await,
            (Some(_permit), Err(unreadable)) => {
                settle::bury_unreadable(&self.engine, self.route.name(), delivery, &unreadable).await
            }
            (None, Ok(settlement)) => settlement.hand_on().await,
            (None, Err(_)) => {
                delivery.nak(Duration::ZERO).await;
                Ending::Returned
            }
        }
    }

    async fn permitted(&self, permit: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        match permit {
            Some(permit) => Some(permit),
            None => Arc::clone(&self.permits).acquire_owned().await.ok(),
        }
    }
}
