//! No user can fill a route: what each user has unfinished in the stream of a route is counted and limited.
//!
//! Each gateway counts the requests of clients that it has stored itself. Requests of services are not counted: they have the
//! operator's key. `ledger` counts; this file connects it with requests, and with the streams, which it looks at every second.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_shared::{
    broker::Broker,
    config::{Config, LimitsConfig, Match},
    envelope::Request,
    fault::Place,
    lifecycle::Lifecycle,
    protocol::{Error, codes},
    topology::request_stream,
};

use self::ledger::{BatchNumber, Holder, Ledger, Limit};
use super::CallEnd;
use crate::metrics::Metrics;

mod ledger;

/// How often the streams are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What a stored request takes besides its body and names: headers, the digits in them, and the broker's own record.
const OVERHEAD: usize = 400;

/// The quotas of all routes.
pub(crate) struct Quotas {
    routes: HashMap<String, Arc<RouteQuota>>,
    /// Hashes the names of users with a secret, so that nobody can choose a name that is counted with another's.
    hasher: RandomState,
    metrics: Metrics,
}

struct RouteQuota {
    route: String,
    stream: String,
    ledger: Mutex<Ledger>,
}

/// The place of one request in its holder's quota. Dropped without a word about what became of the request, it counts as stored.
pub(crate) struct Hold {
    quota: Arc<RouteQuota>,
    holder: Holder,
    bytes: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent,
    Stored(BatchNumber),
    Over,
}

impl Quotas {
    pub(crate) fn new(config: &Config, metrics: Metrics) -> Self {
        let limits = &config.gateway.limits;
        let stored = config.routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
        let routes = stored.map(|route| {
            let (user, anonymous) = shares(limits, route.max_bytes);
            let quota = RouteQuota {
                route: route.name.clone(),
                stream: request_stream(&route.name),
                ledger: Mutex::new(Ledger::new(user, anonymous)),
            };
            (route.name.clone(), Arc::new(quota))
        });
        Self { routes: routes.collect(), hasher: RandomState::new(), metrics }
    }

    /// Takes a place for a request that is about to be stored. `None` for a route without a stream.
    pub(crate) fn hold(&self, request: &Request) -> Result<Option<Box<Hold>>, Error> {
        let Some(quota) = self.routes.get(&request.route) else { return Ok(None) };
        let (holder, who, key) = match &request.user {
            Some(user) => (Holder::User(self.hasher.hash_one(user)), "this user", "user"),
            None => (Holder::Anonymous, "anonymous clients", "anonymous"),
        };
        let bytes = stored_size(request);
        if let Err(limit) = quota.ledger.lock().send(holder, bytes) {
            self.metrics.over_quota(&request.route, key);
            let bytes = match limit.bytes {
                u64::MAX => String::new(),
                bytes => format!(" or {bytes} bytes"),
            };
            return Err(codes::NOT_ACCEPTED.because(format_args!(
                "too many unfinished requests of {who} on this route: at most {} requests{bytes} (gateway.limits.{key}_requests, {key}_share)",
                limit.requests
            )));
        }
        Ok(Some(Box::new(Hold { quota: Arc::clone(quota), holder, bytes, stage: Stage::Sent })))
    }

    /// Starts the task that looks at the streams.
    pub(crate) fn start(self: &Arc<Self>, broker: Broker, lifecycle: &Lifecycle) {
        let (this, finishing) = (Arc::clone(self), lifecycle.clone());
        lifecycle.spawn_essential("quotas", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = finishing.finishing() => return,
                }
                for quota in this.routes.values() {
                    this.look(quota, &broker).await;
                }
            }
        });
    }

    async fn look(&self, quota: &RouteQuota, broker: &Broker) {
        let closed = quota.ledger.lock().close();
        let fill = broker.fill(&quota.stream).await;
        broker.note(|| Place::Read(quota.stream.clone()), &fill);
        // Without an answer requests stay counted.
        if let Ok(fill) = fill {
            quota.ledger.lock().look(closed, fill.first_seq, fill.last_seq);
            self.metrics.filled(&quota.route, fill.bytes, fill.max_bytes);
        }
    }
}

impl Hold {
    /// The request is stored, or may be.
    pub(crate) fn stored(&mut self) {
        if self.stage == Stage::Sent {
            self.stage = Stage::Stored(self.quota.ledger.lock().store(self.holder, self.bytes));
        }
    }

    /// The request is answered, or was not stored.
    pub(crate) fn over(&mut self) {
        let mut ledger = self.quota.ledger.lock();
        match self.stage {
            Stage::Sent => ledger.release(self.holder, self.bytes),
            Stage::Stored(batch) => ledger.answer(self.holder, self.bytes, batch),
            Stage::Over => {}
        }
        self.stage = Stage::Over;
    }

    /// The call has ended for its caller.
    pub(crate) fn ended(&mut self, end: &CallEnd) {
        match end {
            CallEnd::Answered(_) | CallEnd::Told(_) | CallEnd::Accepted { duplicate: true, .. } => {
                self.over();
            }
            CallEnd::Accepted { duplicate: false, .. } => self.stored(),
            CallEnd::Failed(error) => self.failed(error),
        }
    }

    /// Storing the request, or waiting for its answer, has failed.
    pub(crate) fn failed(&mut self, error: &Error) {
        let unfinished = [codes::OUTCOME_UNKNOWN.code, codes::STILL_WORKING.code].contains(&error.code);
        if unfinished { self.stored() } else { self.over() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.stored();
    }
}

fn shares(limits: &LimitsConfig, max_bytes: u64) -> (Limit, Limit) {
    let share = |percent: u8, requests: usize| {
        // The whole is no limit: the stream itself refuses what it has no room for.
        let bytes = if percent >= 100 { u64::MAX } else { max_bytes / 100 * u64::from(percent) };
        Limit { bytes, requests: requests as u64 }
    };
    (share(limits.user_share, limits.user_requests), share(limits.anonymous_share, limits.anonymous_requests))
}

/// About what the request takes in its stream.
fn stored_size(request: &Request) -> u64 {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let names =
        (text(&request.user) + text(&request.method) + text(&request.client)) * 2 + request.route.len();
    let info = text(&request.info) + text(&request.channel_info);
    let channel = request.channel.as_ref().map_or(0, |channel| channel.name().len() * 2);
    (OVERHEAD + names + info + channel + request.body.len()) as u64
}
