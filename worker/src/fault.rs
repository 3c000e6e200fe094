//! Faults that a test plans in a worker: it crashes, or hangs, at a chosen step of a request. Only with the feature `testing`; without
//! it, nothing is planned and every step is passed at once.

#[cfg(feature = "testing")]
pub(crate) use self::planned::Faults;
#[cfg(feature = "testing")]
pub use self::planned::{Fault, fault};

/// A step of a request at which a worker may meet its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "testing"),
    expect(unreachable_pub, reason = "applications see it with the feature")
)]
pub enum Point {
    /// The handler is about to run.
    BeforeRun,
    /// The handler has returned, and nothing that goes with its answer is stored. Not reached if the caller is gone.
    AfterRun,
    /// The follow-ups and publications are stored, the answer is not.
    AfterPublications,
    /// Everything is stored, and the gateway has the answer: only the acknowledgement is missing. Not reached if the
    /// caller is gone.
    BeforeAck,
}

/// What no worker without the feature meets.
#[cfg(not(feature = "testing"))]
#[derive(Debug, Default)]
pub(crate) struct Faults;

#[cfg(not(feature = "testing"))]
impl Faults {
    #[expect(clippy::unused_async, reason = "with the feature it waits")]
    pub(crate) async fn reach(&self, _: Point, _: &str, _: &crate::delivery::Delivery) {}

    pub(crate) async fn crash(&self) -> tidegate_shared::lifecycle::TaskEnded {
        std::future::pending().await
    }
}

#[cfg(feature = "testing")]
mod planned {
    use std::{
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use tidegate_shared::lifecycle::TaskEnded;
    use tokio_util::sync::CancellationToken;

    use super::Point;
    use crate::delivery::Delivery;

    /// A fault that a worker meets: see [`fault`].
    #[derive(Debug, Clone)]
    pub struct Fault {
        at: Point,
        route: Option<String>,
        stall: Option<Duration>,
        times: u32,
    }

    /// Plans that a worker crashes at this step of the next request: it settles nothing any more, and
    /// [`Worker::ended`](crate::Worker::ended) returns an error. Its requests are delivered to another worker after
    /// `worker.ack_wait`.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use tidegate_worker::{Router, on, testing::{self, Point}};
    /// # async fn pay() {}
    /// # async fn run(tide: testing::Tide) -> anyhow::Result<()> {
    /// let router = || Router::<()>::new().route("pay", on(pay));
    /// let crashes = testing::fault(Point::BeforeAck).on_route("pay");
    /// let worker = tide.worker().router(router()).fault(crashes).start().await?;
    /// tide.call(testing::job("pay")).await?;
    /// worker.ended().await.unwrap_err();
    /// // The next worker finds the request and its answer.
    /// let worker = tide.worker().router(router()).start().await?;
    /// tide.settled().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn fault(at: Point) -> Fault {
        Fault { at, route: None, stall: None, times: 1 }
    }

    impl Fault {
        /// Only requests of this route meet it.
        #[must_use]
        pub fn on_route(mut self, route: impl Into<String>) -> Self {
            self.route = Some(route.into());
            self
        }

        /// Instead of a crash, the worker hangs at this step for so long, gives no sign of life for the request, and then goes
        /// on. After `worker.ack_wait` another worker has the request too.
        #[must_use]
        pub fn stalls(mut self, time: Duration) -> Self {
            self.stall = Some(time);
            self
        }

        /// So many requests meet it, one after the other: one unless this says more. A crash ends the worker.
        #[must_use]
        pub fn times(mut self, times: u32) -> Self {
            self.times = times;
            self
        }

        fn meets(&self, at: Point, route: &str) -> bool {
            self.times > 0 && self.at == at && self.route.as_deref().is_none_or(|of| of == route)
        }
    }

    /// The faults that are planned in one worker.
    #[derive(Debug, Default)]
    pub(crate) struct Faults {
        planned: Mutex<Vec<Fault>>,
        crashed: CancellationToken,
    }

    impl Faults {
        pub(crate) fn new(planned: Vec<Fault>) -> Self {
            Self { planned: Mutex::new(planned), crashed: CancellationToken::new() }
        }

        /// A request has come to this step. Does not return if the worker crashes here.
        pub(crate) async fn reach(&self, at: Point, route: &str, delivery: &Delivery) {
            let Some(met) = self.take(at, route) else { return };
            tracing::warn!(route, ?at, stall = ?met.stall, "a planned fault");
            delivery.fall_silent();
            if let Some(time) = met.stall {
                tokio::time::sleep(time).await;
                return;
            }
            self.crashed.cancel();
            std::future::pending::<()>().await;
        }

        fn take(&self, at: Point, route: &str) -> Option<Fault> {
            let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
            let met = planned.iter_mut().find(|fault| fault.meets(at, route))?;
            met.times -= 1;
            Some(met.clone())
        }

        /// Completes when the worker has crashed.
        pub(crate) async fn crash(&self) -> TaskEnded {
            self.crashed.cancelled().await;
            TaskEnded { task: "worker", reason: "a planned crash".to_owned() }
        }
    }
}
