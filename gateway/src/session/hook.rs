//! Decisions of a back end: the questions a session asks, and what follows from each decision. Without a decision the
//! client's command is refused.

use std::time::Duration;

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    hook::{Decision, Event, Grant, Question},
    protocol::{ClientInfo, ConnectRequest, Error, SubscribeRequest, codes},
};

use super::{
    Connected, Effect, Effects, Now, Phase, Session, refuse,
    token::{self, Terms},
};
use crate::policy::{
    Verdict,
    tokens::{self, Identity},
};

/// How long a session waits before it asks again when no back end decided on prolonging something.
const RETRY: Duration = Duration::from_secs(1);

/// A question for a back end, and what its decision is about.
#[derive(Debug, PartialEq)]
pub(crate) struct HookQuestion {
    pub(crate) event: Event,
    pub(crate) question: Question,
    pub(crate) about: AskedAbout,
}

/// What a decision is about.
#[derive(Debug, PartialEq)]
pub(crate) enum AskedAbout {
    /// The client's `connect`.
    Connect(PendingConnect),
    /// Prolonging the connection.
    Refresh,
    /// A subscription that waits for permission.
    Subscribe { ticket: u32 },
    /// Prolonging a subscription.
    SubRefresh { ticket: u32 },
    /// A publication.
    Publish { command: u32, channel: Channel, data: Bytes, info: Box<ClientInfo> },
}

/// A client's `connect` that is not answered yet.
#[derive(Debug, PartialEq)]
pub(crate) struct PendingConnect {
    pub(super) command: u32,
    pub(super) request: Box<ConnectRequest>,
    pub(super) jitter: f32,
}

impl Session {
    /// Asks whether a client without a token may connect.
    pub(super) fn ask_to_connect(
        &mut self,
        command: u32,
        request: ConnectRequest,
        jitter: f32,
        now: Now,
    ) -> Effects {
        self.phase = Phase::Asking { until: now.instant + self.rules.limits.first_frame };
        let question = Question::new(self.client.as_str(), self.encoding).with_data(&request.data);
        let question = Question { name: request.name.clone(), version: request.version.clone(), ..question };
        let about = AskedAbout::Connect(PendingConnect { command, request: Box::new(request), jitter });
        ask(Event::Connect, question, about)
    }

    /// Asks about a subscription that has begun.
    pub(super) fn ask_to_subscribe(&self, ticket: u32, request: &SubscribeRequest) -> Effects {
        let question = self.question(&request.channel).with_data(&request.data);
        ask(Event::Subscribe, question, AskedAbout::Subscribe { ticket })
    }

    /// Asks about a publication.
    pub(super) fn ask_to_publish(
        &self,
        command: u32,
        channel: Channel,
        data: Bytes,
        info: Box<ClientInfo>,
    ) -> Effects {
        let question = self.question(channel.name()).with_data(&data);
        ask(Event::Publish, question, AskedAbout::Publish { command, channel, data, info })
    }

    /// Asks a back end to prolong the connection and the subscriptions whose renewal is due.
    pub(super) fn ask_to_go_on(&mut self, now: std::time::Instant) -> Effects {
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        let connection = connected.validity.renewal.take_if(|at| *at <= now).is_some();
        let subscriptions = connected.subscriptions.take_renewals(now);
        let mut effects = Vec::new();
        if connection {
            effects.extend(ask(Event::Refresh, self.question(""), AskedAbout::Refresh));
        }
        for (ticket, channel) in subscriptions {
            let question = self.question(channel.name());
            effects.extend(ask(Event::SubRefresh, question, AskedAbout::SubRefresh { ticket }));
        }
        effects
    }

    fn question(&self, channel: &str) -> Question {
        let question = Question::new(self.client.as_str(), self.encoding);
        Question { user: self.user().map(str::to_owned), channel: channel.to_owned(), ..question }
    }

