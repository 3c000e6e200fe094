//! Firings of schedules: what the broker has fired becomes a request in its route, or a publication in its channel.
//!
//! All gateways pull from one consumer, so each firing is with one gateway. Its id is the same on every delivery, so what is stored
//! for it is stored once: a gateway that ends in the middle is followed by another. A firing that cannot be stored stays where it is
//! and is tried again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::jetstream;
use tidegate_shared::{
    broker::{Attended, Broker, Puller, Refusal, attend, header_number, retry_pause},
    channel::Channel,
    config::{Match, Namespace, Route},
    envelope::{Request, get},
    header,
    id::RequestId,
    lifecycle::Lifecycle,
    protocol::{Error, codes},
    schedule::{self, Firing, FiringOutcome, Overlap, Publication, Record, What},
    subject::Subjects,
    topology::{FIRINGS, PARK, channel_stream},
};
use tokio::time::Instant;

use super::{earlier::Earlier, jobs::JobState, records::Records, store::Store, turn::Turns};
use crate::metrics::{Metrics, firings::Done};

/// Firings that this gateway is busy with at a time.
const AT_A_TIME: usize = 64;
/// How long one try to store a firing may take.
const LIMIT: Duration = Duration::from_secs(4);
/// The publications that are read at a time, to look for one that may be stored already.
const LOOKED_AT: usize = 256;

/// Carries firings out.
pub(crate) struct Firings {
    pub(crate) broker: Broker,
    pub(crate) subjects: Subjects,
    pub(crate) store: Arc<Store>,
    pub(crate) records: Records,
    pub(crate) routes: Vec<Route>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) metrics: Metrics,
    /// The broker delivers a firing again that is not acknowledged in this time.
    pub(crate) ack_wait: Duration,
}

impl Firings {
    /// Starts to pull.
    pub(crate) fn start(self, lifecycle: &Lifecycle) {
        let (this, pulling) = (Arc::new(self), lifecycle.clone());
        lifecycle.spawn_essential("schedules", async move { this.pull(pulling).await });
    }

    /// Pulls until the gateway drains.
    async fn pull(self: Arc<Self>, lifecycle: Lifecycle) {
        let puller = Puller::new(self.broker.clone(), PARK, FIRINGS);
        let work = |message: Arc<jetstream::Message>| {
            let this = Arc::clone(&self);
            async move { this.attend(&message).await }
        };
        attend(puller, AT_A_TIME, self.ack_wait, &lifecycle, work).await;
    }

    /// Settles one delivery.
    async fn attend(&self, message: &jetstream::Message) -> Attended {
        let Some((seq, at, delivered)) = facts(message) else { return Attended::Again(retry_pause(1)) };
        let headers = message.headers.clone().unwrap_or_default();
        if get(&headers, header::REMOVED).is_some() {
            return Attended::Done;
        }
        let firing = match Firing::read(&headers, message.payload.clone(), seq, at) {
            Ok(firing) => firing,
            Err(error) => {
                tracing::error!(%error, seq, "dropped a message among the firings of schedules that is none");
                return Attended::Done;
            }
        };
        let kind = kind(&firing);
        match self.carry_out(&firing, delivered > 1).await {
            Ok(done) => {
                self.metrics.fired(kind, done);
                Attended::Done
            }
            Err(error) => {
                self.metrics.fired(kind, Done::Failing);
                let pause = retry_pause(delivered);
                tracing::warn!(
                    schedule = firing.name, firing.id = %firing.id, error = error.message, again_in = ?pause, "a firing of a schedule cannot be stored: trying again"
                );
                let written = self.records.write(&firing, FiringOutcome::Failing, Some(&error.message)).await;
                if let Err(refusal) = written {
                    tracing::debug!(%refusal, "a failing firing is not remembered");
                }
                Attended::Again(pause)
            }
        }
    }

