//! The rules of the configuration: routes by method, namespaces by name, limits. Built once, shared by all sessions.
//!
//! Pure. Holds no state of a connection.

use std::{collections::HashMap, iter, time::Duration};

use tidegate_shared::{
    channel::Channel,
    config::{Config, LimitsConfig, Match, Namespace, PublishMode, Route},
    envelope::{AnswerWay, Request},
    filter,
    id::GatewayId,
    protocol::{Error, Publication, SubscribeRequest, codes},
};

pub(crate) use self::access::{Access, Action};
use self::access::{Denial, Standing};
use super::{
    delivery::{self, DeliveryOptions},
    tokens::Verifier,
};

mod access;
#[cfg(test)]
mod tests;

/// What a session looks up.
pub(crate) struct Rules {
    pub(crate) gateway: GatewayId,
    pub(crate) verifier: Verifier,
    pub(crate) anonymous: bool,
    pub(crate) refresh_grace: Duration,
    /// Whether a back end decides on `connect` without a token.
    pub(crate) asks_to_connect: bool,
    /// Whether a back end prolongs connections and subscriptions.
    pub(crate) asks_to_refresh: bool,
    pub(crate) limits: LimitsConfig,
    pub(crate) ping_interval: Duration,
    pub(crate) pong_timeout: Duration,
    routes: Vec<Route>,
    namespaces: HashMap<String, Namespace>,
    /// The automatic channels of all connections.
    automatic: Vec<Channel>,
    /// The prefixes of personal channels in namespaces other than `user`.
    personal: Vec<String>,
}

/// What a client's permission in a channel depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// Its user.
    pub(crate) user: Option<&'a str>,
    /// Whether it is subscribed.
    pub(crate) subscribed: bool,
    /// Whether it sends a subscription token.
    pub(crate) token: bool,
}

/// How a subscription may use its channel's history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tracking {
    /// It may resume after a disconnect.
    pub(crate) recoverable: bool,
    /// The client receives its position.
    pub(crate) positioned: bool,
}

impl Tracking {
    /// The tracking of server-side subscriptions.
    pub(crate) const FULL: Self = Self { recoverable: true, positioned: true };
}

impl Rules {
    pub(crate) fn new(config: &Config, verifier: Verifier, gateway: GatewayId) -> Self {
        let namespaces = config.all_namespaces();
        let personal = namespaces.iter().filter(|namespace| namespace.personal);
        Self {
            automatic: namespaces.iter().flat_map(Namespace::automatic_channels).collect(),
            personal: personal.map(Namespace::prefix).collect(),
            gateway,
            verifier,
            anonymous: config.auth.anonymous,
            refresh_grace: config.auth.refresh_grace,
            asks_to_connect: config.hooks.connect,
            asks_to_refresh: config.hooks.refresh,
            limits: config.gateway.limits.clone(),
            ping_interval: config.gateway.ping_interval,
            pong_timeout: config.gateway.pong_timeout,
            routes: config.routes.clone(),
            namespaces: namespaces.into_iter().map(|n| (n.name.clone(), n)).collect(),
        }
    }

    /// The route of an rpc method.
    pub(crate) fn rpc(&self, method: &str) -> Option<&Route> {
        self.routes
            .iter()
            .find(|route| matches!(&route.matches, Match::Rpc(pattern) if pattern.matches(method)))
    }

    /// Whether a request is cancelled when its client's connection ends.
    pub(crate) fn cancels_when_gone(&self, request: &Request) -> bool {
        let cancels = |route: &Route| route.cancel_when_gone && route.name == request.route;
        self.routes.iter().any(cancels) && request.answer_way() == AnswerWay::HandedOver
    }

    /// All routes.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The route of `send`.
    pub(crate) fn send(&self) -> Option<&Route> {
        self.routes.iter().find(|route| route.matches == Match::Send)
    }

    /// The route whose worker decides on clients' publications in a channel. `None` if they are published directly.
    pub(crate) fn deciding_route(&self, channel: &Channel) -> Option<&Route> {
        let namespace = self.namespaces.get(channel.namespace())?;
        let takes =
            |route: &&Route| matches!(&route.matches, Match::Publish(name) if *name == namespace.name);
        (namespace.publish == PublishMode::Worker).then(|| self.routes.iter().find(takes)).flatten()
    }

    /// Whether a client may do something in a channel. `None` if its namespace is not declared.
    pub(crate) fn access(&self, action: Action, channel: &Channel, claim: Claim<'_>) -> Option<Access> {
        let namespace = self.namespaces.get(channel.namespace())?;
        let audience = match action {
            Action::Subscribe => namespace.allow_subscribe,
            Action::Publish => namespace.allow_publish,
            Action::History => namespace.allow_history,
            Action::Presence => namespace.allow_presence,
        };
        let listed = match self.further_owner(channel) {
            Some(owner) => Some(claim.user == Some(owner)),
            None => channel.lists(claim.user).filter(|_| namespace.user_limited),
        };
        let standing = Standing {
            authenticated: claim.user.is_some(),
            subscribed: claim.subscribed,
            token: claim.token,
            listed,
        };
        Some(match channel.personal_user() {
            Some(user) if action.is_reading() && claim.user == Some(user) => Access::Granted,
            // A personal channel is delivered to its user's connections only, whatever a token says.
            Some(_) => Access::Denied(Denial::Rule),
            None => access::decide(action, audience, channel.is_private(), standing),
        })
    }

