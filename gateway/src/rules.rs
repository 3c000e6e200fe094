//! What the configuration allows: routes by method, namespaces by name, limits. Built once, shared by every session.
//!
//! Pure: decides nothing about a particular connection.

use std::{collections::HashMap, iter, time::Duration};

use tidegate_shared::{
    channel::Channel,
    config::{Audience, Config, Decider, LimitsConfig, Match, Namespace, Route},
    filter,
    id::GatewayId,
    protocol::SubscribeRequest,
};

use crate::{auth::Verifier, feed::Wish};

/// Everything a session looks up.
pub(crate) struct Rules {
    pub(crate) gateway: GatewayId,
    pub(crate) verifier: Verifier,
    pub(crate) anonymous: bool,
    pub(crate) refresh_grace: Duration,
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
        (namespace.publish == Decider::Worker).then(|| self.routes.iter().find(takes)).flatten()
    }

    /// Who may subscribe to a channel; nothing if its namespace is not declared.
    pub(crate) fn may_subscribe(&self, channel: &Channel) -> Option<Audience> {
        self.namespaces.get(channel.namespace()).map(|namespace| namespace.allow_subscribe)
    }

    /// How many past publications a channel keeps, and who may read them; nothing if its namespace is not declared.
    pub(crate) fn history(&self, channel: &Channel) -> Option<(u32, Audience)> {
        let namespace = self.namespaces.get(channel.namespace())?;
        Some((namespace.history_size, namespace.allow_history))
    }

    /// Whether it is kept who is in a channel.
    pub(crate) fn has_members(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(Namespace::has_members)
    }

    /// Whether it can be asked who is in a channel, and who may ask; nothing if its namespace is not declared.
    pub(crate) fn presence(&self, channel: &Channel) -> Option<(bool, Audience)> {
        let namespace = self.namespaces.get(channel.namespace())?;
        Some((namespace.presence, namespace.allow_presence))
    }

    /// Whether a subscriber of a channel is told who comes and leaves.
    pub(crate) fn hears(&self, channel: &Channel, authenticated: bool, asked: bool) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(|namespace| {
            let may_ask = namespace.allow_presence.includes(authenticated);
            namespace.join_leave && (namespace.force_join_leave || asked && may_ask)
        })
    }

    /// Whether every subscriber of a channel is brought its newest publication.
    pub(crate) fn brings_newest(&self, channel: &Channel) -> bool {
        self.namespaces.get(channel.namespace()).is_some_and(|namespace| namespace.cache_on_subscribe)
    }

    /// What a subscription asks for beyond plain publications, as far as its namespace grants it.
    pub(crate) fn wish(
        &self,
        channel: &Channel,
        request: &SubscribeRequest,
    ) -> Result<Option<Box<Wish>>, String> {
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
        Ok((delta || filter.is_some()).then(|| Box::new(Wish { delta, filter })))
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

    /// Who may publish into a channel; nothing if its namespace is not declared.
    pub(crate) fn may_publish(&self, channel: &Channel) -> Option<Audience> {
        self.namespaces.get(channel.namespace()).map(|namespace| namespace.allow_publish)
    }
}
