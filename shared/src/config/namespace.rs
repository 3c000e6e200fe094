//! `[[namespace]]`: which channels there are and who may use them.

use serde::Deserialize;

use crate::channel::{DEFAULT_NAMESPACE, USER_NAMESPACE};

/// The channels whose names begin with `<name>:`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// What stands before the colon.
    pub name: String,
    /// Which clients may subscribe.
    #[serde(default)]
    pub allow_subscribe: Audience,
    /// Which clients may publish.
    #[serde(default = "nobody")]
    pub allow_publish: Audience,
}

/// Which clients may do something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// No client; services always may.
    Nobody,
    /// Clients with a token.
    #[default]
    Authenticated,
    /// Every client.
    Anyone,
}

fn nobody() -> Audience {
    Audience::Nobody
}

impl Audience {
    /// Whether a client belongs to it.
    pub fn includes(self, authenticated: bool) -> bool {
        match self {
            Self::Nobody => false,
            Self::Authenticated => authenticated,
            Self::Anyone => true,
        }
    }
}

impl Namespace {
    /// The channels whose names have no colon, unless the configuration says otherwise.
    pub(crate) fn default_namespace() -> Self {
        Self {
            name: DEFAULT_NAMESPACE.to_owned(),
            allow_subscribe: Audience::Authenticated,
            allow_publish: Audience::Nobody,
        }
    }

    /// The personal channels: every connection of a user has its own, nobody subscribes to it by name.
    pub(crate) fn user() -> Self {
        Self {
            name: USER_NAMESPACE.to_owned(),
            allow_subscribe: Audience::Nobody,
            allow_publish: Audience::Nobody,
        }
    }
}
