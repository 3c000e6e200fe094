//! `[[namespace]]`: a namespace of channels and its permissions.

use std::time::Duration;

use serde::Deserialize;

use super::{Config, unit};
use crate::channel::{Channel, DEFAULT_NAMESPACE, MAX_CHANNEL_LEN, USER_NAMESPACE};

/// A namespace: the channels whose names begin with `<name>:`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// The part of a channel's name before the colon.
    pub name: String,
    /// The clients that may subscribe without a subscription token.
    #[serde(default)]
    pub allow_subscribe: Audience,
    /// Whether a `#` in a channel's name limits it to the users behind it.
    #[serde(default)]
    pub user_limited: bool,
    /// The clients that may publish.
    #[serde(default = "nobody")]
    pub allow_publish: Audience,
    /// Whether a client's publication is published directly or handed to a worker.
    #[serde(default)]
    pub publish: PublishMode,
    /// How publications reach a gateway. `None` means the default of [`Namespace::fanout`].
    #[serde(default)]
    pub fanout: Option<Fanout>,
    /// The clients that may read past publications.
    #[serde(default = "nobody")]
    pub allow_history: Audience,
    /// The number of publications kept of each channel. With 0 no client can recover what it missed.
    #[serde(default)]
    pub history_size: u32,
    /// How long publications are kept.
    #[serde(default = "history_ttl", with = "unit::duration")]
    pub history_ttl: Duration,
    /// How long the ids of publications are remembered. `None` means `streams.duplicate_window`.
    #[serde(default, with = "unit::optional_duration")]
    pub duplicate_window: Option<Duration>,
    /// The number of servers that keep publications. `None` means `streams.replicas`.
    #[serde(default)]
    pub replicas: Option<usize>,
    /// Where the servers keep publications.
    #[serde(default)]
    pub storage: Storage,
    /// What a recovering client receives.
    #[serde(default)]
    pub recovery: Recovery,
    /// Whether new subscribers, too, receive the newest publication.
    #[serde(default)]
    pub cache_on_subscribe: bool,
    /// Whether every subscription can be recovered. Otherwise only those of clients that ask for it and may read history.
    #[serde(default = "yes")]
    pub force_recovery: bool,
    /// Whether every subscription is watched for gaps. Otherwise only those of clients that ask for it and may read history.
    #[serde(default = "yes")]
    pub force_positioning: bool,
    /// Whether clients may ask for patches instead of whole payloads.
    #[serde(default)]
    pub delta: bool,
    /// Whether clients may filter publications by their tags.
    #[serde(default)]
    pub tags_filter: bool,
    /// Whether every connection of a user begins with the channel `<name>:#<user>`.
    #[serde(default)]
    pub personal: bool,
    /// The channels that every connection is subscribed to at its start, without the namespace.
    #[serde(default)]
    pub automatic: Vec<String>,
    /// Whether the members of a channel can be requested.
    #[serde(default)]
    pub presence: bool,
    /// The clients that may request the members of a channel, and receive joins and leaves.
    #[serde(default = "nobody")]
    pub allow_presence: Audience,
    /// Whether subscribers that ask for them receive joins and leaves.
    #[serde(default)]
    pub join_leave: bool,
    /// Whether subscribers that do not ask for them receive joins and leaves too.
    #[serde(default)]
    pub force_join_leave: bool,
}

fn history_ttl() -> Duration {
    Duration::from_hours(1)
}

fn yes() -> bool {
    true
}

/// The clients that may do something. Each key accepts some of these values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// No client. Services always may.
    Nobody,
    /// Clients with a user.
    #[default]
    Authenticated,
    /// Every client.
    Anyone,
    /// Clients that are subscribed to the channel.
    Subscriber,
    /// Clients with a subscription token.
    Token,
    /// Clients that a back end allows. The gateway asks it each time.
    Hook,
}

/// What happens to a client's publication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// The gateway publishes it.
    #[default]
    Direct,
    /// A worker takes it by a route `pub.<namespace>` and publishes what it decides to.
    Worker,
}

/// How publications reach a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fanout {
    /// One NATS subscription for each channel that the gateway's clients are subscribed to.
    Channel,
    /// One NATS subscription for all channels of the namespace.
    Wildcard,
}

/// Where the broker keeps publications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In the memory of several servers.
    Memory,
}

