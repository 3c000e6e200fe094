//! One client's session: decides what each command means.
//!
//! Pure: takes inputs and the time, returns effects. Knows neither sockets nor NATS and starts no task. `connection`
//! carries the effects out and reports their results.

use std::{
    collections::BTreeMap,
    iter,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    config::AnswerMode,
    envelope::{Answer, Outcome, Request},
    id::ClientId,
    protocol::{
        self, ClientInfo, Command, Encoding, HistoryRequest, Publication, Reply, Verb,
        codes::{self, Disconnect},
    },
    trace::Trace,
};

pub(crate) use self::{
    backlog::{Missed, NextPart, next_part},
    budget::Budget,
    hook::{AskedAbout, HookQuestion},
    position::{Granted, Position},
    presence::{Found, PresenceQuery},
    server_side::ServerSubscription,
};
use self::{
    liveness::{Due, Liveness},
    subscriptions::Subscriptions,
    validity::Validity,
};
use crate::{
    channels::feed::Resume,
    policy::rules::Rules,
    requests::{CallEnd, jobs::OwnRequest},
};

mod backlog;
mod budget;
mod connect;
mod control;
mod hook;
mod liveness;
mod own;
mod position;
mod presence;
mod request;
mod server_side;
mod subscribe;
mod subscriptions;
mod token;
mod validity;

#[cfg(test)]
mod tests;

/// The protocol state of one connection.
pub(crate) struct Session {
    rules: Arc<Rules>,
    client: ClientId,
    encoding: Encoding,
    phase: Phase,
    waiting: usize,
}

/// The phases of a session.
enum Phase {
    /// The client has to send `connect` before `until`.
    Fresh { until: Instant },
    /// `connect` was refused with an error. The client has to close the connection before `until`.
    Refused { until: Instant },
    /// A back end decides whether the client may connect. Commands wait until it has decided, or until this moment.
    Asking { until: Instant },
    /// The client is authenticated and its first channels are being joined. Commands wait until that is done.
    Connecting(Box<Connecting>),
    /// Authenticated.
    Connected(Box<Connected>),
    /// The session is over. Further inputs are ignored. The user is kept for the log.
    Closed { user: Option<Box<str>> },
}

/// A session whose first channels are being joined.
struct Connecting {
    until: Instant,
    reply: Reply,
    connected: Connected,
}

struct Connected {
    user: Option<Box<str>>,
    info: Bytes,
    validity: Validity,
    liveness: Liveness,
    subscriptions: Subscriptions,
    /// The trace that its requests belong to. `None` if each begins its own.
    trace: Option<Trace>,
}

/// Something the gateway has to do for a session.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "effects live for a moment; boxing would allocate for every reply"
)]
pub(crate) enum Effect {
    /// Send this to the client.
    Reply(Reply),
    /// Join the channels that the connection begins with, then call `welcomed`.
    Welcome { chosen: Vec<ServerSubscription> },
    /// Store a request, then call `finished` with its end.
    Call { command: u32, mode: AnswerMode, request: Box<Request> },
    /// Tell a user about a request of its own, or cancel it, then call `finished` with the answer.
    Own { command: u32, request: Box<OwnRequest> },
    /// Store a publication, then call `published` with the result.
    Publish {
        command: u32,
        channel: Channel,
        data: Bytes,
        info: Box<ClientInfo>,
        tags: BTreeMap<String, String>,
    },
    /// Store a publication as a request for a worker, which decides on it. Then call `published` with the result.
    Decide { command: u32, request: Box<Request> },
    /// Ask a back end, then call `verdict` with its decision.
    Ask(Box<HookQuestion>),
    /// Store a message that has no reply.
    Send { request: Box<Request> },
    /// Join a channel, then call `subscribed` with the same ticket.
    Join { ticket: u32, channel: Channel, resume: Option<Resume>, or_refuse: bool },
    /// Read past publications, then call `paged` with them.
    History { command: u32, channel: Channel, ask: Box<HistoryRequest> },
    /// Read the members of a channel, then call `members_read` with them.
    Presence { command: u32, channel: Channel, query: PresenceQuery },
    /// Fetch the keys of this issuer: a token names one that is missing.
    FetchKeys { issuer: usize },
    /// Leave a channel.
    Leave { channel: Channel },
    /// End the connection.
    Close(Disconnect),
}

/// The effects of one input, in order.
pub(crate) type Effects = Vec<Effect>;

/// The time of an input, on the monotonic clock and as time since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) unix: Duration,
}

impl Session {
    /// A session in its first phase.
    pub(crate) fn new(rules: Arc<Rules>, client: ClientId, encoding: Encoding, now: Instant) -> Self {
        let until = now + rules.limits.first_frame;
        Self { rules, client, encoding, phase: Phase::Fresh { until }, waiting: 0 }
    }

    /// The connection's id.
    pub(crate) fn client(&self) -> &ClientId {
        &self.client
    }