    /// Carries on after a back end's decision, or after its deadline passed.
    pub(crate) fn verdict(&mut self, about: AskedAbout, verdict: Verdict, now: Now) -> Effects {
        if matches!(self.phase, Phase::Closed { .. }) {
            return Vec::new();
        }
        let decision = match verdict {
            Ok(Decision::Disconnect(disconnect)) => return self.close(disconnect),
            Ok(Decision::Allowed(grant)) => Ok(grant),
            Ok(Decision::Refused(error)) | Err(error) => Err(error),
        };
        match about {
            AskedAbout::Connect(arrival) => match decision {
                Ok(grant) => self.let_in(arrival, *grant, now),
                Err(error) => self.refused(refuse(arrival.command, error), now),
            },
            AskedAbout::Refresh => self.goes_on(decision, now),
            AskedAbout::Subscribe { ticket } => self.let_subscribe(ticket, decision, now),
            AskedAbout::SubRefresh { ticket } => self.subscription_goes_on(ticket, decision, now),
            AskedAbout::Publish { command, channel, data, info } => match decision {
                Ok(grant) => {
                    let Grant { data: instead, tags, .. } = *grant;
                    let data = if instead.is_empty() { data } else { instead };
                    let tags = tags.unwrap_or_default();
                    match self.deliverable(&channel, &data, &info, &tags) {
                        Ok(()) => vec![Effect::Publish { command, channel, data, info, tags }],
                        Err(error) => refuse(command, error),
                    }
                }
                Err(error) => refuse(command, error),
            },
        }
    }

    fn let_in(&mut self, arrival: PendingConnect, grant: Grant, now: Now) -> Effects {
        if !self.rules.verifier.is_user_id(&grant.user) {
            let error = codes::INTERNAL
                .because("the decision names a user id that is too long, has control characters, or has spaces at its ends");
            return self.refused(refuse(arrival.command, error), now);
        }
        let validity = self.validity(grant.ends(), self.renewer_after_hook(), now);
        let (data, expires_at) = (grant.data.clone(), grant.ends());
        let described = grant.subs.into_iter().map(|(channel, sub)| tokens::Grant {
            channel,
            info: sub.info,
            data: sub.data,
        });
        let named =
            grant.channels.into_iter().map(|channel| tokens::Grant { channel, ..tokens::Grant::default() });
        let identity = Identity {
            user: (!grant.user.is_empty()).then(|| grant.user.into_boxed_str()),
            expires_at,
            info: grant.info,
            channels: described.chain(named).collect(),
        };
        self.accepted(arrival, identity, validity, &data, now)
    }

    fn goes_on(&mut self, decision: Result<Box<Grant>, Error>, now: Now) -> Effects {
        match decision {
            Ok(grant) if !grant.expired => {
                let validity = self.validity(grant.ends(), self.renewer_after_hook(), now);
                let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
                connected.validity = validity;
                if !grant.info.is_empty() {
                    connected.info = grant.info;
                }
                Vec::new()
            }
            Err(error) if error.temporary => {
                let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
                connected.validity.renewal = Some(now.instant + RETRY);
                Vec::new()
            }
            Ok(_) | Err(_) => self.close(codes::EXPIRED),
        }
    }

    fn let_subscribe(&mut self, ticket: u32, decision: Result<Box<Grant>, Error>, now: Now) -> Effects {
        match decision {
            Ok(grant) => {
                let validity = self.validity(grant.ends(), self.renewer_after_hook(), now);
                let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
                let terms = Terms { info: grant.info, data: grant.data, validity };
                connected.subscriptions.admit(ticket, terms).into_iter().collect()
            }
            Err(error) => self.not_subscribed(ticket, error),
        }
    }

    fn subscription_goes_on(
        &mut self,
        ticket: u32,
        decision: Result<Box<Grant>, Error>,
        now: Now,
    ) -> Effects {
        let grant = match decision {
            Ok(grant) => Some(grant).filter(|grant| !grant.expired),
            Err(error) if error.temporary => {
                let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
                connected.subscriptions.ask_again(ticket, now.instant + RETRY);
                return Vec::new();
            }
            Err(_) => None,
        };
        let renewer = self.renewer_after_hook();
        let validity =
            grant.as_ref().map(|grant| self.validity(grant.ends(), renewer, now)).unwrap_or_default();
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        match grant {
            Some(grant) => {
                connected.subscriptions.prolong(ticket, validity, grant.info);
                Vec::new()
            }
            None => connected.end_subscription(ticket),
        }
    }
}

impl Connected {
    fn end_subscription(&mut self, ticket: u32) -> Effects {
        self.subscriptions.end(ticket).into_iter().flat_map(token::expired).collect()
    }
}

fn ask(event: Event, question: Question, about: AskedAbout) -> Effects {
    vec![Effect::Ask(Box::new(HookQuestion { event, question, about }))]
}
