//! What the configuration allows: routes by method, namespaces by name, limits. Built once, shared by every session.
//!
//! Pure: decides nothing about a particular connection.

use std::{collections::HashMap, iter, time::Duration};

use tidegate_shared::{
    channel::Channel,
    config::{Config, LimitsConfig, Match, Namespace, PublishMode, Route},
    filter,
    id::GatewayId,
    protocol::SubscribeRequest,
};

pub(crate) use self::access::{Access, Action};
use self::access::{Denial, Standing};
use super::{delivery::DeliveryOptions, tokens::Verifier};

mod access;

/// Everything a session looks up.
pub(crate) struct Rules {
    pub(crate) gateway: GatewayId,
    pub(crate) verifier: Verifier,
    pub(crate) anonymous: bool,
    pub(crate) refresh_grace: Duration,
    /// Whether a back end decides on clients without a token.
    pub(crate) asks_to_connect: bool,
    /// Whether a back end prolongs what ends.
    pub(crate) asks_to_refresh: bool,
    pub(crate) limits: LimitsConfig,
    pub(crate) ping_interval: Duration,
    pub(crate) pong_timeout: Duration,
    routes: Vec<Route>,
    namespaces: HashMap<String, Namespace>,
    /// The channels every connection begins with.
    automatic: Vec<Channel>,
    /// What stands before `#<user>` in the personal channels of other namespaces than `user`.
    personal: Vec<String>,
}

/// By what a client wants something in a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// Its user.
    pub(crate) user: Option<&'a str>,
    /// Whether it is subscribed.
    pub(crate) subscribed: bool,
    /// Whether it brings a subscription token.
    pub(crate) token: bool,
}

/// What a subscription is granted of its channel's history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tracking {
    /// It may resume after a disconnect.
    pub(crate) recoverable: bool,
    /// It is told where it stands.
    pub(crate) positioned: bool,
}

impl Tracking {
    /// All there is: what the server subscribes a client to.
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

    /// The route that takes an rpc.
    pub(crate) fn rpc(&self, method: &str) -> Option<&Route> {
        self.routes
            .iter()
            .find(|route| matches!(&route.matches, Match::Rpc(pattern) if pattern.matches(method)))
    }

    /// The route that takes `send`.
    pub(crate) fn send(&self) -> Option<&Route> {
        self.routes.iter().find(|route| route.matches == Match::Send)
    }

    /// The route that takes what clients publish in a channel; nothing if it is published as it is.
    pub(crate) fn decider(&self, channel: &Channel) -> Option<&Route> {
        let namespace = self.namespaces.get(channel.namespace())?;
        let takes =
            |route: &&Route| matches!(&route.matches, Match::Publish(name) if *name == namespace.name);
        (namespace.publish == PublishMode::Worker).then(|| self.routes.iter().find(takes)).flatten()
    }

    /// Whether a client may do something in a channel; nothing if its namespace is not declared.
    pub(crate) fn access(&self, action: Action, channel: &Channel, claim: Claim<'_>) -> Option<Access> {
        let namespace = self.namespaces.get(channel.namespace())?;
        let audience = match action {
            Action::Subscribe => namespace.allow_subscribe,
            Action::Publish => namespace.allow_publish,
            Action::History => namespace.allow_history,
            Action::Presence => namespace.allow_presence,
        };
        let standing = Standing {
            authenticated: claim.user.is_some(),
            subscribed: claim.subscribed,
            token: claim.token,
            listed: channel.lists(claim.user).filter(|_| namespace.user_limited || namespace.personal),
        };
        Some(match channel.personal_user() {
            Some(user) if action.is_reading() && claim.user == Some(user) => Access::Granted,
            // Delivered to its user's connections and to nobody else, whatever a token says.
            Some(_) => Access::Denied(Denial::Rule),
            None => access::decide(action, audience, channel.is_private(), standing),
        })
    }

    /// Whether a channel's namespace is declared.
    pub(crate) fn knows(&self, channel: &Channel) -> bool {
        self.namespaces.contains_key(channel.namespace())
    }

    /// Whether a channel keeps past publications.
    pub(crate) fn has_history(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(Namespace::has_history)
    }

    /// What a subscription is granted of recovering and of being watched. `may_read` is whether its client may read history.
    pub(crate) fn tracking(&self, channel: &Channel, request: &SubscribeRequest, may_read: bool) -> Tracking {
        let Some(namespace) = self.namespaces.get(channel.namespace()) else { return Tracking::default() };
        // Who is brought the newest publication is told where it stands, and comes back from there.
        let always = namespace.force_recovery || namespace.cache_on_subscribe;
        let recoverable = always || (request.recoverable && may_read);
        let positioned = namespace.force_positioning || (request.positioned && may_read);
        Tracking { recoverable, positioned: positioned || recoverable }
    }

    /// Whether it is kept who is in a channel.
    pub(crate) fn has_members(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(Namespace::has_members)
    }

    /// Whether it can be asked who is in a channel.
    pub(crate) fn has_presence(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(|namespace| namespace.presence)
    }

    /// Whether a subscriber of a channel is told who comes and leaves. `asked` is whether it asked for it, and may.
    pub(crate) fn join_leave(&self, channel: &Channel, asked: bool) -> bool {
        self.namespaces
            .get(channel.namespace())
            .is_some_and(|namespace| namespace.join_leave && (namespace.force_join_leave || asked))
    }

    /// Whether every subscriber of a channel is brought its newest publication.
    pub(crate) fn brings_newest(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(|namespace| namespace.cache_on_subscribe)
    }

    /// What a subscription asks for beyond plain publications, as far as its namespace grants it.
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
        // Patches need every publication, so a filter goes before them; not granting them is no error.
        let delta = request.delta == "fossil"
            && filter.is_none()
            && namespace.is_some_and(|namespace| namespace.delta);
        Ok((delta || filter.is_some()).then(|| Box::new(DeliveryOptions { delta, filter })))
    }

    /// What a connection begins with, whatever its token says: its personal channels, and those of everybody.
    pub(crate) fn automatic(&self, user: Option<&str>) -> impl Iterator<Item = Channel> {
        let own = user.into_iter().flat_map(|user| {
            let further = self.personal.iter().map(move |prefix| format!("{prefix}#{user}"));
            // A user id that is too long for a name has no channel of that name.
            iter::once(Channel::personal(user)).chain(further.filter_map(|name| Channel::parse(&name).ok()))
        });
        own.chain(self.automatic.iter().cloned())
    }
}
