//! Test support: a broker per test, requests as a gateway makes them, and waiting for conditions.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_nats::{Message, Subscriber, jetstream::consumer::PullConsumer};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use tidegate_cli::{
    client::{Client, Events, Options},
    stack::{Builder, Stack},
    token::connection_token,
};
use tidegate_shared::{
    broker::Broker,
    channel::Channel,
    config::Config,
    envelope::{Answer, JSON, Outcome, Request},
    id::{GatewayId, RequestId},
    lifecycle::TaskEnded,
    route::Priority,
    subject::Subjects,
    topology::{DEAD, PARK, REPLY, RouteConsumer, request_stream, route_consumers},
};
use tidegate_worker::{Router, Worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// The limit of every wait: generous, because waits end as soon as their condition holds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A broker with the streams of one configuration, and connections of its users.
pub(crate) struct Tide {
    pub(crate) stack: Stack,
    pub(crate) subjects: Subjects,
    pub(crate) gateway: Broker,
    /// May do everything in the account of the streams.
    admin: Broker,
    gateway_id: GatewayId,
}

impl Tide {
    /// Starts a broker for these `[[route]]`s. Unsettled requests are delivered again after a second.
    pub(crate) async fn start(routes: &str) -> Self {
        Self::start_with(routes, 0).await
    }

    /// As [`Tide::start`], with this many stock workers.
    pub(crate) async fn start_with(routes: &str, workers: usize) -> Self {
        Self::start_draining(routes, workers, "10s").await
    }

    /// As [`Tide::start_with`], with this time for a draining worker to finish.
    pub(crate) async fn start_draining(routes: &str, workers: usize, drain: &str) -> Self {
        Self::start_stack(routes, (0, workers), drain).await
    }

    /// As [`Tide::start`], with a gateway.
    pub(crate) async fn start_with_gateway(routes: &str) -> Self {
        Self::start_stack(routes, (1, 0), "10s").await
    }

    /// As [`Tide::start_draining`], with workers of this program.
    pub(crate) async fn start_program(program: &str, routes: &str, workers: usize, drain: &str) -> Self {
        Self::start_builder(Stack::builder().workers(workers).worker_program(program), routes, drain).await
    }

    async fn start_stack(routes: &str, (gateways, workers): (usize, usize), drain: &str) -> Self {
        Self::start_builder(Stack::builder().gateways(gateways).workers(workers), routes, drain).await
    }

    async fn start_builder(builder: Builder, routes: &str, drain: &str) -> Self {
        let config = format!(
            "[worker]\nack_wait = \"1s\"\ndrain = \"{drain}\"\n\
             [[namespace]]\nname = \"chat\"\nhistory_size = 100\n[[namespace]]\nname = \"quakes\"\n{routes}"
        );
        let stack = builder.config(&config).start().await.unwrap();
        let config = stack.config();
        let gateway = Broker::connect(&config.nats, &config.nats.gateway, "gateway", 64, true).await.unwrap();
        let admin = stack.admin().await.unwrap();
        Self { subjects: config.subjects(), gateway, admin, gateway_id: GatewayId::random(), stack }
    }

    /// A client of this user on the stack's gateway.
    pub(crate) async fn client(&self, user: &str) -> (Client, Events) {
        let hour = Duration::from_hours(1);
        let token = connection_token(&self.config().auth, user, hour, SystemTime::now()).unwrap();
        let url = self.stack.gateways()[0].websocket.clone();
        Client::connect(Options::new(url).token(token)).await.unwrap()
    }

    /// Calls a method of the server API as an operator does, and returns its result or its error.
    pub(crate) async fn operate(&self, method: &str, params: Value) -> Value {
        let nats = &self.config().nats;
        let operator = Broker::connect(nats, &nats.ops, "operator", 1, true).await.unwrap();
        let subject = self.subjects.control(method);
        let answer = operator.client().request(subject, params.to_string().into()).await.unwrap();
        let mut answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        if answer["error"].is_null() { answer["result"].take() } else { answer }
    }

    pub(crate) fn config(&self) -> &Config {
        self.stack.config()
    }

    /// A plain request of user 42.
    pub(crate) fn request(&self, method: &str, body: impl Into<Bytes>) -> Request {
        Request {
            id: RequestId::plain(&self.gateway_id),
            user: Some("42".to_owned()),
            client: Some(format!("{}.client", self.gateway_id.as_str())),
            route: method.replace('.', "-"),
            method: Some(method.to_owned()),
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: false,
            attempt: 0,
            accepted_at: 0,
            trace: None,
            content_type: JSON.to_owned(),
            body: body.into(),
        }
    }

    /// Stores a publication of user 42 to a channel with `publish = "worker"`.
    pub(crate) async fn publish(&self, route: &str, channel: &str, body: impl Into<Bytes>) -> Request {
        let request = Request {
            route: route.to_owned(),
            method: None,
            channel: Some(Channel::parse(channel).unwrap()),
            info: Some("{\"name\":\"Ann\"}".to_owned()),
            ..self.request("-", body)
        };
        self.send(&request).await;
        request
    }

    pub(crate) fn subject_of(&self, request: &Request) -> String {
        self.subjects.request(&request.address())
    }

    /// Stores a request as a gateway does.
    pub(crate) async fn send(&self, request: &Request) {
        self.send_as(request, request.id.as_str()).await;
    }

    /// As [`Tide::send`], with this id for deduplication.
    pub(crate) async fn send_as(&self, request: &Request, message_id: &str) {
        self.send_with(request, &[("Nats-Msg-Id", message_id)]).await;
    }

    /// As [`Tide::send`], with these headers in place of its own.
    pub(crate) async fn send_with(&self, request: &Request, other: &[(&str, &str)]) {
        let (subject, mut headers) = (self.subject_of(request), request.headers());
        for (name, value) in other {
            headers.insert(*name, *value);
        }
        eventually("the request is stored", async || {
            self.gateway.store(subject.clone(), headers.clone(), request.body.clone()).await.ok()
        })
        .await;
    }

    /// Makes and stores a plain request.
    pub(crate) async fn ask(&self, method: &str, body: impl Into<Bytes>) -> Request {
        let request = self.request(method, body);
        self.send(&request).await;
        request
    }

    /// The stored answer. `None` while there is none.
    pub(crate) async fn stored(&self, request: &Request) -> Option<Answer> {
        let message = self.gateway.last(REPLY, &self.subjects.reply(&request.id)).await.ok()??;
        Some(Answer::read(&message.headers?, message.payload).unwrap())
    }

    /// Waits for the answer.
    pub(crate) async fn answer(&self, request: &Request) -> Answer {
        eventually("an answer is stored", async || self.stored(request).await).await
    }

    /// Waits for the answer, which must not be an error, and returns its body.
    pub(crate) async fn body(&self, request: &Request) -> Bytes {
        match self.answer(request).await.outcome {
            Outcome::Ok(body) => body,
            error @ Outcome::Error { .. } => panic!("{error:?}"),
        }
    }

    /// Waits for the answer, which must be an error, and returns its code and message.
    pub(crate) async fn error(&self, request: &Request) -> (u32, String) {
        match self.answer(request).await.outcome {
            Outcome::Error { code, message, .. } => (code, message),
            ok @ Outcome::Ok(_) => panic!("{ok:?}"),
        }
    }

    /// Waits for a dead letter of a route, and returns the last one.
    pub(crate) async fn dead_letter(&self, route: &str) -> Message {
        let subject = self.subjects.dead("default", route);
        eventually("a dead letter is stored", async || self.admin.last(DEAD, &subject).await.ok()?).await
    }

    /// The whole body of a dead letter, which may have two parts.
    pub(crate) async fn dead_body(&self, letter: &Message) -> Vec<u8> {
        let mut body = letter.payload.to_vec();
        if let Ok(rest) = header(letter, "Tide-Dead-Rest").parse() {
            body.extend_from_slice(&self.admin.first_from(DEAD, rest).await.unwrap().unwrap().payload);
        }
        body
    }

    /// Waits until a request is parked, and returns when its next delivery is due.
    pub(crate) async fn due(&self, request: &Request) -> SystemTime {
        let parked = self.parked(request).await;
        humantime::parse_rfc3339(header(&parked, "Nats-Schedule").trim_start_matches("@at ")).unwrap()
    }

    /// Waits until a request is parked.
    pub(crate) async fn parked(&self, request: &Request) -> Message {
        let subject = self.subjects.park(&request.id);
        eventually("the request is parked", async || self.admin.last(PARK, &subject).await.ok()?).await
    }

    /// The number of messages in a stream.
    pub(crate) async fn count(&self, stream: &str) -> u64 {
        self.admin.jetstream().get_stream(stream).await.unwrap().cached_info().state.messages
    }

    /// The number of requests in the stream of a route that are not acknowledged; 0 for a hook.
    pub(crate) async fn unsettled(&self, route: &str) -> u64 {
        let mut unsettled = 0;
        for consumer in self.consumers(route).iter().filter(|consumer| consumer.stream != PARK) {
            let progress = self.admin.progress(&consumer.stream, &consumer.name).await;
            unsettled += progress.map_or(0, |progress| progress.unacknowledged + progress.waiting);
        }
        unsettled
    }

    /// The consumers of a route.
    pub(crate) fn consumers(&self, route: &str) -> Vec<RouteConsumer> {
        let mut routes = self.config().routes.iter();
        routes.find(|found| found.name == route).map(route_consumers).unwrap_or_default()
    }

    /// Removes a request that is acknowledged, as the purger does.
    pub(crate) async fn purge(&self, request: &Request) {
        let nats = &self.config().nats;
        let purger = Broker::connect(nats, &nats.purger, "purging", 1, true).await.unwrap();
        let stream = request_stream(&request.route);
        purger.purge(&stream, &self.subject_of(request), u64::from(u32::MAX)).await.unwrap();
    }

    /// Removes what is acknowledged from the stream of a route that has one consumer there, as the purger does.
    pub(crate) async fn purge_acknowledged(&self, route: &str) {
        let stream = request_stream(route);
        let floor = self.admin.progress(&stream, route).await.unwrap().floor;
        if floor > 0 {
            self.admin.purge_below(&stream, floor + 1).await.unwrap();
        }
    }

    /// Gives the result cache room, as an operator does.
    pub(crate) async fn enlarge(&self) {
        let jetstream = self.admin.jetstream();
        let mut larger = jetstream.get_stream(REPLY).await.unwrap().cached_info().config.clone();
        larger.max_bytes *= 8;
        jetstream.update_stream(larger).await.unwrap();
    }

    /// Waits until every request is settled.
    pub(crate) async fn settled(&self) {
        eventually("every request is settled", async || {
            let mut unsettled = self.count(PARK).await;
            for route in &self.config().routes {
                unsettled += self.unsettled(&route.name).await;
            }
            (unsettled == 0).then_some(())
        })
        .await;
    }

    /// Parks a request whose next attempt is due now.
    pub(crate) async fn park(&self, request: &Request) {
        let nats = &self.config().nats;
        let worker = Broker::connect(nats, &nats.worker, "parking", 1, true).await.unwrap();
        let mut headers = request.headers();
        headers.insert("Nats-Schedule", "@at 2020-01-01T00:00:00Z");
        headers.insert("Nats-Schedule-Target", self.subjects.due(&self.subject_of(request)).unwrap());
        worker.store(self.subjects.park(&request.id), headers, request.body.clone()).await.unwrap();
    }

    /// Waits until workers have pulled this many requests of a route and not settled them.
    pub(crate) async fn delivered(&self, route: &str, wanted: usize) {
        eventually("the requests are pulled", async || {
            let mut pulled = 0;
            for RouteConsumer { stream, name, .. } in self.consumers(route) {
                let consumer: PullConsumer =
                    self.admin.jetstream().get_consumer_from_stream(name, stream).await.ok()?;
                pulled += consumer.cached_info().num_ack_pending;
            }
            (pulled == wanted).then_some(())
        })
        .await;
    }

    /// Deletes one of a route's consumers.
    pub(crate) async fn delete_consumer(&self, route: &str, stream: &str) {
        let stream = self.admin.jetstream().get_stream(stream).await.unwrap();
        stream.delete_consumer(route).await.unwrap();
    }

    /// Subscribes as a gateway does.
    pub(crate) async fn listen(&self, subject: &str) -> Subscriber {
        let subscriber = self.gateway.client().subscribe(subject.to_owned()).await.unwrap();
        self.gateway.settled().await.unwrap();
        subscriber
    }

    /// Starts a worker in this process with these handlers.
    pub(crate) async fn work<S: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        router: Router<S>,
    ) -> Running {
        self.work_at(name, router, SystemTime::now).await
    }

    /// As [`Tide::work`], on a machine whose clock says this.
    pub(crate) async fn work_at<S: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        router: Router<S>,
        local: fn() -> SystemTime,
    ) -> Running {
        let builder = Worker::builder(self.config()).name(name).router(router).local_time(local);
        Running(builder.start().await.unwrap())
    }

    /// As [`Tide::work`], with answers that gather.
    pub(crate) async fn work_gathering<S: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        router: Router<S>,
    ) -> Running {
        let builder = Worker::builder(self.config()).name(name).router(router).gather_answers();
        Running(builder.start().await.unwrap())
    }
}

