//! Runs the handlers of a router in memory: for the tests of an application, without a server and without a configuration.
//!
//! Nothing is stored, published or enqueued. A test looks at the [`Answer`] or the [`Failure`]. What the handler sends during its run, by
//! [`Publish`](crate::Publish) and [`Enqueue`](crate::Enqueue), comes first in the answer. [`KeptSchedules`] has what it schedules.
//!
//!
//! ```
//! use tidegate_worker::{Json, Params, Publication, Router, User, on, testing};
//!
//! async fn place(User(user): User, params: Params, Json(count): Json<u32>) -> (Json<u32>, Publication) {
//!     let channel = format!("orders:{}", params.get("order").unwrap_or_default());
//!     (Json(count + 1), Publication::bytes(channel, user))
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let router: Router = Router::new().route("orders.{order}.place", on(place));
//! let answer = router.call(testing::job("orders.7.place").user("42").json(&1)).await.unwrap();
//! assert_eq!(answer.to_json::<u32>().unwrap(), 2);
//! assert_eq!(answer.publications[0].channel, "orders:7");
//! # });
//! ```

pub use self::kept::KeptSchedules;
#[cfg(feature = "testing")]
pub use self::{
    found::{CallFailure, DeadLetter, NotStarted, Published},
    tide::Tide,
};
#[cfg(feature = "testing")]
pub use crate::fault::{Fault, Point, fault};

#[cfg(feature = "testing")]
mod found;
mod kept;
#[cfg(feature = "testing")]
mod server;
#[cfg(feature = "testing")]
mod tide;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use serde::Serialize;
use tidegate_shared::{
    channel::Channel,
    config::Match,
    envelope::{JSON, Request, one_line},
    hook::Event,
    id::{GatewayId, RequestId},
    route::{Pattern, Priority},
};
use tower::ServiceExt;

use crate::{
    answer::Answer,
    extensions::Extensions,
    failure::Failure,
    follow_up::FollowUp,
    job::Job,
    outlet::{NotStored, Outlet},
    publication::Publication,
    router::{Binding, Bound, Router},
    schedule::{ScheduleChange, SetSchedule},
};

/// A job for [`Router::call`].
#[derive(Debug, Clone)]
pub struct TestJob {
    request: Request,
    headers: HeaderMap,
    extensions: Extensions,
    limit: Option<Duration>,
    event: Option<String>,
    /// The `match` of the route, for a handler that is bound by the route's name.
    matches: Option<Match>,
    /// The client's idempotency key.
    key: Option<String>,
    broken: Option<String>,
    schedules: KeptSchedules,
}

/// Keeps what a handler sends during its run.
#[derive(Debug, Default)]
struct Sent {
    answer: Mutex<Answer>,
    schedules: KeptSchedules,
}

impl Sent {
    fn keep(&self, keep: impl FnOnce(&mut Answer)) {
        keep(&mut self.answer.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Outlet for Sent {
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), NotStored>> {
        self.keep(|sent| sent.publications.push(publication));
        std::future::ready(Ok(())).boxed()
    }

    /// The id is the name, or where it goes and its place among the follow-ups.
    fn enqueue(&self, follow_up: FollowUp) -> BoxFuture<'_, Result<String, NotStored>> {
        let mut id = String::new();
        self.keep(|sent| {
            let usual = format!("{}#{}", follow_up.to.as_str(), sent.follow_ups.len());
            id = follow_up.name.clone().unwrap_or(usual);
            sent.follow_ups.push(follow_up);
        });
        std::future::ready(Ok(id)).boxed()
    }

    fn set_schedule(&self, set: SetSchedule) -> BoxFuture<'_, Result<ScheduleChange, NotStored>> {
        std::future::ready(self.schedules.set(set)).boxed()
    }

    fn remove_schedule(&self, name: String) -> BoxFuture<'_, Result<bool, NotStored>> {
        std::future::ready(Ok(self.schedules.remove(&name))).boxed()
    }
}

/// A call of this method, of an anonymous client, with an empty body. The method is without the key, such as `orders.7.place`.
pub fn job(method: &str) -> TestJob {
    TestJob::new(Some(method.to_owned()), None)
}

