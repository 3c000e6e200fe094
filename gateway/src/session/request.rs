//! `rpc`, `send` and `publish`: the request or publication to store, and its id.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    config::{AnswerMode, Route},
    envelope::{self, Request},
    header,
    id::RequestId,
    protocol::{ClientInfo, Encoding, Error, Publication, PublishRequest, RpcRequest, codes},
    route::{Method, Priority},
    trace::Trace,
};

use super::{Effect, Effects, Now, Phase, Session, refuse};
use crate::policy::rules::{Access, Action};

impl Session {
    pub(super) fn rpc(&mut self, id: u32, request: RpcRequest, now: Now) -> Effects {
        let method = match Method::parse(&request.method) {
            Ok(method) => method,
            Err(error) => return refuse(id, codes::BAD_REQUEST.because(error)),
        };
        if let Some(effects) = self.own(id, &method, &request.data) {
            return effects;
        }
        let rules = std::sync::Arc::clone(&self.rules);
        let Some(route) = rules.rpc(method.name) else {
            return refuse(id, codes::METHOD_NOT_FOUND);
        };
        let user = self.user();
        let request_id = match (method.key, user) {
            (None, _) => RequestId::plain(&rules.gateway),
            (Some(key), Some(user)) => RequestId::keyed(user, method.name, key),
            (Some(_), None) => {
                return refuse(id, codes::BAD_REQUEST.because("a key needs an authenticated user"));
            }
        };
        if route.answer == AnswerMode::Later && user.is_none() {
            return refuse(
                id,
                codes::PERMISSION_DENIED
                    .because("the answer goes to a personal channel, which needs an authenticated user"),
            );
        }
        if self.waiting >= rules.limits.max_waiting {
            return refuse(
                id,
                codes::NOT_ACCEPTED.because("too many requests of this connection wait for an answer"),
            );
        }
        self.waiting += 1;
        let mut stored =
            self.request(request_id, route, Some(method.name), request.data, now).on_route(route);
        stored.later = route.answer == AnswerMode::Later;
        vec![Effect::Call { command: id, mode: route.answer, request: Box::new(stored) }]
    }

    pub(super) fn send(&mut self, data: Bytes, now: Now) -> Effects {
        let rules = std::sync::Arc::clone(&self.rules);
        let Some(route) = rules.send() else {
            return self.close(codes::SEND_NOT_AVAILABLE);
        };
        let request = self.request(RequestId::unawaited(), route, None, data, now).on_route(route);
        vec![Effect::Send { request: Box::new(request) }]
    }

    pub(super) fn publish(&mut self, id: u32, request: PublishRequest, now: Now) -> Effects {
        let channel = match self.channel(id, &request.channel) {
            Ok(channel) => channel,
            Err(refusal) => return refusal,
        };
        if request.kind != 0 {
            return refuse(id, codes::NOT_AVAILABLE.because("only streams can be published into"));
        }
        let access = match self.access(Action::Publish, &channel, false) {
            None => return refuse(id, codes::UNKNOWN_CHANNEL),
            Some(Access::Denied(denial)) => return refuse(id, denial.error()),
            Some(access) => access,
        };
        if request.data.is_empty() {
            return refuse(id, codes::BAD_REQUEST.because("a publication needs data"));
        }
        let Phase::Connected(connected) = &self.phase else { return Vec::new() };
        let info = Box::new(self.info(connected, &channel));
        if let Err(error) = self.deliverable(&channel, &request.data, &info, &BTreeMap::new()) {
            return refuse(id, error);
        }
        if let Some(route) = self.rules.deciding_route(&channel) {
            // The worker would see another channel.
            if !header::carries(channel.name()) {
                let why =
                    "a worker decides about this channel, whose name must have no white space at its ends";
                return refuse(id, codes::BAD_REQUEST.because(why));
            }
            let text = |json: &Bytes| (!json.is_empty()).then(|| String::from_utf8_lossy(json).into_owned());
            let submitted = RequestId::plain(&self.rules.gateway);
            let submitted = Request {
                channel: Some(channel),
                info: text(&info.conn_info),
                channel_info: text(&info.chan_info),
                ..self.request(submitted, route, None, request.data, now)
            };
            let submitted = submitted.on_route(route);
            return vec![Effect::Decide { command: id, request: Box::new(submitted) }];
        }
        if access == Access::Ask {
            return self.ask_to_publish(id, channel, request.data, info);
        }
        vec![Effect::Publish { command: id, channel, data: request.data, info, tags: BTreeMap::new() }]
    }

    /// Refuses a publication that no client could receive.
    pub(super) fn deliverable(
        &self,
        channel: &Channel,
        data: &Bytes,
        info: &ClientInfo,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let publication = Publication {
            data: data.clone(),
            info: Some(info.clone()),
            tags: tags.clone(),
            ..Publication::default()
        };
        self.rules.deliverable(channel, &publication)
    }

    /// The user, once it is authenticated and until the session is over.
    pub(crate) fn user(&self) -> Option<&str> {
        match &self.phase {
            Phase::Connected(connected) => connected.user.as_deref(),
            Phase::Connecting(connecting) => connecting.connected.user.as_deref(),
            Phase::Fresh { .. } | Phase::Refused { .. } | Phase::Asking { .. } | Phase::Closed { .. } => None,
        }
    }

    /// The trace of the next request.
    fn trace(&self) -> Trace {
        let Phase::Connected(connected) = &self.phase else { return Trace::random() };
        connected.trace.clone().unwrap_or_else(Trace::random)
    }

    fn request(&self, id: RequestId, route: &Route, method: Option<&str>, data: Bytes, now: Now) -> Request {
        let (content_type, body) = match self.encoding {
            // An absent payload becomes `null`, so that workers always get JSON from JSON clients.
            Encoding::Json if data.is_empty() => (envelope::JSON, Bytes::from_static(b"null")),
            Encoding::Json => (envelope::JSON, data),
            Encoding::Protobuf => (envelope::BYTES, data),
        };
        Request {
            id,
            user: self.user().map(str::to_owned),
            client: Some(self.client.as_str().to_owned()),
            route: route.name.clone(),
            method: method.map(str::to_owned),
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: false,
            attempt: 0,
            accepted_at: u64::try_from(now.unix.as_millis()).unwrap_or(u64::MAX),
            trace: Some(self.trace()),
            content_type: content_type.to_owned(),
            body,
        }
    }
}
