//! A real broker for a test, with the streams of a configuration; and the test in the place of the gateway.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    access::ADMIN,
    broker::{Broker, ConnectFailure, Refusal, RouteState},
    channel::Channel,
    config::{Config, Match, Namespace, NatsUser, Route, Secret},
    confirmation::Confirmation,
    dead::{self, Letter, Rest},
    envelope::{self, AnswerWay, Outcome, Request},
    hook::Event,
    id::{GatewayId, RequestId, random_token},
    protocol::codes,
    subject::Subjects,
    topology::{DEAD, PARK, REPLY, Topology, channel_stream, request_stream},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    TestJob,
    found::{CallFailure, DeadLetter, NotStarted, Published},
    server::Server,
};
use crate::{
    answer::Answer,
    embed::{Worker, WorkerBuilder},
};

/// How long an answer, and each step of the broker, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks at what is stored.
const LOOK: Duration = Duration::from_millis(10);
/// The most messages that are read at once.
const MOST: usize = 1000;
/// The least that a question has to say.
const QUESTION: &[u8] = br#"{"client": "test.client"}"#;
/// Acknowledged publishes under way.
const IN_FLIGHT: usize = 64;

/// A broker of one test, with the streams of one configuration. The test is the gateway: it sends requests, and gets answers.
///
/// ```
/// use tidegate_worker::{Json, Publication, Router, User, on, testing};
///
/// async fn place(User(user): User, Json(count): Json<u32>) -> (Json<u32>, Publication) {
///     (Json(count + 1), Publication::bytes("chat:orders", user))
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let config = "[[namespace]]\nname = 'chat'\nhistory_size = 10\n\
///     [[route]]\nname = 'orders'\nmatch = 'rpc.orders.place'\n";
/// let tide = testing::Tide::start(config).await.unwrap();
/// let worker = tide.worker().router(Router::<()>::new().route("orders", on(place))).start().await.unwrap();
///
/// let answer = tide.call(testing::job("orders.place").user("42").json(&1)).await.unwrap();
/// assert_eq!(answer.to_json::<u32>().unwrap(), 2);
/// assert_eq!(tide.published("chat:orders").await.unwrap()[0].data, "42");
/// worker.drain();
/// worker.ended().await.unwrap();
/// # });
/// ```
///
/// Every wait has a limit of 30 seconds. The broker is gone when this is dropped.
#[derive(Debug)]
pub struct Tide {
    config: Config,
    subjects: Subjects,
    gateway: Broker,
    admin: Broker,
    id: GatewayId,
    _server: Server,
}

impl Tide {
    /// Starts a nats-server on a port that it chooses, and creates the streams of this configuration, which is the text of a
    /// `tidegate.toml`. The environment is not read.
    pub async fn start(toml: &str) -> Result<Self, NotStarted> {
        Box::pin(Self::begin(toml)).await
    }

    async fn begin(toml: &str) -> Result<Self, NotStarted> {
        let folder = || tempfile::Builder::new().prefix("tidegate-test-").tempdir();
        let dir = folder().map_err(|error| NotStarted::Server(format!("no folder for it: {error}")))?;
        let mut config = read(dir.path(), toml)?;
        let password = random_token::<20>();
        let (server, url) = Server::start(dir, &config, &password).await?;
        config.nats.url = url;
        let admin = NatsUser { user: ADMIN.to_owned(), password: Secret::new(password) };
        let (admin, setup, gateway) = tokio::try_join!(
            connect(&config, &admin),
            connect(&config, &config.nats.setup),
            connect(&config, &config.nats.gateway),
        )?;
        let topology = Topology::of(&config);
        let failed = |error: &dyn std::fmt::Display| NotStarted::Streams(error.to_string());
        let plan = topology.plan(setup.jetstream()).await.map_err(|error| failed(&error))?;
        topology.apply(setup.jetstream(), &plan).await.map_err(|error| failed(&error))?;
        let subjects = config.subjects();
        Ok(Self { config, subjects, gateway, admin, id: GatewayId::random(), _server: server })
    }