/// A publication in this channel, such as `room:lobby`, that the route of this name decides about.
pub fn publication(route: &str, channel: &str) -> TestJob {
    let mut job = TestJob::new(None, None);
    route.clone_into(&mut job.request.route);
    match Channel::parse(channel) {
        Ok(channel) => job.request.channel = Some(channel),
        Err(error) => job.broken = Some(format!("the channel {channel:?}: {error}")),
    }
    job
}

/// A client's `send`, which the route of this name takes.
pub fn message(route: &str) -> TestJob {
    TestJob::new(None, None).route(route)
}

/// A question of a gateway for [`Router::decide`]: `event` is what the handler is bound to. The answer has the decision as
/// JSON, as the gateway reads it.
pub fn question(event: &str) -> TestJob {
    TestJob::new(None, Some(event.to_owned()))
}

impl TestJob {
    fn new(method: Option<String>, event: Option<String>) -> Self {
        let request = Request {
            id: RequestId::plain(&GatewayId::random()),
            user: None,
            client: Some("test.client".to_owned()),
            route: String::new(),
            method,
            channel: None,
            info: None,
            channel_info: None,
            later: false,
            key: None,
            priority: Priority::Normal,
            attempt: 0,
            accepted_at: 0,
            content_type: JSON.to_owned(),
            trace: None,
            body: Bytes::new(),
        };
        let (headers, extensions) = (HeaderMap::new(), Extensions::default());
        let (limit, matches, key, broken) = (None, None, None, None);
        let schedules = KeptSchedules::default();
        Self { request, headers, extensions, limit, event, matches, key, broken, schedules }
    }