    /// The user of the session, also when it is over. `None` before `connect` and for anonymous clients.
    pub(crate) fn user_for_log(&self) -> Option<&str> {
        match &self.phase {
            Phase::Closed { user } => user.as_deref(),
            _ => self.user(),
        }
    }

    /// When to call `tick`, if no other input comes before.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Fresh { until } | Phase::Refused { until } | Phase::Asking { until } => Some(*until),
            Phase::Connecting(connecting) => Some(connecting.until),
            Phase::Connected(connected) => {
                let Validity { end, renewal, .. } = connected.validity;
                let ends = [end, renewal, connected.subscriptions.next_end()];
                ends.into_iter().flatten().chain([connected.liveness.next_timeout()]).min()
            }
            Phase::Closed { .. } => None,
        }
    }

    /// Handles timeouts. `reading` says whether the gateway reads from the socket.
    pub(crate) fn tick(&mut self, now: Instant, reading: bool) -> Effects {
        match &mut self.phase {
            Phase::Fresh { until } | Phase::Refused { until } | Phase::Asking { until } if *until <= now => {
                self.close(codes::STALE)
            }
            Phase::Connecting(connecting) if connecting.until <= now => self.close(codes::STALE),
            Phase::Connected(connected) => {
                if connected.validity.end.is_some_and(|end| end <= now) {
                    return self.close(codes::EXPIRED);
                }
                let mut effects = connected.expire_subscriptions(now);
                match connected.liveness.tick(now, reading, self.rules.ping_interval, self.rules.pong_timeout)
                {
                    Due::Nothing => {}
                    Due::Ping => effects.push(Effect::Reply(Reply::ping())),
                    Due::NoPong => effects.extend(self.close(codes::NO_PONG)),
                }
                effects.extend(self.ask_to_go_on(now));
                effects
            }
            Phase::Fresh { .. }
            | Phase::Refused { .. }
            | Phase::Asking { .. }
            | Phase::Connecting(_)
            | Phase::Closed { .. } => Vec::new(),
        }
    }

    /// Whether commands have to wait until `connect` is answered.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. } | Phase::Connecting(_))
    }

    /// Handles a command. `jitter`, from 0 to 1, spreads the pings of sessions.
    pub(crate) fn handle(&mut self, command: Command, jitter: f32, now: Now) -> Effects {
        let id = command.id;
        let verb = command.verb();
        match (&mut self.phase, verb) {
            (Phase::Closed { .. }, _) => Vec::new(),
            (Phase::Fresh { .. }, Verb::Connect(request)) if id > 0 => self.connect(id, request, jitter, now),
            (
                Phase::Fresh { .. } | Phase::Refused { .. } | Phase::Asking { .. } | Phase::Connecting(_),
                _,
            )
            | (Phase::Connected(_), Verb::Connect(_)) => self.close(codes::BAD_PROTOCOL),
            (Phase::Connected(connected), Verb::Pong) => {
                if connected.liveness.pong() {
                    Vec::new()
                } else {
                    self.close(codes::BAD_PROTOCOL)
                }
            }
            (Phase::Connected(_), Verb::Send(request)) => self.send(request.data, now),
            (Phase::Connected(_), _) if id == 0 => self.close(codes::BAD_PROTOCOL),
            (Phase::Connected(_), Verb::Rpc(request)) => self.rpc(id, request, now),
            (Phase::Connected(_), Verb::Publish(request)) => self.publish(id, request, now),
            (Phase::Connected(_), Verb::Subscribe(request)) => self.subscribe(id, &request, now),
            (Phase::Connected(_), Verb::Unsubscribe(request)) => self.unsubscribe(id, &request),
            (Phase::Connected(_), Verb::Refresh(request)) => self.refresh(id, &request, now),
            (Phase::Connected(_), Verb::History(request)) => self.history(id, request),
            (Phase::Connected(_), Verb::SubRefresh(request)) => self.sub_refresh(id, &request, now),
            (Phase::Connected(_), Verb::Presence(request)) => {
                self.presence(id, &request.channel, PresenceQuery::Members)
            }
            (Phase::Connected(_), Verb::PresenceStats(request)) => {
                self.presence(id, &request.channel, PresenceQuery::Count)
            }
            (Phase::Connected(_), Verb::Ping | Verb::Unknown) => refuse(id, codes::NOT_AVAILABLE),
        }
    }

    /// Handles a WebSocket pong. Unlike the protocol's pong, an unsolicited one is no error.
    pub(crate) fn ponged(&mut self) {
        if let Phase::Connected(connected) = &mut self.phase {
            connected.liveness.pong();
        }
    }

    /// Handles bytes that are not a command: the session ends.
    pub(crate) fn malformed(&mut self) -> Effects {
        self.close(codes::BAD_PROTOCOL)
    }

    /// Ends the session because the gateway drains.
    pub(crate) fn shut_down(&mut self) -> Effects {
        self.close(codes::SHUTDOWN)
    }

    /// Replies to a call that has ended.
    pub(crate) fn finished(&mut self, command: u32, end: CallEnd) -> Effects {
        self.waiting = self.waiting.saturating_sub(1);
        let reply = match end {
            CallEnd::Answered(answer) => match answer.outcome {
                Outcome::Ok(data) => {
                    let data = self.payload(data);
                    Reply { id: command, rpc: Some(protocol::RpcResult { data }), ..Reply::default() }
                }
                Outcome::Error { code, message, .. } => {
                    Reply::error(command, protocol::Error { code, message, temporary: false })
                }
            },
            CallEnd::Told(data) => {
                let data = self.payload(data);
                Reply { id: command, rpc: Some(protocol::RpcResult { data }), ..Reply::default() }
            }
            CallEnd::Accepted { id, seq, duplicate, answer } => {
                let receipt = serde_json::json!({"id": id, "seq": seq, "duplicate": duplicate}).to_string();
                let receipt = protocol::RpcResult { data: receipt.into() };
                let receipt = Reply { id: command, rpc: Some(receipt), ..Reply::default() };
                let answer = answer.and_then(|answer| self.bring(&answer));
                return iter::once(receipt).chain(answer).map(Effect::Reply).collect();
            }
            CallEnd::Failed(error) => Reply::error(command, error),
        };
        vec![Effect::Reply(reply)]
    }

    /// Replies to a `publish` once it is stored or refused.
    pub(crate) fn published(command: u32, result: Result<(), protocol::Error>) -> Effects {
        vec![Effect::Reply(match result {
            Ok(()) => Reply { id: command, publish: Some(protocol::Empty {}), ..Reply::default() },
            Err(error) => Reply::error(command, error),
        })]
    }

    /// Ends the session because a `send` could not be stored: the protocol has no reply to `send`.
    pub(crate) fn send_failed(&mut self) -> Effects {
        self.close(codes::TOO_MANY_REQUESTS)
    }

    /// Reads the channel of a command. An invalid name is refused; a missing one breaks the protocol.
    fn channel(&mut self, id: u32, name: &str) -> Result<Channel, Effects> {
        if name.is_empty() {
            return Err(self.close(codes::BAD_PROTOCOL));
        }
        let most = self.rules.limits.channel_name;
        if name.len() > most {
            let why = format!("a channel name has at most {most} bytes");
            return Err(refuse(id, codes::BAD_REQUEST.because(why)));
        }
        Channel::parse(name).map_err(|error| refuse(id, codes::BAD_REQUEST.because(error)))
    }

    fn close(&mut self, disconnect: Disconnect) -> Effects {
        let user = match std::mem::replace(&mut self.phase, Phase::Closed { user: None }) {
            Phase::Connected(connected) => connected.user,
            Phase::Connecting(connecting) => connecting.connected.user,
            Phase::Closed { user } => {
                self.phase = Phase::Closed { user };
                return Vec::new();
            }
            Phase::Fresh { .. } | Phase::Refused { .. } | Phase::Asking { .. } => None,
        };
        self.phase = Phase::Closed { user };
        vec![Effect::Close(disconnect)]
    }

    /// The answer as a publication in the personal channel, for this connection only, since it repeated a request that
    /// was answered already.
    fn bring(&self, answer: &Answer) -> Option<Reply> {
        let Phase::Connected(connected) = &self.phase else { return None };
        let channel = Channel::personal(connected.user.as_deref()?);
        let publication =
            Publication { data: answer.later_body(), tags: answer.later_tags(), ..Publication::default() };
        Some(Reply::publication(channel.name(), publication.suited_to(self.encoding)))
    }

    /// What one reply may hold now.
    pub(crate) fn budget(&self) -> Budget {
        Budget::of(self.rules.limits.outbox)
    }

    /// A worker's answer in a form that this connection's encoding can carry.
    fn payload(&self, data: Bytes) -> Bytes {
        match self.encoding {
            Encoding::Json => protocol::json::Payload::from_any(&data).into_bytes(),
            Encoding::Protobuf => data,
        }
    }
}

fn refuse(id: u32, error: impl Into<protocol::Error>) -> Effects {
    vec![Effect::Reply(Reply::error(id, error.into()))]
}

/// The key was still missing after a fetch: a fresh token is needed. The issuer may publish the key later.
fn refuse_withdrawn_key(id: u32, issuer: usize) -> Effects {
    let error = codes::TOKEN_EXPIRED.because("its issuer's key set does not have its key");
    vec![Effect::Reply(Reply::error(id, error)), Effect::FetchKeys { issuer }]
}

/// A temporary error: the issuer may have a new key that is not fetched yet.
fn refuse_without_key(id: u32, issuer: usize) -> Effects {
    let error = codes::INTERNAL.because("keys are being fetched");
    vec![Effect::Reply(Reply::error(id, error)), Effect::FetchKeys { issuer }]
}