/// What a client receives when it recovers a subscription with history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// Every publication it missed.
    #[default]
    Stream,
    /// Only the newest publication, which replaces all earlier ones.
    Cache,
}

fn nobody() -> Audience {
    Audience::Nobody
}

impl Audience {
    /// The values that `allow_subscribe` accepts.
    pub const SUBSCRIBE: &[Self] =
        &[Self::Nobody, Self::Authenticated, Self::Anyone, Self::Token, Self::Hook];
    /// The values that `allow_publish` accepts.
    pub const PUBLISH: &[Self] =
        &[Self::Nobody, Self::Authenticated, Self::Anyone, Self::Subscriber, Self::Hook];
    /// The values that the keys about reading accept.
    pub const READ: &[Self] = &[Self::Nobody, Self::Authenticated, Self::Anyone, Self::Subscriber];

    /// The value in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Authenticated => "authenticated",
            Self::Anyone => "anyone",
            Self::Subscriber => "subscriber",
            Self::Token => "token",
            Self::Hook => "hook",
        }
    }
}

impl Namespace {
    /// The namespace of channels without a colon, unless the configuration declares it.
    pub(crate) fn default_namespace() -> Self {
        Self {
            name: DEFAULT_NAMESPACE.to_owned(),
            allow_subscribe: Audience::Authenticated,
            ..Self::closed()
        }
    }

    /// The namespace of personal channels. Every connection of a user is subscribed to its own; clients cannot subscribe by name.
    pub(crate) fn user() -> Self {
        Self { name: USER_NAMESPACE.to_owned(), history_size: 100, ..Self::closed() }
    }

    /// A namespace that no client may use, without history.
    fn closed() -> Self {
        Self {
            name: String::new(),
            allow_subscribe: Audience::Nobody,
            user_limited: false,
            allow_publish: Audience::Nobody,
            publish: PublishMode::Direct,
            fanout: None,
            allow_history: Audience::Nobody,
            history_size: 0,
            history_ttl: history_ttl(),
            duplicate_window: None,
            replicas: None,
            storage: Storage::File,
            recovery: Recovery::Stream,
            cache_on_subscribe: false,
            force_recovery: true,
            force_positioning: true,
            delta: false,
            tags_filter: false,
            personal: false,
            automatic: Vec::new(),
            presence: false,
            allow_presence: Audience::Nobody,
            join_leave: false,
            force_join_leave: false,
        }
    }

    /// Returns the prefix of its channels' names.
    pub fn prefix(&self) -> String {
        if self.name == DEFAULT_NAMESPACE { String::new() } else { format!("{}:", self.name) }
    }

    /// Returns the channels that every connection is subscribed to at its start. Validation has checked their names.
    pub fn automatic_channels(&self) -> impl Iterator<Item = Channel> {
        self.automatic.iter().filter_map(|name| Channel::parse(&format!("{}{name}", self.prefix())).ok())
    }

    /// Returns how its publications reach a gateway. Personal channels use the wildcard, because every connection has one.
    pub fn fanout(&self) -> Fanout {
        match self.fanout {
            Some(fanout) => fanout,
            None if self.name == USER_NAMESPACE => Fanout::Wildcard,
            None => Fanout::Channel,
        }
    }

    /// Whether the gateways keep track of the members of its channels.
    pub fn has_members(&self) -> bool {
        self.presence || self.join_leave
    }

    /// Whether a recovering client receives only the newest publication.
    pub fn is_cache(&self) -> bool {
        self.recovery == Recovery::Cache
    }

    /// Whether the last message of each channel is kept longer than its history. A client that recovers the newest publication
    /// alone needs no such proof.
    pub fn proves_quiet(&self) -> bool {
        self.has_history() && !self.is_cache()
    }

    /// Whether clients can recover what they missed.
    pub fn has_history(&self) -> bool {
        self.history_size > 0
    }
}

impl Config {
    /// Returns the length in bytes of the longest user id: the name of each of a user's personal channels is a channel's name.
    pub fn longest_user_id(&self) -> usize {
        let personal = self.namespaces.iter().filter(|namespace| namespace.personal);
        let prefix = personal.map(|namespace| namespace.prefix().len()).max().unwrap_or_default();
        MAX_CHANNEL_LEN.saturating_sub(prefix + "#".len())
    }
}
