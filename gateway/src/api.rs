//! The server API: the methods that services call on the gateways, over HTTP or NATS, with JSON bodies.
//!
//! Never authenticates a caller: the HTTP key and the broker's permissions do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};
use tidegate_shared::{
    channel::Channel,
    protocol::{Error, codes, lenient},
};
use tokio::time::Instant;

pub(crate) use self::{local::Local, method::Method, routes::Routes};
use crate::{
    channels::Channels,
    fleet::peers::Peers,
    metrics::Metrics,
    policy::rules::Rules,
    presence::Presence,
    requests::{letters::Letters, schedules::Schedules, store::Store},
};

mod call;
mod channels;
mod clients;
mod dead;
mod enqueue;
mod job;
mod local;
mod method;
pub(crate) mod nats;
mod publish;
mod routes;
mod schedule;
mod scheduled;
#[cfg(test)]
mod tests;
pub(crate) mod trace;

/// Parts of one request that run at the same time.
const PARALLEL: usize = 32;
/// How many bytes the results of one batch may have together.
const MAX_BATCH: usize = 16 << 20;
/// A result that is no larger is told in any case, so that nobody repeats what was done.
const SMALL: usize = 1024;

/// The `OpenAPI` document of the methods.
pub(crate) const OPENAPI: &str = include_str!("api/openapi.json");

/// The methods and the parts they use.
pub(crate) struct Api {
    pub(crate) rules: Arc<Rules>,
    pub(crate) store: Arc<Store>,
    pub(crate) letters: Letters,
    pub(crate) schedules: Arc<Schedules>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) local: Arc<Local>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) metrics: Metrics,
    pub(crate) answer_timeout: Duration,
    pub(crate) routes: Routes,
}

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Over HTTP. The key permits every method.
    Http,
    /// Over NATS. The broker's permissions name the methods of each user, but do not see those inside a batch.
    Nats,
}

/// A method's result as JSON, or its error.
type ApiResult = Result<Box<RawValue>, Error>;

