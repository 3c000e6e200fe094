//! Where an attempt stores what it makes: publications, follow-ups and schedules. Handlers use it during their run, by `Publish`,
//! `Enqueue` and `Schedules`. What is behind it is the broker, or in tests a list.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    failure::{Failure, IntoFailure},
    follow_up::FollowUp,
    publication::Publication,
    schedule::{ScheduleChange, Scheduled, SetSchedule, When},
};

/// Why a publication, a follow-up or a schedule is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotStored {
    /// So it would be on every attempt: a channel that does not exist, a method that no route takes, a cron line with a mistake, a
    /// message that is too large, a key that belongs to another body. As a [`Failure`] it makes a dead letter.
    #[error("{0}")]
    Never(String),
    /// The stream of the follow-up's route is full, or the one of the schedules. As a [`Failure`] it snoozes the request.
    #[error("{reason}")]
    #[non_exhaustive]
    Full {
        /// What is full.
        reason: String,
        /// How long to wait.
        after: Duration,
    },
}

impl IntoFailure for NotStored {
    fn into_failure(self) -> Failure {
        match self {
            Self::Never(reason) => Failure::dead(reason),
            Self::Full { after, .. } => Failure::snooze(after),
        }
    }
}

/// Stores what one attempt makes.
pub(crate) trait Outlet: Send + Sync + fmt::Debug {
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), NotStored>>;

    /// Returns the id of the request that is stored.
    fn enqueue(&self, follow_up: FollowUp) -> BoxFuture<'_, Result<String, NotStored>>;

    fn set_schedule(&self, set: SetSchedule) -> BoxFuture<'_, Result<ScheduleChange, NotStored>>;

    /// Says whether there was one.
    fn remove_schedule(&self, name: String) -> BoxFuture<'_, Result<bool, NotStored>>;
}

/// Publishes while the handler runs, as an argument of a handler. Publications that go with the answer are better returned beside
/// it: they are stored when the handler has succeeded. What is sent here stays, however the attempt ends.
///
/// The ids are the same as those of publications beside the answer: a repeated attempt publishes nothing twice, as long as the broker
/// remembers the ids (`streams.duplicate_window`, no longer than its namespace keeps messages, and not at all without a history). Within an attempt, a handler that
/// publishes in one channel at several places at the same time should give names.
///
/// ```
/// use tidegate_worker::{Failure, Json, Publication, Publish};
///
/// async fn import(publish: Publish, Json(rows): Json<Vec<u32>>) -> Result<(), Failure> {
///     for row in rows {
///         publish.send(Publication::json("import:rows", &row)?).await?;
///     }
///     Ok(())
/// }
/// # tidegate_worker::Router::new().route("import", tidegate_worker::on(import));
/// ```
#[derive(Debug, Clone)]
pub struct Publish(pub(crate) Arc<dyn Outlet>);

/// Enqueues follow-ups while the handler runs, as an argument of a handler. Follow-ups that go with the answer are better
/// returned beside it: they are stored when the handler has succeeded. What is sent here stays, however the attempt ends.
///
/// ```
/// use tidegate_worker::{Enqueue, Failure, FollowUp, Json};
///
/// async fn place(enqueue: Enqueue, Json(order): Json<u32>) -> Result<Json<String>, Failure> {
///     let id = enqueue.send(FollowUp::json("orders.ship", &order)?).await?;
///     Ok(Json(id))
/// }
/// # tidegate_worker::Router::new().route("place", tidegate_worker::on(place));
/// ```
#[derive(Debug, Clone)]
pub struct Enqueue(pub(crate) Arc<dyn Outlet>);

/// Sets and removes schedules while the handler runs, as an argument of a handler. What is set here stays, however the attempt
/// ends. A repeated attempt that sets the same again changes nothing.
///
/// ```
/// use tidegate_worker::{Failure, FollowUp, Json, Schedules, When};
///
/// async fn subscribe(schedules: Schedules, Json(report): Json<u32>) -> Result<(), Failure> {
///     let nightly = When::cron("0 3 * * *").zone("Europe/Berlin");
///     schedules.set(format!("report {report}"), nightly, FollowUp::json("report", &report)?).await?;
///     Ok(())
/// }
///
/// async fn unsubscribe(schedules: Schedules, Json(report): Json<u32>) -> Result<Json<bool>, Failure> {
///     Ok(Json(schedules.remove(format!("report {report}")).await?))
/// }
/// # let router: tidegate_worker::Router = tidegate_worker::Router::new();
/// # router.route("subscribe", tidegate_worker::on(subscribe)).route("unsubscribe", tidegate_worker::on(unsubscribe));
/// ```
#[derive(Debug, Clone)]
pub struct Schedules(pub(crate) Arc<dyn Outlet>);

impl Publish {
    /// Stores a publication. While the broker is unavailable, this waits, until the attempt's time is over.
    pub async fn send(&self, publication: Publication) -> Result<(), NotStored> {
        self.0.publish(publication).await
    }
}

impl Enqueue {
    /// Stores a follow-up, and returns its id. While the broker is unavailable, this waits, until the attempt's time is over.
    pub async fn send(&self, follow_up: FollowUp) -> Result<String, NotStored> {
        self.0.enqueue(follow_up).await
    }
}

impl Schedules {
    /// Sets the schedule of this name, in the place of one that differs. While the broker is unavailable, this waits, until the
    /// attempt's time is over.
    ///
    /// What could not be set on any attempt is [`NotStored::Never`]: a cron line, a time zone, a route or a channel that cannot be.
    pub async fn set(
        &self,
        name: impl Into<String>,
        when: When,
        what: impl Into<Scheduled>,
    ) -> Result<ScheduleChange, NotStored> {
        self.0.set_schedule(SetSchedule { name: name.into(), when, what: what.into() }).await
    }

    /// Removes the schedule of this name, and a firing that is not a request or a publication yet. `false` if there is neither.
    /// While the broker is unavailable, this waits, until the attempt's time is over.
    pub async fn remove(&self, name: impl Into<String>) -> Result<bool, NotStored> {
        self.0.remove_schedule(name.into()).await
    }
}
