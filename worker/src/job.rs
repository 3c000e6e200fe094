//! One request as its handler gets it.
//!
//! A job has no access to the settlement of its delivery.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use tidegate_shared::{channel::Channel, config::Match, envelope::Request};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    cancel::Cancel,
    delivery::{self, Delivery},
    extensions::Extensions,
    outlet::Outlet,
    progress::Newest,
};

/// A request on its way through layers and extractors to a handler. Clones share the request; each has extensions of its own.
#[derive(Debug, Clone)]
pub struct Job {
    request: Arc<Request>,
    source: Source,
    attempt: u32,
    matches: Arc<Match>,
    cancel: Cancel,
    deadline: Option<Instant>,
    outlet: Option<Arc<dyn Outlet>>,
    progress: Option<Newest>,
    begun: Arc<AtomicBool>,
    extensions: Extensions,
}

/// Where the headers are.
#[derive(Debug, Clone)]
enum Source {
    /// There are none.
    Nowhere,
    Delivery(Arc<Delivery>),
    /// A test gave them.
    Given(Arc<HeaderMap>),
}

impl Job {
    pub(crate) fn new(request: Arc<Request>, attempt: u32, matches: Arc<Match>) -> Self {
        let (cancel, extensions) = (Cancel(CancellationToken::new()), Extensions::default());
        let source = Source::Nowhere;
        let (deadline, outlet, progress, begun) = (None, None, None, Arc::default());
        Self { request, source, attempt, matches, cancel, deadline, outlet, progress, begun, extensions }
    }

    /// The job whose handler learns by this token that its request is cancelled.
    pub(crate) fn cancelled_by(self, token: CancellationToken) -> Self {
        Self { cancel: Cancel(token), ..self }
    }

    /// Says when the request is cancelled.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The same job, of this delivery.
    pub(crate) fn of(mut self, delivery: Arc<Delivery>) -> Self {
        self.source = Source::Delivery(delivery);
        self
    }

    /// The same job, with these headers.
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.source = Source::Given(Arc::new(headers));
        self
    }

    /// The same job, whose handler can store something here during its run.
    pub(crate) fn storing_in(mut self, outlet: Arc<dyn Outlet>) -> Self {
        self.outlet = Some(outlet);
        self
    }

    /// The same job, whose handler reports here how far it is.
    pub(crate) fn reporting_to(mut self, progress: Newest) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Where its handler reports how far it is. `None` if nobody reads it.
    pub(crate) fn progress(&self) -> Option<&Newest> {
        self.progress.as_ref()
    }

    /// Notes that the handler has got it, behind all layers.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Relaxed);
    }

    /// Says whether the handler has got this job, or a clone of it.
    pub(crate) fn begun(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.begun)
    }

    /// Where its handler can store something during its run. `None` for a question.
    pub(crate) fn outlet(&self) -> Option<&Arc<dyn Outlet>> {
        self.outlet.as_ref()
    }

    /// The same job, whose attempt ends after `limit`.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.deadline = Instant::now().checked_add(limit);
        self
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// The request's id, the same on every attempt: an idempotency key for effects in other systems.
    pub fn id(&self) -> &str {
        self.request.id.as_str()
    }

    /// The authenticated user. `None` for an anonymous client.
    pub fn user(&self) -> Option<&str> {
        self.request.user.as_deref()
    }

    /// The connection that the request came from. `None` for a request that no client made.
    pub fn client(&self) -> Option<&str> {
        self.request.client.as_deref()
    }

    /// The name of the route that takes it.
    pub fn route(&self) -> &str {
        &self.request.route
    }

    /// The method of an RPC as the client wrote it, without its key. `None` for a publication, a message without a reply, or a
    /// question.
    pub fn method(&self) -> Option<&str> {
        self.request.method.as_deref()
    }

    /// The channel that a client published to, as the client wrote it. `None` for every other request.
    pub fn channel(&self) -> Option<&str> {
        self.request.channel.as_ref().map(Channel::name)
    }

    /// The number of attempts before this one that count: 0 on the first. A run whose worker died may not count.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When the gateway accepted the request, by the gateway's clock, to the millisecond.
    pub fn accepted_at(&self) -> SystemTime {
        let since = Duration::from_millis(self.request.accepted_at);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }

    /// When the time of this attempt is over: its task is ended then, at its next `await`. `None` before the attempt begins.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.deadline.map(Instant::into_std)
    }

    /// How much of that time is left. Zero when it is over.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The media type of the body.
    pub fn content_type(&self) -> &str {
        &self.request.content_type
    }

    /// The first value of a header of the request's message. Names are compared without regard to case. The broker's own, which
    /// begin with `Nats-`, are left out, for they are others on every attempt. A question has no headers.
    pub fn header(&self, name: &str) -> Option<&str> {
        match &self.source {
            Source::Nowhere => None,
            Source::Delivery(delivery) => find(delivery.all_headers()?, name),
            Source::Given(headers) => find(headers, name),
        }
    }

    /// The payload as the client sent it.
    pub fn body(&self) -> Bytes {
        self.request.body.clone()
    }

    /// The word of the request's method that matches `{name}` of the route's pattern. `None` when the pattern has no such name,
    /// or the request has no method.
    pub fn param(&self, name: &str) -> Option<&str> {
        let Match::Rpc(pattern) = &*self.matches else { return None };
        pattern.capture(self.request.method.as_deref()?, name)
    }

    /// What layers have added to this job.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// What layers have added to this job, to add more. Handlers get it by [`Extension`](crate::Extension).
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let named = |other: &str| other.eq_ignore_ascii_case(name) && !delivery::is_for_broker(other);
    let (_, values) = headers.iter().find(|(other, _)| named(other.as_ref()))?;
    values.first().map(async_nats::HeaderValue::as_str)
}

#[cfg(test)]
pub(crate) mod tests {
    use tidegate_shared::{
        envelope::JSON,
        id::{GatewayId, RequestId},
        route::Priority,
    };

    use super::*;

    /// A job of the route `rpc.orders.{order}.place`.
    pub(crate) fn job(user: Option<&str>, body: &'static [u8]) -> Job {
        let request = Request {
            id: RequestId::plain(&GatewayId::random()),
            user: user.map(str::to_owned),
            client: Some("gw.c".to_owned()),
            route: "orders".to_owned(),
            method: Some("orders.7.place".to_owned()),
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: false,
            attempt: 0,
            accepted_at: 0,
            trace: Some(tidegate_shared::trace::Trace::random()),
            content_type: JSON.to_owned(),
            body: Bytes::from_static(body),
        };
        let matches = Match::Rpc("orders.{order}.place".parse().unwrap());
        Job::new(Arc::new(request), 2, Arc::new(matches))
    }

    #[test]
    fn headers_are_found_whatever_their_case_and_the_brokers_own_are_not() {
        let mut headers = HeaderMap::new();
        headers.insert("Shop-Tenant", "a");
        headers.insert("Nats-Msg-Id", "b");
        assert_eq!((find(&headers, "shop-tenant"), find(&headers, "nats-msg-id")), (Some("a"), None));
        assert_eq!(job(None, b"").header("Shop-Tenant"), None);
    }

    #[test]
    fn clones_have_extensions_of_their_own() {
        let mut first = job(None, b"");
        first.extensions_mut().insert("tenant a");
        let mut second = first.clone();
        second.extensions_mut().insert("tenant b");
        assert_eq!(first.extensions().get(), Some(&"tenant a"));
        assert_eq!(second.extensions().get(), Some(&"tenant b"));
        assert_eq!(*second.extensions_mut().remove::<&str>().unwrap(), "tenant b");
    }
}
