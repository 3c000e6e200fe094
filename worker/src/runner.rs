//! One route of one worker: its consumers, the places they share, and the life of a delivery.
//!
//! Decides when a request is worked on. How the request ends is up to `settle`.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tidegate_shared::{
    broker::{PullError, Puller},
    envelope::Unreadable,
    header,
    lifecycle::Lifecycle,
    route::Priority,
    topology::{RouteConsumer, Takes, route_consumers},
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    backoff::Pauses,
    delivery::{Delivery, PROGRESS_PER_ACK_WAIT},
    engine::{BoundRoute, Engine},
    exposed::ExposedRequest,
    lines::InLine,
    metrics::Ending,
    places::{Place, Places},
    settle::{self, Settlement},
};

/// How long a request that was cut off waits for another worker.
const RETURN_DELAY: Duration = Duration::from_secs(1);
/// How long storing such a request for another worker may take. After that it goes back to the broker.
const HAND_ON_LIMIT: Duration = Duration::from_secs(1);
/// How long a route that is nearly at its limit waits for more permits before it pulls.
const GATHER: Duration = Duration::from_millis(2);
/// The pause after the first failed pull.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Due requests that a worker queues again at a time.
const QUEUING: usize = 64;

/// Runs one route whose requests come from streams.
#[derive(Debug)]
pub(crate) struct Runner {
    engine: Arc<Engine>,
    route: Arc<BoundRoute>,
    places: Arc<Places>,
    /// For due requests that are queued again and not worked on.
    queuing: Arc<Places>,
}

/// A delivery on its way to its attempt.
#[derive(Debug)]
struct Arrived {
    delivery: Arc<Delivery>,
    takes: Takes,
    /// Its place in the line of its ordering key.
    line: Option<InLine>,
    place: Option<Place>,
    exposed: Option<ExposedRequest>,
}

impl Runner {
    pub(crate) fn new(engine: Arc<Engine>, route: BoundRoute) -> Self {
        let (places, queuing) = (Places::new(route.config.concurrency), Places::new(QUEUING));
        Self { engine, route: Arc::new(route), places, queuing }
    }

    pub(crate) fn route(&self) -> &BoundRoute {
        &self.route
    }

    /// The consumers that its requests come from: those on the route's own stream, and one among all parked requests.
    pub(crate) fn consumers(&self) -> Vec<RouteConsumer> {
        route_consumers(&self.route.config)
    }