/// An empty result.
#[derive(Serialize)]
struct EmptyResult {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchParams {
    commands: Vec<BTreeMap<String, Box<RawValue>>>,
    #[serde(default)]
    parallel: bool,
}

#[derive(Serialize)]
struct BatchAnswer {
    replies: Vec<BTreeMap<&'static str, Box<RawValue>>>,
}

impl Api {
    /// Runs a method. Returns `{"result": ...}` or `{"error": ...}`.
    pub(crate) async fn answer(&self, via: Via, method: Method, body: &[u8]) -> Bytes {
        let started = Instant::now();
        let answer = match method {
            Method::Batch => self.batch(via, body).await,
            method => self.run(method, body).await,
        };
        self.count(method, &answer, started);
        match answer {
            // A batch's replies have no envelope.
            Ok(replies) if method == Method::Batch => replies.get().to_owned().into(),
            Ok(result) => format!(r#"{{"result":{}}}"#, result.get()).into(),
            Err(error) => refusal(&error),
        }
    }

    fn count(&self, method: Method, answer: &ApiResult, started: Instant) {
        let code = answer.as_ref().err().map_or(0, |error| error.code);
        self.metrics.api_command(method.name(), code, started.elapsed());
    }

    async fn run(&self, method: Method, body: &[u8]) -> ApiResult {
        match method {
            Method::Publish => self.publish(read(body)?).await,
            Method::Broadcast => self.broadcast(read(body)?).await,
            Method::Unsubscribe => self.unsubscribe(read(body)?).await,
            Method::Disconnect => self.disconnect(read(body)?).await,
            Method::Refresh => self.refresh(read(body)?).await,
            Method::History => self.history(read(body)?).await,
            Method::HistoryRemove => self.history_remove(read(body)?).await,
            Method::Channels => self.channels(read(body)?).await,
            Method::Info => self.info(read(body)?).await,
            Method::Rpc => self.rpc(read(body)?).await,
            Method::Job => self.job(read(body)?).await,
            Method::JobCancel => self.job_cancel(read(body)?).await,
            Method::Enqueue => self.enqueue(read(body)?).await,
            Method::Subscribe => self.subscribe(read(body)?).await,
            Method::Presence => self.presence(read(body)?).await,
            Method::PresenceStats => self.presence_stats(read(body)?).await,
            Method::Routes => self.routes(read(body)?).await,
            Method::RoutePause => self.route_pause(read(body)?).await,
            Method::RouteResume => self.route_resume(read(body)?).await,
            Method::DeadList => self.dead_list(read(body)?).await,
            Method::DeadShow => self.dead_show(read(body)?).await,
            Method::DeadRedrive => self.dead_redrive(read(body)?).await,
            Method::DeadDrop => self.dead_drop(read(body)?).await,
            Method::ScheduleSet => self.schedule_set(read(body)?).await,
            Method::ScheduleList => self.schedule_list(read(body)?).await,
            Method::ScheduleShow => self.schedule_show(read(body)?).await,
            Method::ScheduleRemove => self.schedule_remove(read(body)?).await,
            Method::Batch => Err(codes::BAD_REQUEST.because("a batch has no batches in it")),
        }
    }

    async fn batch(&self, via: Via, body: &[u8]) -> ApiResult {
        let request: BatchParams = read(body)?;
        let mut commands = Vec::with_capacity(request.commands.len());
        for command in request.commands {
            let mut parts = command.into_iter();
            let (Some((name, body)), None) = (parts.next(), parts.next()) else {
                return Err(codes::BAD_REQUEST.because("a command has one field, named like its method"));
            };
            let method = Method::parse(&name).ok_or_else(|| codes::METHOD_NOT_FOUND.because(name))?;
            commands.push((method, body));
        }
        let held = &AtomicUsize::new(0);
        let running = commands.into_iter().map(|(method, body)| async move {
            let started = Instant::now();
            let answer = if via == Via::Nats && method.has_own_right() {
                let why = format!("{} has a right of its own, so it goes alone", method.name());
                Err(codes::PERMISSION_DENIED.because(why))
            } else {
                self.run(method, body.get().as_bytes()).await.and_then(|result| within_batch(result, held))
            };
            self.count(method, &answer, started);
            match answer {
                Ok(result) => Ok((method.name(), result)),
                Err(error) => raw(&error).map(|error| ("error", error)),
            }
        });
        let at_a_time = if request.parallel { PARALLEL } else { 1 };
        let replies: Vec<_> = stream::iter(running).buffered(at_a_time).collect().await;
        let replies =
            replies.into_iter().map(|reply| reply.map(|one| [one].into())).collect::<Result<_, _>>()?;
        raw(&BatchAnswer { replies })
    }

    /// Parses a channel name. Its namespace has to be declared.
    fn channel(&self, name: &str) -> Result<Channel, Error> {
        let channel = Channel::parse(name).map_err(|error| codes::BAD_REQUEST.because(error))?;
        if name.is_empty() {
            return Err(codes::BAD_REQUEST.because("a channel is needed"));
        }
        if self.rules.knows(&channel) { Ok(channel) } else { Err(codes::UNKNOWN_CHANNEL.error()) }
    }
}

/// Takes the place of a result in the answer to a batch. A result that does not fit is an error: nothing else bounds what a
/// batch makes the gateway hold.
fn within_batch(result: Box<RawValue>, held: &AtomicUsize) -> ApiResult {
    let bytes = result.get().len();
    if bytes <= SMALL || held.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BATCH {
        return Ok(result);
    }
    held.fetch_sub(bytes, Ordering::Relaxed);
    let why =
        format!("a result of {bytes} bytes; the answers of a batch have {MAX_BATCH} together: ask for less");
    Err(codes::LIMIT_EXCEEDED.because(why))
}

/// Some gateways did not answer, so the result would be incomplete.
fn incomplete(gateways: usize) -> Error {
    codes::INTERNAL.because(format!("{gateways} other gateways did not answer in time; ask again"))
}

/// The answer for an error.
pub(crate) fn refusal(error: &Error) -> Bytes {
    serde_json::json!({ "error": error }).to_string().into()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    // A method without parameters may have an empty body.
    let body = if body.is_empty() { b"{}" } else { body };
    lenient::from_slice(body).map_err(|error| codes::BAD_REQUEST.because(error))
}

/// Reads JSON into a value that owns its data.
fn read_owned<T: DeserializeOwned>(body: &RawValue) -> Option<T> {
    serde_json::from_str(body.get()).ok()
}

fn raw(value: &impl Serialize) -> ApiResult {
    to_raw_value(value).map_err(|error| codes::INTERNAL.because(error))
}
