//! What has become of a request, asked by its id from any gateway; and cancelling it.
//!
//! Nothing is stored when a request begins. Its state follows from where its messages are, and the worker that runs it says so.
//! Whoever stores the first answer wins: to cancel a request is to store the error "cancelled" as its answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::{TryStreamExt, stream::FuturesUnordered};
use serde::Serialize;
use tidegate_shared::{
    broker::{Refusal, broker_header},
    channel::Channel,
    config::{Match, Route},
    envelope::{Answer, AnswerWay, Outcome, Request, get},
    header,
    id::RequestId,
    job::{Report, RunningJob},
    moment,
    protocol::{Error, codes},
    subject::Subjects,
    topology::{PARK, REPLY, request_stream},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{store::Store, turn::Turns};

/// How long the workers have for the question which of them runs a request.
const ASK_LIMIT: Duration = Duration::from_millis(300);
/// Reads of streams for one question that run at the same time.
const PARALLEL: usize = 8;
/// How often a request is looked for: it may move from one place to another while it is looked for.
const LOOKS: usize = 3;
/// The name of gateways in the answers that they store.
const GATEWAY: &str = "gateway";
/// How long the broker keeps the message that removes a parked request.
const REMOVAL_TTL: &str = "1s";

/// What there is of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: RequestId,
    /// The user of the request; `None` too when nothing of the request says so.
    pub(crate) user: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) state: JobState,
}

/// The state of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum JobState {
    /// The broker has nothing of it: it never had, or its answer is too old.
    Unknown,
    /// It waits for a worker.
    Accepted { attempt: u32 },
    /// It waits for its time, or for its next attempt.
    Waiting { attempt: u32, until: SystemTime, progress: Option<Report> },
    /// A worker runs it.
    Running(RunningJob),
    /// It is answered: a result, or an error of the application.
    Answered(Answer),
    /// It is a dead letter.
    Dead(Answer),
    /// It was cancelled.
    Cancelled,
}

/// A request's state, as it is told to its user.
#[derive(Serialize, Default)]
struct ForUser<'a> {
    id: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<&'a Report>,
}

/// A user's question about a request, or its order to cancel it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnRequest {
    pub(crate) id: RequestId,
    pub(crate) user: String,
    pub(crate) cancel: bool,
    /// Whether the id was made of the user's name, so that nobody else has it.
    pub(crate) certain: bool,
}

/// A request that waits for its time.
#[derive(Debug)]
struct Parked {
    request: Request,
    until: SystemTime,
    /// What the handler of its last attempt has reported.
    progress: Option<Report>,
}

/// Where a request is.
#[derive(Debug, Default)]
struct Found {
    answer: Option<Answer>,
    parked: Option<Parked>,
    /// Delivered to a worker, or waiting for one.
    waiting: Option<Request>,
}

impl JobState {
    /// The state's name, as clients and services are told.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Accepted { .. } => "accepted",
            Self::Waiting { .. } => "waiting",
            Self::Running(_) => "running",
            Self::Answered(_) => "answered",
            Self::Dead(_) => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Job {
    /// The state as JSON for the request's own user: without the answer, which has its own way.
    pub(crate) fn for_user(&self) -> Bytes {
        let time = |time| Some(moment::text(time));
        let mut told = ForUser { id: self.id.as_str(), state: self.state.name(), ..ForUser::default() };
        match &self.state {
            JobState::Accepted { attempt } => told.attempt = Some(*attempt),
            JobState::Waiting { attempt, until, progress } => {
                (told.attempt, told.until) = (Some(*attempt), time(*until));
                told.progress = progress.as_ref();
            }
            JobState::Running(running) => {
                let since = UNIX_EPOCH + Duration::from_millis(running.since);
                (told.attempt, told.since) = (Some(running.attempt), time(since));
                told.progress = running.progress.as_ref();
            }
            JobState::Unknown | JobState::Answered(_) | JobState::Dead(_) | JobState::Cancelled => {}
        }
        serde_json::to_vec(&told).unwrap_or_default().into()
    }

    /// The request as another user sees it: nothing.
    fn hidden(self) -> Self {
        Self { id: self.id, user: None, method: None, state: JobState::Unknown }
    }
}

impl Found {
    fn is_nothing(&self) -> bool {
        self.answer.is_none() && self.parked.is_none() && self.waiting.is_none()
    }

    fn request(&self) -> Option<&Request> {
        self.waiting.as_ref().or(self.parked.as_ref().map(|parked| &parked.request))
    }