    /// The configuration, with the server's address.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Begins to build a worker of this broker.
    pub fn worker(&self) -> WorkerBuilder {
        Worker::builder(&self.config)
    }

    /// Sends a job as a gateway does, and returns the worker's answer. Its publications are not in it:
    /// [`published`](Self::published) reads them.
    pub async fn call(&self, job: TestJob) -> Result<Answer, CallFailure> {
        if let Some(event) = job.event.clone() {
            return self.ask(&event, job).await;
        }
        let request = self.request(job)?;
        let subject = self.subjects.answer(&request.0.id);
        let mut answers = self.gateway.client().subscribe(subject).await.map_err(not_sent)?;
        self.store(&request).await?;
        let (request, _) = request;
        if request.answer_way() == AnswerWay::Nobody {
            return self.await_end(&request).await.map(|()| Answer::bytes(Bytes::new()));
        }
        let answer = self.await_answer(&request, &mut answers).await?;
        match answer.outcome {
            Outcome::Ok(body) => Ok(Answer::bytes(body)),
            Outcome::Error { code, message, data } => Err(CallFailure::Error { code, message, data }),
        }
    }

    /// Sends a job as a gateway does, and does not wait for it. Returns the request's id.
    pub async fn send(&self, job: TestJob) -> Result<String, CallFailure> {
        let request = self.request(job)?;
        self.store(&request).await?;
        Ok(request.0.id.as_str().to_owned())
    }

    /// The publications in a channel such as `chat:lobby`, oldest first: as many as its namespace keeps. One without a history keeps
    /// none, which is an error here.
    pub async fn published(&self, channel: &str) -> Result<Vec<Published>, CallFailure> {
        let parsed = Channel::parse(channel).map_err(not_sent)?;
        let kept = self.config.all_namespaces().into_iter().filter(Namespace::has_history);
        if !kept.map(|namespace| namespace.name).any(|name| name == parsed.namespace()) {
            let namespace = parsed.namespace();
            return Err(not_sent(format!(
                "the namespace `{namespace}` keeps no publications: give it a `history_size` in the test's configuration"
            )));
        }
        let stream = channel_stream(parsed.namespace());
        let range = self.admin.range(&stream, &self.subjects.channel(&parsed), 1, MOST).await;
        Ok(range.map_err(not_sent)?.messages.into_iter().map(Published::of).collect())
    }

    /// The dead letters of a route, oldest first.
    pub async fn dead_letters(&self, route: &str) -> Result<Vec<DeadLetter>, CallFailure> {
        let subject = dead::subjects_of(&self.subjects, Some(route));
        let range = self.admin.range(DEAD, &subject, 1, MOST).await.map_err(not_sent)?;
        let mut letters = Vec::new();
        for letter in range.messages.iter().filter_map(Letter::read) {
            letters.push(self.dead_letter(letter).await?);
        }
        Ok(letters)
    }

