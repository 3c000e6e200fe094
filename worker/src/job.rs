//! One request as its handler gets it.
//!
//! A job has no access to its delivery or its settlement.

use bytes::Bytes;
use std::sync::Arc;
use tidegate_shared::{config::Match, envelope::Request};

/// A request on its way through layers and extractors to a handler. Clones share the request.
#[derive(Debug, Clone)]
pub struct Job {
    request: Arc<Request>,
    attempt: u32,
    matches: Arc<Match>,
}

impl Job {
    pub(crate) fn new(request: Arc<Request>, attempt: u32, matches: Arc<Match>) -> Self {
        Self { request, attempt, matches }
    }

    /// The request with all its fields.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The payload as the client sent it.
    pub fn body(&self) -> Bytes {
        self.request.body.clone()
    }

    /// The number of attempts before this one that count: 0 on the first. A run whose worker died may not count.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The word of the request's method that matches `{name}` of the route's pattern. `None` when the pattern has no such name,
    /// or the request has no method.
    pub fn param(&self, name: &str) -> Option<&str> {
        let Match::Rpc(pattern) = &*self.matches else { return None };
        pattern.capture(self.request.method.as_deref()?, name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tidegate_shared::{
        envelope::JSON,
        id::{GatewayId, RequestId},
    };

    use super::*;

    /// A job of the route `rpc.orders.{order}.place`.
    pub(crate) fn job(user: Option<&str>, body: &'static [u8]) -> Job {
        let request = Request {
            id: RequestId::plain(&GatewayId::random()),
            user: user.map(str::to_owned),
            client: "gw.c".to_owned(),
            route: "orders".to_owned(),
            method: Some("orders.7.place".to_owned()),
            channel: None,
            info: None,
            channel_info: None,
            later: false,
            attempt: 0,
            accepted_at: 0,
            content_type: JSON.to_owned(),
            body: Bytes::from_static(body),
        };
        let matches = Match::Rpc("orders.{order}.place".parse().unwrap());
        Job::new(Arc::new(request), 2, Arc::new(matches))
    }
}