/// A worker in this process.
pub(crate) struct Running(pub(crate) Worker);

impl Running {
    /// Asks the worker to end.
    pub(crate) fn drain(&self) {
        self.0.drain();
    }

    /// Asks the worker to end now.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }

    /// Waits until the worker has ended by itself, without an error.
    pub(crate) async fn ended(self) {
        assert_eq!(self.result().await, Ok(()));
    }

    /// Waits until the worker has ended by itself, and returns its result.
    pub(crate) async fn result(self) -> Result<(), TaskEnded> {
        timeout(DEADLINE, self.0.ended()).await.unwrap()
    }

    /// How many deliveries ended in this way.
    pub(crate) fn outcomes(&self, route: &str, outcome: &str) -> u64 {
        outcomes(&self.page(), route, outcome)
    }

    /// The metrics page.
    pub(crate) fn page(&self) -> String {
        self.0.metrics()
    }

    /// How many handlers of a route run now.
    pub(crate) fn in_flight(&self, route: &str) -> u64 {
        number(&self.page(), &format!("tidegate_worker_in_flight{{route=\"{route}\"}}"))
    }
}

/// Reads how many deliveries of a route ended in this way.
pub(crate) fn outcomes(page: &str, route: &str, outcome: &str) -> u64 {
    number(page, &format!("tidegate_worker_requests_total{{route=\"{route}\",outcome=\"{outcome}\"}}"))
}

/// Reads a number of a metrics page; 0 when the page does not have it.
pub(crate) fn number<T: std::str::FromStr<Err: std::fmt::Debug> + Default>(page: &str, name: &str) -> T {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or_else(T::default, |value| value.parse().unwrap())
}

/// Repeats `try_once` until it returns `Some`.
pub(crate) async fn eventually<T>(what: &str, mut try_once: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = try_once().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The next message of a subscription.
pub(crate) async fn next(subscriber: &mut Subscriber) -> Message {
    timeout(DEADLINE, subscriber.next()).await.expect("a message comes").unwrap()
}

/// A header of a message; empty when the message does not have it.
pub(crate) fn header<'a>(message: &'a Message, name: &str) -> &'a str {
    message.headers.as_ref().and_then(|headers| headers.get(name)).map_or("", |value| value.as_str())
}

/// Values that handlers have noted, in order.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<Value>>>);

impl Notes {
    pub(crate) fn note(&self, value: impl Into<Value>) {
        self.0.lock().unwrap().push(value.into());
    }

    pub(crate) fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }
}

/// Requests a path of an internal listener. Returns the whole response.
pub(crate) async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}