    /// Stores what the firing brings, unless it is outdated, or stored already.
    async fn carry_out(&self, firing: &Firing, again: bool) -> Result<Done, Error> {
        let deadline = Instant::now() + LIMIT;
        let before = self.records.of(&firing.name).await.map_err(unread)?;
        if before.as_ref().is_some_and(|record| record.has_stored(firing.id.as_str())) {
            return Ok(Done::Repeated);
        }
        if firing.repeats && !self.is_current(firing).await.map_err(unread)? {
            return Ok(Done::Outdated);
        }
        if let Some(record) = &before
            && firing.is_early(record)
            && self.is_done(firing, record, deadline).await?
        {
            tracing::info!(schedule = firing.name, "left out a firing that the broker repeated");
            return Ok(Done::Outdated);
        }
        // The broker remembers ids only for a while.
        let outcome = if again && self.has_stored(firing, deadline).await? {
            FiringOutcome::Stored
        } else {
            match &firing.what {
                What::Request(request) => {
                    match self.request(firing, request, before.as_ref(), deadline).await? {
                        Some(outcome) => outcome,
                        None => return Ok(Done::Outdated),
                    }
                }
                What::Publication(publication) => self.publish(firing, publication, deadline).await?,
            }
        };
        self.records.write(firing, outcome, None).await.map_err(unwritten)?;
        Ok(if outcome == FiringOutcome::Stored { Done::Stored } else { Done::Skipped })
    }

    /// Whether the schedule that fired is still there as it was.
    async fn is_current(&self, firing: &Firing) -> Result<bool, Refusal> {
        Ok(self.records.version(&firing.name).await?.as_ref() == Some(&firing.version))
    }

    /// Whether the firing before, which the broker has repeated, is done. One that was not may be stored all the same; the record
    /// says so from then on.
    async fn is_done(&self, repeated: &Firing, record: &Record, deadline: Instant) -> Result<bool, Error> {
        if record.is_settled() {
            return Ok(true);
        }
        let Some(earlier) = repeated.recorded(record) else { return Ok(false) };
        let stored = self.has_stored(&earlier, deadline).await?;
        if stored {
            self.records.write(&earlier, FiringOutcome::Stored, None).await.map_err(unwritten)?;
        }
        Ok(stored)
    }

    /// Whether the broker has what this firing brings.
    async fn has_stored(&self, firing: &Firing, deadline: Instant) -> Result<bool, Error> {
        match &firing.what {
            What::Request(request) => {
                let request = Request { route: self.route_of(request)?.name.clone(), ..(**request).clone() };
                let earlier = self.store.look_everywhere(&request).await.map_err(unread)?;
                Ok(earlier != Earlier::Nothing)
            }
            What::Publication(publication) => {
                let Publication { channel, id, .. } = publication;
                let id = id.as_deref().unwrap_or(firing.id.as_str());
                let has_history = self.namespace_of(channel)?.has_history();
                Ok(has_history && self.has(channel, id, firing.at, deadline).await?)
            }
        }
    }

    /// Puts the request of a firing into its route. `None` if a newer firing has begun that it must not overlap with.
    async fn request(
        &self,
        firing: &Firing,
        request: &Request,
        before: Option<&Record>,
        deadline: Instant,
    ) -> Result<Option<FiringOutcome>, Error> {
        let route = self.route_of(request)?;
        let priority = route.lane(request.priority);
        let request = Request { route: route.name.clone(), priority, ..request.clone() };
        if firing.overlap == Overlap::Skip {
            let earlier = before.and_then(|record| record.stored.as_deref());
            if self.is_busy(earlier.filter(|id| *id != firing.id.as_str()), route, deadline).await? {
                return Ok(Some(FiringOutcome::Skipped));
            }
            // If this gateway ends before it says that the request is stored, the next firing looks for it.
            if !self.records.write(firing, FiringOutcome::Storing, None).await.map_err(unwritten)? {
                return Ok(None);
            }
        }
        self.store.cache.admit()?;
        let subject = self.subjects.request(&request.address());
        let mut headers = request.headers();
        headers.insert(header::SCHEDULE_NAME, firing.name.as_str());
        let message = || (subject.clone(), headers.clone(), request.body.clone());
        self.store.store(message, Turns::default().next(), deadline, true).await?;
        Ok(Some(FiringOutcome::Stored))
    }

