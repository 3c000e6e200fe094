//! `connect` and `refresh`: the client's identity, and how long the connection is valid.

use std::time::Instant;

use bytes::Bytes;
use tidegate_shared::{
    VERSION, header,
    protocol::{ConnectRequest, ConnectResult, RefreshRequest, RefreshResult, Reply, Sub, codes},
    trace::Trace,
};

use super::{
    Connected, Connecting, Effect, Effects, Liveness, Now, Phase, Session, Subscriptions,
    hook::PendingConnect,
    position::suited,
    refuse, refuse_withdrawn_key, refuse_without_key,
    server_side::Unfit,
    validity::{Renewer, Validity},
};
use crate::policy::tokens::{Identity, Invalid};

impl Session {
    pub(super) fn connect(&mut self, id: u32, request: ConnectRequest, jitter: f32, now: Now) -> Effects {
        if request.token.is_empty() && self.rules.asks_to_connect {
            return self.ask_to_connect(id, request, jitter, now);
        }
        let identity = match self.identify(&request.token, now) {
            Ok(identity) => identity,
            Err(Some(Invalid::Expired)) => return self.refused(refuse(id, codes::TOKEN_EXPIRED), now),
            Err(Some(Invalid::UnknownKey { issuer })) => {
                return self.refused(refuse_without_key(id, issuer), now);
            }
            Err(Some(Invalid::WithdrawnKey { issuer })) => {
                return self.refused(refuse_withdrawn_key(id, issuer), now);
            }
            Err(Some(Invalid::Forged)) => return self.close(codes::INVALID_TOKEN),
            Err(None) => return self.close(codes::BAD_PROTOCOL),
        };
        let validity = self.validity(identity.expires_at, self.renewer_after_token(), now);
        let arrival = PendingConnect { command: id, request: Box::new(request), jitter };
        self.accepted(arrival, identity, validity, &Bytes::new(), now)
    }

    /// The client is authenticated. Next the connection joins the channels it begins with.
    pub(super) fn accepted(
        &mut self,
        arrival: PendingConnect,
        identity: Identity,
        validity: Validity,
        data: &Bytes,
        now: Now,
    ) -> Effects {
        let PendingConnect { command: id, request, jitter } = arrival;
        let chosen = match self.server_subscriptions(&identity, &request) {
            Ok(chosen) => chosen,
            Err(Unfit::Channel(error)) => return self.refused(refuse(id, error), now),
            Err(Unfit::TooMany) => return self.close(codes::CHANNEL_LIMIT),
        };
        let result = ConnectResult {
            client: self.client.as_str().to_owned(),
            version: VERSION.to_owned(),
            expires: validity.ttl.is_some(),
            ttl: validity.ttl.unwrap_or_default(),
            data: suited(data, self.encoding),
            subs: Vec::new(),
            ping: u32::try_from(self.rules.ping_interval.as_secs()).unwrap_or(u32::MAX),
            pong: true,
            ..ConnectResult::default()
        };
        let mut subscriptions = Subscriptions::default();
        for one in chosen.iter().filter(|one| one.channel.personal_user().is_none()) {
            subscriptions.add(one.channel.clone(), one.info.clone());
        }
        let connected = Connected {
            validity,
            user: identity.user,
            info: identity.info,
            liveness: Liveness::new(now.instant, self.rules.ping_interval, jitter),
            subscriptions,
            trace: trace(&request),
        };
        let reply = Reply { id, connect: Some(result), ..Reply::default() };
        let until = now.instant + self.rules.limits.first_frame;
        self.phase = Phase::Connecting(Box::new(Connecting { until, reply, connected }));
        vec![Effect::Welcome { chosen }]
    }

    /// The channels the connection begins with are joined, as `subs` says. Returns the reply to `connect`.
    pub(crate) fn welcomed(&mut self, subs: Vec<Sub>) -> Option<Reply> {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed { user: None });
        let Phase::Connecting(connecting) = phase else {
            self.phase = phase;
            return None;
        };
        let Connecting { mut reply, connected, .. } = *connecting;
        if let Some(result) = &mut reply.connect {
            result.subs = subs;
        }
        self.phase = Phase::Connected(Box::new(connected));
        Some(reply)
    }

    /// The channels could not be joined. The error is temporary, so the client tries again.
    pub(crate) fn not_welcomed(&mut self, now: Instant) -> Effects {
        let phase =
            std::mem::replace(&mut self.phase, Phase::Refused { until: now + self.rules.limits.first_frame });
        let Phase::Connecting(connecting) = phase else {
            self.phase = phase;
            return Vec::new();
        };
        refuse(connecting.reply.id, codes::INTERNAL)
    }

    pub(super) fn refresh(&mut self, id: u32, request: &RefreshRequest, now: Now) -> Effects {
        // Where a back end prolongs connections, clients have no reason to send a fresh token.
        if request.token.is_empty() || self.rules.asks_to_refresh {
            return self.close(codes::BAD_PROTOCOL);
        }
        let identity = match self.rules.verifier.verify(&request.token, now.unix.as_secs()) {
            Ok(identity) => identity,
            Err(Invalid::Expired) => return self.close(codes::EXPIRED),
            // The client reconnects, and is told then that it needs a fresh token.
            Err(Invalid::WithdrawnKey { issuer }) => {
                let mut effects = vec![Effect::FetchKeys { issuer }];
                effects.extend(self.close(codes::EXPIRED));
                return effects;
            }
            Err(Invalid::UnknownKey { issuer }) => return refuse_without_key(id, issuer),
            Err(Invalid::Forged) => return self.close(codes::INVALID_TOKEN),
        };
        let validity = self.validity(identity.expires_at, Renewer::Client, now);
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        if connected.user != identity.user {
            self.rules.verifier.note_mismatch("connection", now.unix.as_secs());
            return self.close(codes::INVALID_TOKEN);
        }
        connected.validity = validity;
        connected.info = identity.info;
        let client = self.client.as_str().to_owned();
        let (expires, ttl) = (validity.ttl.is_some(), validity.ttl.unwrap_or_default());
        let result = RefreshResult { client, version: VERSION.to_owned(), expires, ttl };
        vec![Effect::Reply(Reply { id, refresh: Some(result), ..Reply::default() })]
    }

    /// Returns `Err(None)` for a client without a token where one is needed.
    fn identify(&self, token: &str, now: Now) -> Result<Identity, Option<Invalid>> {
        if !token.is_empty() {
            return self.rules.verifier.verify(token, now.unix.as_secs()).map_err(Some);
        }
        if self.rules.anonymous {
            return Ok(Identity::default());
        }
        self.rules.verifier.note_missing(now.unix.as_secs());
        Err(None)
    }

    /// Refuses `connect`. The client closes the connection and comes back by itself.
    pub(super) fn refused(&mut self, effects: Effects, now: Now) -> Effects {
        self.phase = Phase::Refused { until: now.instant + self.rules.limits.first_frame };
        effects
    }
}

/// The trace that the client sent with `connect`.
fn trace(request: &ConnectRequest) -> Option<Trace> {
    let value = |wanted: &str| {
        let mut headers = request.headers.iter();
        headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
    };
    Trace::parse(value(header::TRACE_PARENT)?, value(header::TRACE_STATE))
}
