//! Whether the broker can be reached as each user, and what each may do there.

use tidegate_shared::{
    broker::{Broker, ConnectFailure},
    config::Config,
};

use super::{Finding, User};
use crate::stack::setup;

/// Connects as a user. The finding says why that is not possible.
pub(super) async fn connect(config: &Config, user: &User<'_>) -> Result<Broker, Finding> {
    setup::connect_as(config, user.login).await.map_err(|error| {
        match error.downcast_ref::<ConnectFailure>() {
            Some(ConnectFailure::Refused { user: name }) => Finding::wrong(
                "user",
                format!("the broker refuses the user {name:?}"),
                format!("make nats.{}.password the same in nats.conf and in the configuration", user.key),
            ),
            Some(failure @ ConnectFailure::TooOld { .. }) => Finding::wrong(
                "broker",
                failure.to_string(),
                "update nats-server on every host, one after the other",
            ),
            _ => Finding::wrong("broker", error.to_string(), "start nats-server, or correct nats.url"),
        }
    })
}

/// The server's version.
pub(super) fn examine(broker: &Broker) -> Vec<Finding> {
    let server = broker.client().server_info();
    vec![Finding::ok("broker", format!("nats-server {} at {}:{}", server.version, server.host, server.port))]
}

/// Tries the rights of a user.
pub(super) async fn rights(config: &Config, user: &User<'_>, broker: &Broker) -> Finding {
    match broker.try_rights(config, user.account, true).await {
        Ok(()) => Finding::ok("rights", format!("nats.{} may do what it has to", user.key)),
        Err(missing) => Finding::wrong(
            "rights",
            missing
                .to_string()
                .lines()
                .take_while(|line| !line.starts_with("Replace"))
                .collect::<Vec<_>>()
                .join("\n"),
            "run `tidegate apply` if streams are missing; else replace the accounts in nats.conf by what `tidegate nats-config` \
             prints, and reload the broker",
        ),
    }
}