    /// The request's state. An answer decides, then what a worker says: copies of a request may be left for a moment.
    fn state(&self, running: Option<RunningJob>) -> JobState {
        if let Some(answer) = &self.answer {
            return match &answer.outcome {
                Outcome::Error { code, .. } if *code == codes::CANCELLED.code => JobState::Cancelled,
                Outcome::Error { code, .. } if *code == codes::DEAD_LETTER.code => {
                    JobState::Dead(answer.clone())
                }
                Outcome::Ok(_) | Outcome::Error { .. } => JobState::Answered(answer.clone()),
            };
        }
        match (running, &self.parked, &self.waiting) {
            (Some(running), ..) => JobState::Running(running),
            (None, Some(Parked { request, until, progress }), _) => {
                let progress = progress.clone();
                JobState::Waiting { attempt: request.attempt, until: *until, progress }
            }
            (None, None, Some(request)) => JobState::Accepted { attempt: request.attempt },
            (None, None, None) => JobState::Unknown,
        }
    }
}

impl Store {
    /// Says what has become of a request. It is looked for among the requests of these routes.
    pub(crate) async fn job(
        &self,
        id: &RequestId,
        routes: &[Route],
        deadline: Instant,
    ) -> Result<Job, Error> {
        let found = self.find_job(id, routes, deadline).await?;
        Ok(self.job_of(id, &found).await)
    }

    /// Cancels a request that is not answered yet, if `may` allows it to its user. Returns what has become of it.
    pub(crate) async fn cancel(
        &self,
        id: &RequestId,
        routes: &[Route],
        may: impl Fn(&Job) -> bool,
        deadline: Instant,
    ) -> Result<Job, Error> {
        let found = self.find_job(id, routes, deadline).await?;
        let job = self.job_of(id, &found).await;
        let (None, Some(request), true) = (&found.answer, found.request(), may(&job)) else {
            return Ok(job);
        };
        if request.answer_way() != AnswerWay::Stored {
            let why = "only requests with a key, \"later\" requests and enqueued ones can be cancelled";
            return Err(codes::NOT_AVAILABLE.because(why));
        }
        let outcome = Outcome::Error {
            code: codes::CANCELLED.code,
            message: codes::CANCELLED.message.to_owned(),
            data: Bytes::new(),
        };
        let answer = Answer::to(request, request.attempt, GATEWAY, outcome);
        if !self.store_answer(&answer, deadline).await? {
            // A worker was faster.
            let found = self.find_job(id, routes, deadline).await?;
            return Ok(self.job_of(id, &found).await);
        }
        self.announce(request, &answer, deadline).await;
        Ok(Job { state: JobState::Cancelled, ..job })
    }

    /// Tells a user what has become of its own request, or cancels it first. Whatever is not known to be the user's is unknown.
    pub(crate) async fn own(
        &self,
        asked: &OwnRequest,
        routes: &[Route],
        deadline: Instant,
    ) -> Result<Job, Error> {
        let owns = |job: &Job| asked.certain || job.user.as_deref() == Some(asked.user.as_str());
        let job = if asked.cancel {
            self.cancel(&asked.id, routes, owns, deadline).await?
        } else {
            self.job(&asked.id, routes, deadline).await?
        };
        Ok(if owns(&job) { job } else { job.hidden() })
    }

    /// Stores an answer. `false` if the request has one.
    async fn store_answer(&self, answer: &Answer, deadline: Instant) -> Result<bool, Error> {
        let message = || (self.subjects.reply(&answer.re), answer.headers(), answer.body());
        let stored = self.store(message, Turns::default().next(), deadline, true).await?;
        Ok(!stored.duplicate)
    }

    /// Tells everybody that a request is cancelled: gateways whose clients wait, its user, and the worker that runs it. Then removes
    /// its parked copy. What fails here is made up for by the worker that is given the request: it finds the stored answer.
    async fn announce(&self, request: &Request, answer: &Answer, deadline: Instant) {
        let client = self.broker.client();
        let live = self.subjects.answer(&answer.re);
        let told = client.publish_with_headers(live, answer.headers(), answer.body()).await;
        let ordered = client.publish(self.subjects.cancel(&request.id), Bytes::new()).await;
        if told.is_err() || ordered.is_err() {
            tracing::debug!(request.id = %request.id, "the cancelling of a request was not told to everybody");
        }
        if let Some(user) = request.user.as_deref().filter(|_| request.later) {
            let channel = self.subjects.channel(&Channel::personal(user));
            let message = || (channel.clone(), answer.later_headers(), answer.later_body());
            if let Err(error) = self.store(message, Turns::default().next(), deadline, true).await {
                tracing::warn!(request.id = %request.id, ?error, "a user is not told that a request is cancelled");
            }
        }
        let mut removal = HeaderMap::new();
        removal.insert(header::SCHEDULER, self.subjects.park(&request.id));
        removal.insert(header::SCHEDULE_NEXT, "purge");
        removal.insert(header::TTL, REMOVAL_TTL);
        let message = || (self.subjects.unpark(&request.id), removal.clone(), Bytes::new());
        if let Err(error) = self.store(message, Turns::default().next(), deadline, true).await {
            tracing::debug!(request.id = %request.id, ?error, "the parked copy of a cancelled request stays until it is due");
        }
    }