    /// The user whose personal channel this is, in the namespace `user` or in one with `personal = true`.
    pub(crate) fn owner<'a>(&self, channel: &'a Channel) -> Option<&'a str> {
        channel.personal_user().or_else(|| self.further_owner(channel))
    }

    fn further_owner<'a>(&self, channel: &'a Channel) -> Option<&'a str> {
        let namespace = self.namespaces.get(channel.namespace())?;
        channel.further_personal_user().filter(|_| namespace.personal)
    }

    /// Whether a channel's namespace is declared.
    pub(crate) fn knows(&self, channel: &Channel) -> bool {
        self.namespaces.contains_key(channel.namespace())
    }

    /// Whether a channel keeps past publications.
    pub(crate) fn has_history(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(Namespace::has_history)
    }

    /// How a subscription may use its channel's history. `may_read` says whether its client may read history.
    pub(crate) fn tracking(&self, channel: &Channel, request: &SubscribeRequest, may_read: bool) -> Tracking {
        let Some(namespace) = self.namespaces.get(channel.namespace()) else { return Tracking::default() };
        // A subscriber that receives the newest publication needs a position to resume from.
        let always = namespace.force_recovery || namespace.cache_on_subscribe;
        let recoverable = always || (request.recoverable && may_read);
        let positioned = namespace.force_positioning || (request.positioned && may_read);
        Tracking { recoverable, positioned: positioned || recoverable }
    }

    /// Whether a channel keeps members, for presence or for joins and leaves.
    pub(crate) fn has_members(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(Namespace::has_members)
    }

    /// Whether clients may ask for a channel's members.
    pub(crate) fn has_presence(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(|namespace| namespace.presence)
    }

    /// Whether a subscriber receives joins and leaves. `asked` says that it asked for them and may see presence.
    pub(crate) fn join_leave(&self, channel: &Channel, asked: bool) -> bool {
        self.namespaces
            .get(channel.namespace())
            .is_some_and(|namespace| namespace.join_leave && (namespace.force_join_leave || asked))
    }

    /// Whether every subscriber receives the channel's newest publication when it joins.
    pub(crate) fn brings_newest(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(|namespace| namespace.cache_on_subscribe)
    }

    /// Refuses a publication that is larger than a client's outbox in one of the encodings: no such client could receive it.
    pub(crate) fn deliverable(&self, channel: &Channel, publication: &Publication) -> Result<(), Error> {
        let limit = self.limits.outbox;
        let len =
            delivery::longest_push(channel.name(), publication, self.limits.outbox, self.has_delta(channel));
        if len <= limit {
            return Ok(());
        }
        let why = format!("a publication of {len} bytes; gateway.limits.outbox is {limit}");
        Err(codes::LIMIT_EXCEEDED.because(why))
    }

    fn has_delta(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(|namespace| namespace.delta)
    }

    /// The delivery options a subscription asks for, as far as its namespace grants them.
    pub(crate) fn delivery(
        &self,
        channel: &Channel,
        request: &SubscribeRequest,
    ) -> Result<Option<Box<DeliveryOptions>>, String> {
        let namespace = self.namespaces.get(channel.namespace());
        let filter = request.tf.clone();
        if let Some(node) = &filter {
            if !namespace.is_some_and(|namespace| namespace.tags_filter) {
                return Err("this namespace has no tags filter".to_owned());
            }
            filter::validate(node).map_err(|error| error.to_string())?;
        }
        // Patches need every publication, so a filter excludes them. Patches that are not granted are no error.
        let delta = request.delta == "fossil"
            && filter.is_none()
            && namespace.is_some_and(|namespace| namespace.delta);
        Ok((delta || filter.is_some()).then(|| Box::new(DeliveryOptions { delta, filter })))
    }

    /// The channels every connection of this user begins with: its personal channels, and the automatic ones.
    pub(crate) fn automatic(&self, user: Option<&str>) -> impl Iterator<Item = Channel> {
        let own = user.into_iter().flat_map(|user| {
            let further = self.personal.iter().map(move |prefix| format!("{prefix}#{user}"));
            // The verifier and the hooks accept no user id that is too long for these names.
            iter::once(Channel::personal(user)).chain(further.filter_map(|name| Channel::parse(&name).ok()))
        });
        own.chain(self.automatic.iter().cloned())
    }
}