    /// The route that takes a request now: the configuration may be another than when the schedule was set.
    fn route_of(&self, request: &Request) -> Result<&Route, Error> {
        let takes = |route: &&Route| match (&route.matches, &request.method) {
            (Match::Rpc(pattern), Some(method)) => pattern.matches(method),
            (Match::Send, None) => true,
            (Match::Rpc(_) | Match::Send | Match::Publish(_) | Match::Hook(_), _) => false,
        };
        self.routes.iter().find(takes).ok_or_else(|| {
            let what = request.method.as_deref().unwrap_or("a send");
            failure(format!("no route takes {what:?}: declare one, or remove the schedule"))
        })
    }

    /// Whether the request of an earlier firing is not done.
    async fn is_busy(&self, earlier: Option<&str>, route: &Route, deadline: Instant) -> Result<bool, Error> {
        let Some(id) = earlier.and_then(RequestId::parse) else { return Ok(false) };
        let job = self.store.job(&id, std::slice::from_ref(route), deadline).await?;
        Ok(matches!(job.state, JobState::Accepted { .. } | JobState::Waiting { .. } | JobState::Running(_)))
    }

    /// The namespace of a channel: the configuration may be another than when the schedule was set.
    fn namespace_of(&self, channel: &Channel) -> Result<&Namespace, Error> {
        let name = channel.namespace();
        self.namespaces.iter().find(|known| known.name == name).ok_or_else(|| {
            failure(format!("there is no [[namespace]] {name:?}: declare it, or remove the schedule"))
        })
    }

    async fn publish(
        &self,
        firing: &Firing,
        publication: &Publication,
        deadline: Instant,
    ) -> Result<FiringOutcome, Error> {
        let Publication { channel, id, tags, data } = publication;
        self.namespace_of(channel)?;
        let id = id.as_deref().unwrap_or(firing.id.as_str());
        self.store.store_publication(channel, Some(id), tags, data.clone(), deadline).await?;
        Ok(FiringOutcome::Stored)
    }

    /// Whether the history of the channel has a publication with this id since then.
    async fn has(
        &self,
        channel: &Channel,
        id: &str,
        since: SystemTime,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let (stream, subject) = (channel_stream(channel.namespace()), self.subjects.channel(channel));
        let first = self.broker.first_since(&stream, &subject, since).await.map_err(unread)?;
        let mut next = first.and_then(|message| header_number(&message, header::SEQUENCE));
        while let Some(from) = next {
            if Instant::now() > deadline {
                return Err(failure(format!("the history of {:?} cannot be read in time", channel.name())));
            }
            let range = self.broker.range(&stream, &subject, from, LOOKED_AT).await.map_err(unread)?;
            let mut ids =
                range.messages.iter().filter_map(|message| get(message.headers.as_ref()?, header::MSG_ID));
            if ids.any(|found| found == id) {
                return Ok(true);
            }
            let last = range.messages.last().filter(|_| range.more > 0);
            next = last.and_then(|last| header_number(last, header::SEQUENCE)).map(|last| last + 1);
        }
        Ok(false)
    }
}

/// The sequence of a delivered message, when the broker stored it, and how often it was delivered.
fn facts(message: &jetstream::Message) -> Option<(u64, SystemTime, i64)> {
    let info = message.info().ok()?;
    let stored = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok()?;
    Some((info.stream_sequence, schedule::time_at(stored), info.delivered))
}

fn kind(firing: &Firing) -> &'static str {
    match firing.what {
        What::Request(_) => "request",
        What::Publication(_) => "publication",
    }
}

fn failure(why: String) -> Error {
    codes::NOT_ACCEPTED.because(why)
}

fn unread(refusal: Refusal) -> Error {
    codes::NOT_ACCEPTED.because(refusal)
}

fn unwritten(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Taken => failure("other gateways write the schedule's record all the time".to_owned()),
        refusal => unread(refusal),
    }
}