    /// Waits until every request is acknowledged: those that wait for their next attempt included.
    pub async fn settled(&self) -> Result<(), CallFailure> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = None;
        loop {
            let Counted { unsettled, stored } = self.counted().await?;
            // A request that moves from one stream to another while they are counted may be missed in both. But then something was
            // stored: nothing is on its way if nothing has been since the count before, which found nothing either.
            if unsettled == 0 && before.as_ref() == Some(&stored) {
                return Ok(());
            }
            before = (unsettled == 0).then_some(stored);
            if Instant::now() > deadline {
                return Err(CallFailure::NoAnswer(format!(
                    "{unsettled} requests are not settled after {PATIENCE:?}"
                )));
            }
            sleep(LOOK).await;
        }
    }

    /// What the test's job is as a request of a gateway.
    fn request(&self, job: TestJob) -> Result<(Request, HeaderMap), CallFailure> {
        let TestJob { request, headers, broken, key, .. } = job;
        if let Some(broken) = broken {
            return Err(CallFailure::NotSent(format!("the test's job is wrong: {broken}")));
        }
        let route = self.route(&request)?;
        let id = match (&key, &request.user, &request.method) {
            (Some(key), Some(user), Some(method)) => RequestId::keyed(user, method, key),
            (Some(_), ..) => {
                return Err(CallFailure::NotSent(
                    "a call with a key needs a user: add .user(...)".to_owned(),
                ));
            }
            (None, ..) => RequestId::plain(&self.id),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let request = Request {
            id,
            route: route.name.clone(),
            accepted_at: u64::try_from(now).unwrap_or_default(),
            ..request
        };
        let request = request.on_route(route);
        let mut all = request.headers();
        for (name, values) in headers.iter() {
            for value in values {
                all.append(name.clone(), value.clone());
            }
        }
        Ok((request, all))
    }

    fn route(&self, request: &Request) -> Result<&Route, CallFailure> {
        let takes = |route: &Route| match &route.matches {
            Match::Rpc(pattern) => request.method.as_deref().is_some_and(|method| pattern.matches(method)),
            Match::Publish(namespace) => {
                request.channel.as_ref().is_some_and(|channel| channel.namespace() == namespace)
            }
            Match::Send => request.method.is_none() && request.channel.is_none(),
            Match::Hook(_) => false,
        };
        self.config.routes.iter().find(|route| takes(route)).ok_or_else(|| {
            let names: Vec<String> =
                self.config.routes.iter().map(|route| route.matches.to_string()).collect();
            CallFailure::NotSent(format!("no [[route]] takes this job; there are {}", names.join(", ")))
        })
    }

    async fn store(&self, (request, headers): &(Request, HeaderMap)) -> Result<(), CallFailure> {
        let subject = self.subjects.request(&request.address());
        let stored = self.gateway.store(subject, headers.clone(), request.body.clone()).await;
        match stored {
            Ok(_) => Ok(()),
            // The request waits there already: its answer is that of this call too.
            Err(Refusal::Taken) if request.id.is_keyed() => Ok(()),
            Err(refusal) => Err(not_sent(refusal)),
        }
    }

    /// Asks a handler for a decision.
    async fn ask(&self, event: &str, job: TestJob) -> Result<Answer, CallFailure> {
        let Some(event) = Event::ALL.into_iter().find(|known| known.as_str() == event) else {
            return Err(CallFailure::NotSent(format!("{event:?} is no event of a hook")));
        };
        let subject = self.subjects.hook(event);
        let body = if job.request.body.is_empty() { Bytes::from_static(QUESTION) } else { job.request.body };
        let asked = self.gateway.client().request(subject, body);
        match timeout(PATIENCE, asked).await {
            Ok(Ok(message)) => Ok(Answer::bytes(message.payload)),
            Ok(Err(error)) => {
                Err(CallFailure::NoAnswer(format!("no worker decides {}: {error}", event.as_str())))
            }
            Err(_) => Err(CallFailure::NoAnswer(format!("no decision within {PATIENCE:?}"))),
        }
    }

    async fn await_answer(
        &self,
        request: &Request,
        answers: &mut Subscriber,
    ) -> Result<envelope::Answer, CallFailure> {
        let deadline = Instant::now() + PATIENCE;
        let is_stored = request.answer_way() == AnswerWay::Stored;
        while Instant::now() < deadline {
            let next = deadline.min(Instant::now() + LOOK * 5);
            if let Ok(Some(message)) = timeout_at(next, answers.next()).await {
                if let Some(reply) = &message.reply {
                    let word = Confirmation::Taken.as_str();
                    self.gateway.client().publish(reply.clone(), word.into()).await.map_err(not_sent)?;
                }
                return answer_in(message);
            }
            if is_stored
                && let Some(stored) =
                    self.gateway.last(REPLY, &self.subjects.reply(&request.id)).await.map_err(not_sent)?
            {
                return answer_in(stored);
            }
        }
        let RouteState { name, waiting, running, .. } =
            self.admin.route(self.route(request)?).await.map_err(not_sent)?;
        Err(CallFailure::NoAnswer(format!(
            "no answer within {PATIENCE:?}: on the route {name:?} {waiting} requests wait and {running} are at work; is there \
             a worker with a handler for it?"
        )))
    }

    /// Nobody gets the answer to a publication or a `send`: it is over when it is settled.
    async fn await_end(&self, request: &Request) -> Result<(), CallFailure> {
        self.settled().await?;
        let letters = self.dead_letters(&request.route).await?;
        match letters.into_iter().find(|letter| letter.id.as_deref() == Some(request.id.as_str())) {
            None => Ok(()),
            Some(letter) => {
                let code = codes::DEAD_LETTER.code;
                Err(CallFailure::Error { code, message: letter.error, data: Bytes::new() })
            }
        }
    }

    async fn counted(&self) -> Result<Counted, CallFailure> {
        let parked = self.admin.jetstream().get_stream(PARK).await.map_err(not_sent)?;
        let mut stored = vec![parked.cached_info().state.last_sequence];
        let mut unsettled = parked.cached_info().state.messages;
        // A schedule is no request. Nor is what it has fired, which waits for a gateway, and there is none.
        for schedules in [self.subjects.all_schedules(), self.subjects.all_firings()] {
            let subjects = parked.info_with_subjects(schedules).await.map_err(not_sent)?;
            unsettled = unsettled.saturating_sub(subjects.count().await as u64);
        }
        let in_streams = |route: &&Route| !matches!(route.matches, Match::Hook(_));
        for route in self.config.routes.iter().filter(in_streams) {
            let stream = self.admin.stream_facts(&request_stream(&route.name)).await.map_err(not_sent)?;
            stored.push(stream.last_seq);
        }
        for route in self.admin.routes(&self.config.routes).await.map_err(not_sent)? {
            unsettled += route.waiting + route.running;
        }
        Ok(Counted { unsettled, stored })
    }

    /// The whole body of a letter, which may have two parts.
    async fn dead_letter(&self, letter: Letter) -> Result<DeadLetter, CallFailure> {
        let mut body = letter.body.to_vec();
        if let Rest::At(rest) = letter.rest
            && let Some(rest) = self.admin.first_from(DEAD, rest).await.map_err(not_sent)?
        {
            body.extend_from_slice(&rest.payload);
        }
        Ok(DeadLetter {
            reason: letter.reason.as_str().to_owned(),
            error: letter.error,
            attempts: letter.attempts.unwrap_or_default(),
            id: letter.id.map(|id| id.as_str().to_owned()),
            body: body.into(),
        })
    }
}

/// How many requests are not settled, and how many messages each stream of requests has ever had.
struct Counted {
    unsettled: u64,
    stored: Vec<u64>,
}

/// Reads a configuration whose environment is empty.
fn read(dir: &Path, toml: &str) -> Result<Config, NotStarted> {
    let file = dir.join("tidegate.toml");
    std::fs::write(&file, toml).map_err(|error| NotStarted::Server(format!("its tidegate.toml: {error}")))?;
    Ok(Config::from_sources(Some(&file), BTreeMap::new(), &[])?)
}

async fn connect(config: &Config, user: &NatsUser) -> Result<Broker, ConnectFailure> {
    Broker::connect(&config.nats, user, "tidegate test", IN_FLIGHT, true).await
}

fn answer_in(message: Message) -> Result<envelope::Answer, CallFailure> {
    let read = envelope::Answer::read(&message.headers.unwrap_or_default(), message.payload);
    read.map_err(|error| CallFailure::NotSent(format!("an answer that cannot be read: {error}")))
}

fn not_sent(error: impl std::fmt::Display) -> CallFailure {
    CallFailure::NotSent(error.to_string())
}
