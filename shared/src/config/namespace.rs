//! `[[namespace]]`: which channels there are and who may use them.

use std::time::Duration;

use serde::Deserialize;

use super::unit;
use crate::channel::{Channel, DEFAULT_NAMESPACE, USER_NAMESPACE};

/// The channels whose names begin with `<name>:`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// What stands before the colon.
    pub name: String,
    /// Which clients may subscribe.
    #[serde(default)]
    pub allow_subscribe: Audience,
    /// Whether a `#` in a channel's name limits it to the users behind it.
    #[serde(default)]
    pub user_limited: bool,
    /// Which clients may publish.
    #[serde(default = "nobody")]
    pub allow_publish: Audience,
    /// Who decides what becomes of a client's publication.
    #[serde(default)]
    pub publish: PublishMode,
    /// How publications reach a gateway; by channel, unless said otherwise.
    #[serde(default)]
    pub fanout: Option<Fanout>,
    /// Which clients may read past publications.
    #[serde(default = "nobody")]
    pub allow_history: Audience,
    /// Publications kept of each channel; none means that nothing can be recovered.
    #[serde(default)]
    pub history_size: u32,
    /// How long they are kept.
    #[serde(default = "history_ttl", with = "unit::duration")]
    pub history_ttl: Duration,
    /// How many servers keep them; as many as those of requests, unless said otherwise.
    #[serde(default)]
    pub replicas: Option<usize>,
    /// Where they keep them.
    #[serde(default)]
    pub storage: Storage,
    /// What a client that comes back is brought.
    #[serde(default)]
    pub recovery: Recovery,
    /// Whether every subscriber is brought the newest publication, one that comes for the first time too.
    #[serde(default)]
    pub cache_on_subscribe: bool,
    /// Whether every subscription can be recovered; otherwise those of clients that ask for it and may read history.
    #[serde(default = "yes")]
    pub force_recovery: bool,
    /// Whether every subscription's position is watched; otherwise those of clients that ask for it and may read history.
    #[serde(default = "yes")]
    pub force_positioning: bool,
    /// Whether clients may ask for patches instead of whole payloads.
    #[serde(default)]
    pub delta: bool,
    /// Whether clients may ask for some publications only, by their tags.
    #[serde(default)]
    pub tags_filter: bool,
    /// Whether every connection of a user begins with the channel `<name>:#<user>`.
    #[serde(default)]
    pub personal: bool,
    /// The channels every connection begins with, without the namespace.
    #[serde(default)]
    pub automatic: Vec<String>,
    /// Whether it can be asked who is in a channel.
    #[serde(default)]
    pub presence: bool,
    /// Which clients may ask who is in a channel, and may ask to be told who comes and leaves.
    #[serde(default = "nobody")]
    pub allow_presence: Audience,
    /// Whether subscribers that ask for it are told who comes and leaves.
    #[serde(default)]
    pub join_leave: bool,
    /// Whether those who do not ask are told too.
    #[serde(default)]
    pub force_join_leave: bool,
}

fn history_ttl() -> Duration {
    Duration::from_hours(1)
}

fn yes() -> bool {
    true
}

/// Which clients may do something. Each key takes some of these words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// No client; services always may.
    Nobody,
    /// Clients with a user.
    #[default]
    Authenticated,
    /// Every client.
    Anyone,
    /// Clients that are subscribed to the channel.
    Subscriber,
    /// Clients that bring a subscription token.
    Token,
    /// Whomever a back end allows, which is asked each time.
    Hook,
}

/// Who decides what becomes of a client's publication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// Nobody: it is published.
    #[default]
    Direct,
    /// A worker, which takes it by a route `pub.<namespace>` and publishes what it decides to.
    Worker,
}

/// How publications reach a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fanout {
    /// Those of the channels that its clients have subscribed to: one subscription for each.
    Channel,
    /// All of the namespace: one subscription.
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

/// What a client that comes back to a channel with history is brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// Every publication it missed.
    #[default]
    Stream,
    /// The newest publication alone, which stands for all before it.
    Cache,
}

fn nobody() -> Audience {
    Audience::Nobody
}

impl Audience {
    /// What `allow_subscribe` may say.
    pub const SUBSCRIBE: &[Self] =
        &[Self::Nobody, Self::Authenticated, Self::Anyone, Self::Token, Self::Hook];
    /// What `allow_publish` may say.
    pub const PUBLISH: &[Self] =
        &[Self::Nobody, Self::Authenticated, Self::Anyone, Self::Subscriber, Self::Hook];
    /// What keys about reading may say.
    pub const READ: &[Self] = &[Self::Nobody, Self::Authenticated, Self::Anyone, Self::Subscriber];

    /// The word for it.
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
    /// The channels whose names have no colon, unless the configuration says otherwise.
    pub(crate) fn default_namespace() -> Self {
        Self {
            name: DEFAULT_NAMESPACE.to_owned(),
            allow_subscribe: Audience::Authenticated,
            ..Self::closed()
        }
    }

    /// The personal channels: every connection of a user has its own, nobody subscribes to it by name.
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

    /// What the names of its channels begin with.
    pub fn prefix(&self) -> String {
        if self.name == DEFAULT_NAMESPACE { String::new() } else { format!("{}:", self.name) }
    }

    /// The channels every connection begins with. Validation has seen to it that they are channels.
    pub fn automatic_channels(&self) -> impl Iterator<Item = Channel> {
        self.automatic.iter().filter_map(|name| Channel::parse(&format!("{}{name}", self.prefix())).ok())
    }

    /// How its publications reach a gateway. Personal channels come as a whole: every connection has one.
    pub fn fanout(&self) -> Fanout {
        match self.fanout {
            Some(fanout) => fanout,
            None if self.name == USER_NAMESPACE => Fanout::Wildcard,
            None => Fanout::Channel,
        }
    }

    /// Whether it is kept who is in its channels.
    pub fn has_members(&self) -> bool {
        self.presence || self.join_leave
    }

    /// Whether clients are brought the newest publication alone.
    pub fn is_cache(&self) -> bool {
        self.recovery == Recovery::Cache
    }

    /// Whether clients can recover what they missed.
    pub fn has_history(&self) -> bool {
        self.history_size > 0
    }
}
