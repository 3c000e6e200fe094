//! What the cases use: requests stored as a gateway stores them, the broker's view of the route, and the worker's process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::Value;
use tidegate_shared::{
    broker::{Broker, Stored},
    channel::Channel,
    config::{Match, NatsUser, Route},
    envelope::{Answer, BYTES, Outcome, Request},
    header,
    id::{RequestId, random_token},
    route::{Priority, Word},
    subject::{Address, Kind, Subjects, part},
    topology::{DEAD, REPLY, RouteConsumer, route_consumers},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Options,
    desk::{Desk, Manner, Publication},
    program::{self, Program},
};

/// How long a connection to the broker may take.
const CONNECTING: Duration = Duration::from_secs(10);
/// Requests of the tester that may be unacknowledged.
const IN_FLIGHT: usize = 256;
/// How often the broker is asked for what it has not told.
const LOOK: Duration = Duration::from_millis(50);

/// A request of the tester.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) body: Bytes,
    pub(super) keyed: bool,
    pub(super) later: bool,
    pub(super) of_user: bool,
    /// Whether it has priority.
    pub(super) first: bool,
    /// How long ago a gateway accepted it.
    pub(super) age: Duration,
    /// Further headers; an empty value removes one.
    pub(super) headers: Vec<(&'static str, String)>,
}

/// Everything that the cases share.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) desk: Desk,
    pub(super) route: Route,
    pub(super) patience: Duration,
    /// The broker's limit for a message.
    pub(super) max_payload: usize,
    pub(super) answer_max_bytes: u64,
    pub(super) ack_wait: Duration,
    pub(super) answer_timeout: Duration,
    pub(super) drain: Duration,
    pub(super) program: Option<Program>,
    kill_command: Option<String>,
    /// As a gateway, as a worker, and as someone who looks at streams.
    gateway: Broker,
    worker: Broker,
    ops: Broker,
    subjects: Subjects,
    method: String,
    user: String,
    /// Whether headers are ASCII.
    pub(super) ascii: bool,
}

impl Rig {
    pub(super) async fn new(options: &Options, route: Route) -> anyhow::Result<Self> {
        let config = &options.config;
        let connect = async |user: &NatsUser| {
            let name = "tidegate conformance";
            let connecting = Broker::connect(&config.nats, user, name, IN_FLIGHT, true);
            match timeout(CONNECTING, connecting).await {
                Ok(broker) => Ok(broker?),
                Err(_) => bail!("no NATS answers at {}: start it, or check nats.url", config.nats.url),
            }
        };
        let (gateway, subjects) = (connect(&config.nats.gateway).await?, config.subjects());
        let program = match options.program.as_slice() {
            [] => None,
            command => Some(Program::start(command, &program::variables(options, &route))?),
        };
        Ok(Self {
            desk: Desk::open(&gateway, &subjects).await?,
            worker: connect(&config.nats.worker).await?,
            ops: connect(&config.nats.ops).await?,
            method: method_of(&route),
            // Its personal channel is none of a plain name: the worker must encode it.
            user: format!("{}.{}", if options.ascii { "j?rg" } else { "jörg" }, random_token::<5>()),
            ascii: options.ascii,
            max_payload: gateway.client().max_payload(),
            answer_max_bytes: config.streams.answer_max_bytes,
            ack_wait: config.worker.ack_wait,
            answer_timeout: config.gateway.answer_timeout,
            drain: config.worker.drain,
            patience: options.patience,
            kill_command: options.kill_command.clone(),
            program,
            route,
            gateway,
            subjects,
        })
    }

    /// Refuses a route on which somebody's requests wait.
    pub(super) async fn unused(&self) -> anyhow::Result<()> {
        let waiting = self.unsettled().await.map_err(anyhow::Error::msg)?;
        if waiting > 0 {
            bail!(
                "{waiting} requests wait on the route {:?}: the test needs one that nobody uses",
                self.route.name
            );
        }
        Ok(())
    }

    pub(super) async fn end(&self) {
        if let Some(program) = &self.program {
            program.end().await;
        }
    }

