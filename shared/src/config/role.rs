//! Who reads the configuration: each program needs only its own secrets.

use super::Config;

/// The reader of a configuration. It is asked only for the secrets that it uses, and may leave all others at their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `tidegate check-config` and `tidegate up`: every program of a deployment, the stock worker included.
    All,
    /// A gateway.
    Gateway,
    /// A worker.
    Worker,
    /// `tidegate-worker test`: no secret is read, each has a value that means nothing.
    Tester,
    /// The purger.
    Purger,
    /// `tidegate apply`.
    Setup,
    /// A service that publishes over NATS.
    Service,
    /// An operator's command.
    Operator,
    /// A command that signs tokens.
    Signer,
    /// A client that has a token, or needs none.
    Client,
}

impl Role {
    /// Whether this reader uses the secret.
    pub(super) fn uses(self, key: &str) -> bool {
        let user = match key {
            "auth.hmac_secret" if self == Self::Signer => return true,
            "auth.hmac_secret" | "api.key" | "nats.gateway.password" => Self::Gateway,
            "nats.worker.password" => Self::Worker,
            "nats.purger.password" => Self::Purger,
            "nats.setup.password" => Self::Setup,
            "nats.service.password" => Self::Service,
            "nats.ops.password" => Self::Operator,
            _ => return true,
        };
        self == Self::All || self == user
    }

    /// Whether this reader runs stock handlers: it needs their secrets.
    pub(super) fn works(self) -> bool {
        matches!(self, Self::All | Self::Worker | Self::Tester)
    }

    /// Whether this reader serves clients: it needs the issuers' keys, the listeners and the origins.
    pub(super) fn serves(self) -> bool {
        matches!(self, Self::All | Self::Gateway)
    }
}

impl Config {
    /// The secrets that have one key each.
    pub(super) fn secrets(&self) -> [(&'static str, &super::Secret); 8] {
        [
            ("auth.hmac_secret", &self.auth.hmac_secret),
            ("api.key", &self.api.key),
            ("nats.gateway.password", &self.nats.gateway.password),
            ("nats.worker.password", &self.nats.worker.password),
            ("nats.purger.password", &self.nats.purger.password),
            ("nats.service.password", &self.nats.service.password),
            ("nats.setup.password", &self.nats.setup.password),
            ("nats.ops.password", &self.nats.ops.password),
        ]
    }
}