    async fn job_of(&self, id: &RequestId, found: &Found) -> Job {
        let running =
            if found.answer.is_none() && found.waiting.is_some() { self.ask_workers(id).await } else { None };
        let request = found.request();
        let user = request.and_then(|request| request.user.clone());
        let user = user.or_else(|| found.answer.as_ref().and_then(|answer| answer.user.clone()));
        let method = request.and_then(|request| request.method.clone());
        Job { id: id.clone(), user, method, state: found.state(running) }
    }

    async fn ask_workers(&self, id: &RequestId) -> Option<RunningJob> {
        let asked = self.broker.client().request(self.subjects.running(id), Bytes::new());
        let told = timeout(ASK_LIMIT, asked).await.ok()?.ok()?;
        serde_json::from_slice(&told.payload).ok()
    }

    async fn find_job(&self, id: &RequestId, routes: &[Route], deadline: Instant) -> Result<Found, Error> {
        for _ in 0..LOOKS {
            let found = match timeout_at(deadline, self.look_for(id, routes)).await {
                Ok(Ok(found)) => found,
                Ok(Err(refusal)) => return Err(codes::NOT_ACCEPTED.because(refusal)),
                Err(_) => return Err(codes::NOT_ACCEPTED.because("the broker does not answer in time")),
            };
            if !found.is_nothing() {
                return Ok(found);
            }
        }
        Ok(Found::default())
    }

    /// Looks in the order in which a request moves: among those that wait, the parked ones, those that are due, the answers.
    async fn look_for(&self, id: &RequestId, routes: &[Route]) -> Result<Found, Refusal> {
        let mut waiting = self.first_of(routes, id, "in").await?;
        if waiting.is_none() {
            waiting = self.first_of(routes, id, "first").await?;
        }
        let parked = self.broker.last(PARK, &self.subjects.park(id)).await?;
        if waiting.is_none() {
            waiting = self.first_of(routes, id, "due").await?;
        }
        let answer = self.broker.last(REPLY, &self.subjects.reply(id)).await?;
        let answer = answer.map(|m| Answer::read(&m.headers.unwrap_or_default(), m.payload)).transpose();
        let unreadable = |error| Refusal::Rejected(format!("the stored answer cannot be read: {error}"));
        Ok(Found {
            answer: answer.map_err(unreadable)?,
            // An id may be the words under which something else is kept, such as a schedule.
            parked: parked.as_ref().and_then(Parked::read).filter(|parked| parked.request.id == *id),
            waiting: waiting.as_ref().and_then(request_in).filter(|request| request.id == *id),
        })
    }

    /// The message of a request in this stage of one of the routes.
    async fn first_of(
        &self,
        routes: &[Route],
        id: &RequestId,
        stage: &str,
    ) -> Result<Option<Message>, Refusal> {
        let mut all = Vec::new();
        for route in routes {
            let stream = if stage == "due" { PARK.to_owned() } else { request_stream(&route.name) };
            let places = places(&self.subjects, route, stage, id);
            all.extend(places.into_iter().map(|place| (stream.clone(), place)));
        }
        for some in all.chunks(PARALLEL) {
            let mut reads = FuturesUnordered::new();
            for (stream, place) in some {
                reads.push(self.broker.last(stream, place));
            }
            while let Some(message) = reads.try_next().await? {
                if message.is_some() {
                    return Ok(message);
                }
            }
        }
        Ok(None)
    }
}

impl Parked {
    fn read(message: &Message) -> Option<Self> {
        let progress = message.headers.as_ref().and_then(|headers| get(headers, header::PROGRESS));
        let progress = progress.and_then(|json| serde_json::from_str(json).ok());
        Some(Self { request: request_in(message)?, until: until(message)?, progress })
    }
}

/// The subjects that a request with this id may have on a route.
fn places(subjects: &Subjects, route: &Route, stage: &str, id: &RequestId) -> Vec<String> {
    match &route.matches {
        Match::Rpc(pattern) => subjects.rpc_places(stage, pattern, id),
        Match::Send => vec![subjects.send_place(stage, id)],
        // Nobody can ask for the answer to these.
        Match::Publish(_) | Match::Hook(_) => Vec::new(),
    }
}

fn request_in(message: &Message) -> Option<Request> {
    Request::read(message.headers.as_ref()?, message.payload.clone()).ok()
}

/// When a parked message is due.
fn until(message: &Message) -> Option<SystemTime> {
    humantime::parse_rfc3339(broker_header(message, header::SCHEDULE)?.strip_prefix("@at ")?).ok()
}

#[cfg(test)]
mod tests;