    /// A request as a gateway would make it now.
    pub(super) fn request(&self, ask: &Ask) -> Request {
        let id = if ask.keyed {
            RequestId::keyed(&self.user, &self.method, &random_token::<8>())
        } else {
            RequestId::plain(&self.desk.gateway)
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let priority = if ask.first { Priority::High } else { Priority::Normal };
        let accepted = now.saturating_sub(ask.age).as_millis();
        let request = Request {
            id,
            user: (ask.of_user || ask.keyed || ask.later).then(|| self.user.clone()),
            client: Some(format!("{}.conformance", self.desk.gateway.as_str())),
            route: self.route.name.clone(),
            method: Some(self.method.clone()),
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: ask.later,
            attempt: 0,
            accepted_at: u64::try_from(accepted).unwrap_or_default(),
            trace: None,
            content_type: BYTES.to_owned(),
            body: ask.body.clone(),
        }
        .on_route(&self.route);
        Request { priority, ..request }
    }

    /// Tells the workers that a request is cancelled, as a gateway does that has stored so.
    pub(super) async fn cancel(&self, id: &RequestId) -> Result<(), String> {
        let sent = self.gateway.client().publish(self.subjects.cancel(id), Bytes::new()).await;
        sent.map_err(|error| format!("the tester cannot cancel: {error}"))
    }

    /// Stores a request for the worker, whose answer the desk takes.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Request, String> {
        let request = self.request(ask);
        self.desk.behave(request.id.as_str(), Manner::Takes);
        self.store(&request, ask).await?;
        Ok(request)
    }