    /// The authenticated user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.request.user = Some(user.into());
        self
    }

    /// The client's idempotency key, as behind `#` in a method. The call needs a user then.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Its answer is for the user's personal channel, as on a route with `answer = "later"`.
    #[must_use]
    pub fn later(mut self) -> Self {
        self.request.later = true;
        self
    }

    /// The connection. `None` for a request that no client made.
    #[must_use]
    pub fn client(mut self, client: Option<&str>) -> Self {
        self.request.client = client.map(str::to_owned);
        self
    }

    /// The name of its route, for a handler that is bound by name.
    #[must_use]
    pub fn route(mut self, name: impl Into<String>) -> Self {
        self.request.route = name.into();
        self
    }

    /// The `match` of its route, such as `rpc.orders.{order}.place`: for a handler that is bound by the route's name and reads
    /// words of the method.
    #[must_use]
    pub fn matched_by(mut self, pattern: &str) -> Self {
        match pattern.strip_prefix("rpc.").unwrap_or(pattern).parse() {
            Ok(pattern) => self.matches = Some(Match::Rpc(pattern)),
            Err(error) => self.broken = Some(format!("{pattern:?} is no pattern of methods: {error}")),
        }
        self
    }

    /// How many attempts were begun before: 0 on the first.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.request.attempt = attempt;
        self
    }

    /// A JSON body.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => self.request.body = body.into(),
            Err(error) => self.broken = Some(format!("the body cannot be written as JSON: {error}")),
        }
        self
    }

    /// Any body.
    #[must_use]
    pub fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.request.body = body.into();
        self
    }

    /// The media type of the body, instead of `application/json`.
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.request.content_type = media_type.into();
        self
    }

    /// A header of the request's message. Line ends become spaces.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if plain {
            self.headers.insert(name, one_line(value));
        } else {
            self.broken = Some(format!("{name:?} is no name of a header"));
        }
        self
    }

    /// A value that a layer would add.
    #[must_use]
    pub fn extension<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// The time that its attempt has, which [`Deadline`](crate::Deadline) says. Nothing ends it then.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The schedules that there are, which the handler sets and removes.
    #[must_use]
    pub fn schedules(mut self, schedules: &KeptSchedules) -> Self {
        self.schedules = schedules.clone();
        self
    }

    /// How a handler takes the job that is bound to `what`: the `match` of its route. `None` if it does not.
    fn taken_by(&self, bound: &Bound) -> Option<Match> {
        let what = bound.what.as_str();
        if let Some(event) = &self.event {
            let is_bound =
                bound.binding == Binding::Decides && (what == event || what == format!("hook.{event}"));
            return is_bound.then_some(Match::Hook(Event::Connect));
        }
        if bound.binding != Binding::Answers {
            return None;
        }
        let pattern: Option<Pattern> = what.strip_prefix("rpc.").unwrap_or(what).parse().ok();
        let by_method =
            pattern.filter(|pattern| self.request.method.as_deref().is_some_and(|m| pattern.matches(m)));
        by_method
            .map(Match::Rpc)
            .or_else(|| (what == self.request.route).then(|| self.matches.clone().unwrap_or(Match::Send)))
    }
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// Runs the handler, with all its layers, that takes this job: the one that is bound to a pattern that matches the job's
    /// method, or to the name of the job's route. Fails as the handler does; a job that no handler takes is
    /// [`Failure::Dead`]. A panic of the handler is one of the calling test. See [`testing`](crate::testing).
    pub async fn call(self, job: TestJob) -> Result<Answer, Failure> {
        if let Some(broken) = job.broken {
            return Err(Failure::dead(format!("the test's job is wrong: {broken}")));
        }
        let there_are = format!("{self:?}");
        let found = self.into_routes().into_iter().find_map(|bound| Some((job.taken_by(&bound)?, bound)));
        let Some((matches, bound)) = found else {
            return Err(Failure::dead(format!(
                "no handler of the router takes this job; there are {there_are}"
            )));
        };
        let TestJob { mut request, headers, extensions, limit, key, schedules, .. } = job;
        if let (Some(key), Some(user), Some(method)) = (&key, &request.user, &request.method) {
            request.id = RequestId::keyed(user, method, key);
        }
        if request.route.is_empty() {
            request.route.clone_from(&bound.what);
        }
        let attempt = request.attempt;
        let sent = Arc::new(Sent { answer: Mutex::default(), schedules });
        let mut job = Job::new(Arc::new(request), attempt, Arc::new(matches)).with_headers(headers);
        if bound.binding == Binding::Answers {
            job = job.storing_in(Arc::clone(&sent) as _);
        }
        *job.extensions_mut() = extensions;
        if let Some(limit) = limit {
            job = job.within(limit);
        }
        let mut answer = match bound.into_handler().oneshot(job).await {
            Ok(result) => result?,
            Err(never) => match never {},
        };
        sent.keep(|sent| {
            answer.publications.splice(..0, sent.publications.drain(..));
            answer.follow_ups.splice(..0, sent.follow_ups.drain(..));
        });
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        Attempt, Channel, Deadline, Enqueue, Extension, Grant, Headers, Json, NothingStored, Params, Publish,
        Schedules, User, When, handler::on,
    };

    #[expect(clippy::too_many_arguments, reason = "it has one of each kind")]
    async fn place(
        User(user): User,
        Attempt(attempt): Attempt,
        params: Params,
        headers: Headers,
        deadline: Deadline,
        Extension(tenant): Extension<&'static str>,
        Json(body): Json<Value>,
    ) -> Json<Value> {
        let long = deadline.remaining() > Duration::from_secs(1);
        Json(json!([user, attempt, params.get("order"), headers.get("shop"), long, tenant, body]))
    }

    async fn room(Channel(channel): Channel) -> Bytes {
        channel.into()
    }

    async fn entry() -> Result<Grant, Infallible> {
        Ok(Grant::new().user("42"))
    }

    fn router() -> Router {
        Router::new()
            .route("rpc.orders.{order}.place", on(place))
            .route("rooms", on(room))
            .decide("connect", entry)
    }

    #[tokio::test]
    async fn a_test_calls_the_handler_that_takes_its_job() {
        let job = job("orders.7.place").user("42").attempt(2).header("Shop", "a").extension("t");
        let answer = router().call(job.within(Duration::from_mins(1)).json(&[1])).await.unwrap();
        let expected = json!(["42", 2, "7", "a", true, "t", [1]]);
        assert_eq!(answer.to_json::<Value>().unwrap(), expected);
        assert_eq!(router().call(publication("rooms", "room:a")).await.unwrap().body, "room:a");
        let decision = router().call(question("connect").json(&json!({"client": "g.1"}))).await.unwrap();
        assert_eq!(decision.to_json::<Value>().unwrap(), json!({"result": {"user": "42"}}));
    }

    #[tokio::test]
    async fn the_answer_shows_what_the_handler_sent_during_its_run_and_then_what_goes_with_it() {
        async fn place(
            publish: Publish,
            enqueue: Enqueue,
        ) -> Result<(Json<[String; 2]>, FollowUp, Publication), Failure> {
            let named = enqueue.send(FollowUp::bytes("b", "2").named("named")).await?;
            publish.send(Publication::bytes("a:1", "1")).await?;
            let usual = enqueue.send(FollowUp::bytes("c", "3")).await?;
            Ok((Json([named, usual]), FollowUp::bytes("d", "4"), Publication::bytes("a:2", "5")))
        }
        let answer = Router::new().route("place", on(place)).call(job("place")).await.unwrap();
        assert_eq!(answer.to_json::<[String; 2]>().unwrap(), ["named", "c#1"]);
        let to: Vec<_> = answer.follow_ups.iter().map(|follow_up| follow_up.to.as_str()).collect();
        let channels: Vec<_> = answer.publications.iter().map(|p| p.channel.as_str()).collect();
        assert_eq!((to, channels), (vec!["b", "c", "d"], vec!["a:1", "a:2"]));
    }

    #[tokio::test]
    async fn a_test_sees_the_schedules_that_handlers_have_set_and_not_removed() {
        async fn set(schedules: Schedules, Json(line): Json<String>) -> Result<Json<String>, Failure> {
            let change = schedules.set("nightly", When::cron(line), FollowUp::bytes("a", "1")).await?;
            Ok(Json(change.as_str().to_owned()))
        }
        async fn end(schedules: Schedules) -> Result<Json<bool>, Failure> {
            Ok(Json(schedules.remove("nightly").await?))
        }
        let kept = KeptSchedules::default();
        let router = || Router::new().route("set", on(set)).route("end", on(end));
        for (line, change) in
            [("0 3 * * *", "created"), ("0 3 * * *", "unchanged"), ("0 4 * * *", "replaced")]
        {
            let answer = router().call(job("set").json(&line).schedules(&kept)).await.unwrap();
            assert_eq!(answer.to_json::<String>().unwrap(), change);
        }
        assert_eq!(kept.names(), ["nightly"]);
        let refused = router().call(job("set").json(&"60 3 * * *").schedules(&kept)).await.unwrap_err();
        assert!(matches!(&refused, Failure::Dead { reason } if reason.contains("minute")), "{refused:?}");
        for there in [true, false] {
            let answer = router().call(job("end").schedules(&kept)).await.unwrap();
            assert_eq!(answer.to_json::<bool>().unwrap(), there);
        }
        assert_eq!(kept.get("nightly"), None);
    }

    #[tokio::test]
    async fn a_question_has_no_place_to_store_anything() {
        async fn entry(enqueue: Result<Enqueue, NothingStored>, _: Option<Publish>) -> Grant {
            Grant::new().user(if enqueue.is_err() { "nothing" } else { "something" })
        }
        let decision = Router::new().decide("connect", entry).call(question("connect")).await.unwrap();
        assert_eq!(decision.to_json::<Value>().unwrap(), json!({"result": {"user": "nothing"}}));
    }

    #[tokio::test]
    async fn a_job_that_no_handler_takes_is_refused_and_the_handlers_are_named() {
        for (job, why) in [
            (job("orders.7.cancel"), "there are [\"rpc.orders.{order}.place\", \"rooms\", \"connect\"]"),
            (question("refresh"), "no handler of the router takes this job"),
            (publication("rooms", "room:"), "the channel \"room:\""),
            (job("orders.7.place").header("a b", ""), "\"a b\" is no name of a header"),
        ] {
            let failure = router().call(job).await.unwrap_err();
            assert!(matches!(&failure, Failure::Dead { reason } if reason.contains(why)), "{failure:?}");
        }
    }
}