    /// Pulls from one of the route's consumers until the worker drains.
    pub(crate) async fn consume(self: Arc<Self>, consumer: RouteConsumer, lifecycle: Lifecycle) {
        let RouteConsumer { stream, name, takes } = &consumer;
        let mut puller = Puller::new(self.engine.broker.clone(), stream, name);
        let mut pauses = Pauses::new(FIRST_PAUSE);
        loop {
            let pulled = tokio::select! {
                biased;
                () = lifecycle.draining() => break,
                pulled = self.pull(&mut puller, *takes, &lifecycle) => pulled,
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
        let until = Instant::now() + self.engine.config.worker.drain;
        loop {
            let rest = tokio::select! {
                biased;
                // Whoever ends the worker now does not wait for what the broker may still send.
                () = lifecycle.stopping() => break,
                rest = timeout_at(until, puller.rest()) => rest.ok().flatten(),
            };
            let Some(message) = rest else { break };
            self.take(Delivery::new(message), *takes, &lifecycle);
        }
    }

    /// Waits while the route's handler has closed its gate.
    async fn wait_for_gate(&self) {
        let gate = &self.route.gate;
        if !gate.is_open() {
            self.engine.metrics.gate(self.route.name(), false);
            gate.opened().await;
            self.engine.metrics.gate(self.route.name(), true);
        }
    }

    /// Makes one pull, of as many messages as places are free. It holds no place: the route's other consumers may use them.
    async fn pull(
        self: &Arc<Self>,
        puller: &mut Puller,
        takes: Takes,
        lifecycle: &Lifecycle,
    ) -> Result<(), PullError> {
        self.wait_for_gate().await;
        let places = self.places(takes);
        if let Some(lines) = &self.route.lines {
            lines.roomy().await;
        }
        drop(places.take(lane(takes)).await);
        // A pull costs the broker about as much as a request does.
        let quarter = self.route.config.concurrency / 4;
        if self.route.lines.is_none() && places.free() < quarter {
            let _ = timeout(GATHER, places.gather(quarter)).await;
        }
        let room = self.route.lines.as_ref().map_or(usize::MAX, |lines| lines.room());
        puller.ask(places.free().min(room).max(1)).await?;
        while let Some(message) = puller.next().await? {
            self.take(Delivery::new(message), takes, lifecycle);
        }
        Ok(())
    }

    /// Starts the delivery's task. Takes a free place before that, so that the next pull does not count it as free; unless the
    /// delivery has to wait in the line of its ordering key, where it occupies none.
    fn take(self: &Arc<Self>, delivery: Delivery, takes: Takes, lifecycle: &Lifecycle) {
        if delivery.earlier_deliveries() > 0 {
            self.engine.metrics.redelivered(self.route.name());
        }
        let mut line = self.route.lines.as_ref().map(|lines| {
            // A request without a key, which no gateway sends, has a line with others like it.
            lines.enter(delivery.header(header::KEY).unwrap_or_default(), delivery.body().len())
        });
        let begins = line.as_mut().is_none_or(InLine::is_first);
        let place = if begins { self.places(takes).try_take() } else { None };
        let is_exposed = !self.queues_again(takes) && settle::may_be_exposed(&self.route.config, &delivery);
        let exposed = is_exposed.then(|| self.engine.exposed.enter());
        let arrived = Arrived { delivery: Arc::new(delivery), takes, line, place, exposed };
        let (this, lifecycle) = (Arc::clone(self), lifecycle.clone());
        self.engine.deliveries.spawn(async move {
            let delivery = Arc::clone(&arrived.delivery);
            let ending = this.attend(arrived, &lifecycle).await;
            delivery.count(&this.engine.metrics, this.route.name(), ending);
        });
    }

    /// Whether deliveries of this consumer are not worked on, but queued again in the route's own stream.
    fn queues_again(&self, takes: Takes) -> bool {
        takes == Takes::Due && self.route.config.queues_again()
    }

    fn places(&self, takes: Takes) -> &Arc<Places> {
        if self.queues_again(takes) { &self.queuing } else { &self.places }
    }

    /// Sends in-progress acknowledgements until the delivery is settled, handed on or cut off.
    async fn attend(&self, arrived: Arrived, lifecycle: &Lifecycle) -> Ending {
        let interval = self.engine.config.worker.ack_wait / PROGRESS_PER_ACK_WAIT;
        let delivery = Arc::clone(&arrived.delivery);
        tokio::select! {
            biased;
            () = self.engine.cut_off.cancelled() => self.cut_off(&delivery, lifecycle).await,
            _ = self.engine.faults.crash() => Ending::Returned,
            never = delivery.keep_alive(interval) => match never {},
            ending = self.handle(arrived, lifecycle) => ending,
        }
    }

    async fn handle(&self, arrived: Arrived, lifecycle: &Lifecycle) -> Ending {
        if !self.queues_again(arrived.takes) {
            return self.when_permitted(arrived, lifecycle).await;
        }
        tokio::select! {
            ending = settle::queue_again(&self.engine, &self.route, &arrived.delivery) => ending,
            () = lifecycle.draining() => {
                arrived.delivery.nak(Duration::ZERO).await;
                Ending::Returned
            }
        }
    }

    /// Reads the delivered request and what is remembered of it.
    async fn settlement(&self, delivery: &Arc<Delivery>) -> Result<Settlement, Unreadable> {
        let mut settlement = Settlement::new(&self.engine, &self.route, delivery)?;
        settlement.recall().await;
        Ok(settlement)
    }

    /// Gives a request back that was not finished in time. The end of a drain is not the request's fault and uses no attempt. A
    /// request that is cut off because the worker must end now has used one.
    async fn cut_off(&self, delivery: &Arc<Delivery>, lifecycle: &Lifecycle) -> Ending {
        let stops = lifecycle.stopping().now_or_never().is_some();
        let hands_on = async {
            match self.settlement(delivery).await.ok() {
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

    /// Settles the delivery once it has a place. A draining worker begins no request: it hands the request on.
    async fn when_permitted(&self, arrived: Arrived, lifecycle: &Lifecycle) -> Ending {
        let Arrived { delivery, takes, mut line, place, exposed } = arrived;
        let place = tokio::select! {
            biased;
            () = lifecycle.draining() => None,
            place = self.permitted(line.as_mut(), place, takes) => Some(place),
        };
        let settlement = self.settlement(&delivery).await;
        match (place, settlement.map(|settlement| settlement.exposed_as(exposed))) {
            (Some(place), Ok(settlement)) => self.settle(settlement, place, takes, lifecycle).await,
            (Some(_place), Err(unreadable)) => {
                settle::bury_unreadable(&self.engine, self.route.name(), &delivery, &unreadable.to_string())
                    .await
            }
            (None, Ok(settlement)) => settlement.hand_on().await,
            (None, Err(_)) => {
                delivery.nak(Duration::ZERO).await;
                Ending::Returned
            }
        }
    }

    /// Settles a request, with further attempts while it waits for them in the line of its ordering key.
    async fn settle(
        &self,
        mut settlement: Settlement,
        mut place: Place,
        takes: Takes,
        lifecycle: &Lifecycle,
    ) -> Ending {
        loop {
            let ending = settlement.settle(place, lifecycle).await;
            let Some(held) = settlement.held() else { return ending };
            self.engine.metrics.ended(self.route.name(), ending);
            settlement.resume(&held);
            tokio::select! {
                biased;
                () = lifecycle.draining() => return settlement.hand_on_after(held.delay).await,
                () = tokio::time::sleep(held.delay) => {}
            }
            place = tokio::select! {
                biased;
                () = lifecycle.draining() => return settlement.hand_on().await,
                place = self.places.take(lane(takes)) => place,
            };
        }
    }

    async fn permitted(&self, line: Option<&mut InLine>, place: Option<Place>, takes: Takes) -> Place {
        if let Some(place) = place {
            return place;
        }
        if let Some(line) = line {
            line.come().await;
        }
        self.places.take(lane(takes)).await
    }
}

/// The lane in which requests of a consumer wait for a place.
fn lane(takes: Takes) -> Priority {
    if takes == Takes::First { Priority::High } else { Priority::Normal }
}