    pub(super) async fn store(&self, request: &Request, ask: &Ask) -> Result<(), String> {
        let mut headers = request.headers();
        for (name, value) in &ask.headers {
            headers.insert(*name, value.as_str());
        }
        let headers: HeaderMap = headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.clone(), value.clone())))
            .filter(|(_, value)| !value.as_str().is_empty())
            .collect();
        self.put(self.subjects.request(&request.address()), headers, request.body.clone()).await
    }

    /// Stores a second copy of a request, as a gateway does after the first has left the stream.
    pub(super) async fn store_copy(&self, request: &Request) -> Result<(), String> {
        let key = request.ordering_key();
        // The first copy may be there still, so the second needs a subject of its own: another part.
        let other =
            (0..100).map(|n: u32| n.to_string()).find(|other| part(other) != part(key)).unwrap_or_default();
        let address = Address::new(Kind::Rpc(&self.method), &other, &request.id);
        let mut headers = request.headers();
        headers.insert(header::MSG_ID, format!("{}.copy", request.id));
        self.put(self.subjects.request(&address), headers, request.body.clone()).await
    }

    /// Stores a message that is not a request in the route's stream.
    pub(super) async fn store_unreadable(&self) -> Result<(), String> {
        let address = self.request(&Ask::default()).address();
        let mut headers = HeaderMap::new();
        headers.insert("X-Nothing", "of use");
        self.put(self.subjects.request(&address), headers, "no request".into()).await
    }

    async fn put(&self, subject: String, headers: HeaderMap, body: Bytes) -> Result<(), String> {
        match self.gateway.store(subject, headers, body).await {
            Ok(Stored { duplicate: false, .. }) => Ok(()),
            Ok(_) => Err("the broker took the tester's request for a repetition".to_owned()),
            Err(refusal) => Err(format!("the broker refused the tester's request: {refusal}")),
        }
    }

    /// Stores an answer as another worker would, or whoever cancels.
    pub(super) async fn store_answer(&self, request: &Request, outcome: Outcome) -> Result<(), String> {
        let answer = Answer::to(request, 0, "conformance", outcome);
        let subject = self.subjects.reply(&request.id);
        let stored = self.worker.store(subject, answer.headers(), answer.body()).await;
        stored.map(drop).map_err(|refusal| format!("the broker refused the tester's answer: {refusal}"))
    }

    /// Waits for the answer at the desk.
    pub(super) async fn answer(&self, id: &RequestId, limit: Duration) -> Result<Answer, String> {
        let heard = self.desk.until(limit, |heard| {
            heard.answers.get(id.as_str()).and_then(|answers| answers.first().cloned())
        });
        match heard.await {
            Some((answer, _)) => Ok(answer),
            None => Err(self.no("no answer", limit).await),
        }
    }

    /// Waits for an answer in TIDE_REPLY.
    pub(super) async fn stored(&self, id: &RequestId, limit: Duration) -> Result<Answer, String> {
        let deadline = Instant::now() + limit;
        loop {
            let message =
                self.gateway.last(REPLY, &self.subjects.reply(id)).await.map_err(|e| e.to_string())?;
            if let Some(message) = message {
                return Answer::read(&message.headers.unwrap_or_default(), message.payload)
                    .map_err(|error| format!("a stored answer that cannot be read: {error}"));
            }
            if Instant::now() > deadline {
                return Err(self.no("no stored answer", limit).await);
            }
            sleep(LOOK).await;
        }
    }

    /// Waits for the publication of a request's answer on the user's personal channel.
    pub(super) async fn publication(&self, id: &RequestId, limit: Duration) -> Result<Publication, String> {
        match self
            .desk
            .until(limit, |heard| heard.publications.iter().find(|p| is_about(p, id)).cloned())
            .await
        {
            Some(publication) => {
                let channel = Channel::personal(&self.user);
                let right = self.subjects.live(&channel);
                if publication.subject.as_str() == right {
                    Ok(publication)
                } else {
                    Err(format!("a publication on {}, not on {right}", publication.subject))
                }
            }
            None => Err(self.no("no publication with Tide-Tag-re", limit).await),
        }
    }

    /// How often a request's answer was published.
    pub(super) fn published(&self, id: &RequestId) -> usize {
        self.desk.now(|heard| heard.publications.iter().filter(|p| is_about(p, id)).count())
    }

    /// Says what is missing, with what may be the reason.
    async fn no(&self, what: &str, limit: Duration) -> String {
        let mut text = format!("{what} within {} s", limit.as_secs());
        if let Some(unreadable) = self.desk.now(|heard| heard.unreadable.last().cloned()) {
            text = format!("{text}; an answer that cannot be read {unreadable}");
        }
        if let Ok(unsettled) = self.unsettled().await {
            text = format!("{text}; {unsettled} requests are not acknowledged");
        }
        if let Some(program) = self.program.as_ref().filter(|program| program.ends() > 0) {
            text = format!(
                "{text}; the worker has ended {} times, last with {}",
                program.ends(),
                program.last_end()
            );
        }
        text
    }

    /// Waits until every request of the route is acknowledged.
    pub(super) async fn settled(&self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        while self.unsettled().await? > 0 {
            if Instant::now() > deadline {
                return Err(self.no("not every request is acknowledged", limit).await);
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until the worker has a request.
    pub(super) async fn begun(&self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        while self.sum("/num_ack_pending").await? == 0 {
            if Instant::now() > deadline {
                return Err(self.no("the worker pulled nothing", self.patience).await);
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn unsettled(&self) -> Result<u64, String> {
        Ok(self.sum("/num_pending").await? + self.sum("/num_ack_pending").await?)
    }

    /// How many messages the route's consumers have delivered, redeliveries included.
    pub(super) async fn deliveries(&self) -> Result<u64, String> {
        self.sum("/delivered/consumer_seq").await
    }

    /// Adds the number at this place up over the route's consumers.
    async fn sum(&self, what: &str) -> Result<u64, String> {
        let mut sum = 0;
        for RouteConsumer { stream, name, .. } in route_consumers(&self.route) {
            let info = self.ask(format!("CONSUMER.INFO.{stream}.{name}"), "").await?;
            let number = info.pointer(what).and_then(Value::as_u64);
            sum += number.with_context(|| format!("no {what}: {info}")).map_err(|e| e.to_string())?;
        }
        Ok(sum)
    }

    /// How many dead letters the route has.
    pub(super) async fn letters(&self) -> Result<u64, String> {
        let filter = serde_json::json!({ "subjects_filter": self.subjects.dead_of(&self.route.name) });
        let info = self.ask(format!("STREAM.INFO.{DEAD}"), &filter.to_string()).await?;
        let counts = info.pointer("/state/subjects").and_then(Value::as_object);
        Ok(counts.map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum()))
    }

    async fn ask(&self, call: String, body: &str) -> Result<Value, String> {
        let reply = self.ops.client().request(format!("$JS.API.{call}"), body.to_owned().into()).await;
        let reply = reply.map_err(|error| format!("{call}: {error}"))?;
        let value: Value =
            serde_json::from_slice(&reply.payload).map_err(|error| format!("{call}: {error}"))?;
        match value.pointer("/error/description").and_then(Value::as_str) {
            Some(error) => Err(format!("{call}: {error}")),
            None => Ok(value),
        }
    }

    /// Kills the worker.
    pub(super) async fn kill(&self) -> Result<(), String> {
        if let Some(program) = &self.program {
            program.kill();
            return Ok(());
        }
        let Some(command) = &self.kill_command else { return Err("nothing kills the worker".to_owned()) };
        let status = tokio::process::Command::new("sh").args(["-c", command]).status().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the kill command ended with {status}")),
            Err(error) => Err(format!("the kill command: {error}")),
        }
    }
}

fn is_about(publication: &Publication, id: &RequestId) -> bool {
    let re = publication.headers.get(format!("{}re", header::TAG_PREFIX).as_str());
    re.is_some_and(|re| re.as_str() == id.as_str())
}

/// A method that the route takes.
fn method_of(route: &Route) -> String {
    let Match::Rpc(pattern) = &route.matches else { return String::new() };
    let word = |word: &Word| match word {
        Word::Literal(word) => word.clone(),
        Word::Any(_) => "x".to_owned(),
    };
    let mut words: Vec<_> = pattern.words().iter().map(word).collect();
    if pattern.is_open() {
        words.push("x".to_owned());
    }
    words.join(".")
}
