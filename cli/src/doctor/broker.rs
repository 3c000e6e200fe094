//! Whether the broker can be reached as each user, and what each may do there.

use tidegate_shared::{
    access::Account,
    broker::{Broker, ConnectFailure},
    config::Config,
};

use super::Finding;
use crate::stack::setup;

/// Connects as the user of an account. The finding says why that is not possible.
pub(super) async fn connect(config: &Config, account: Account) -> Result<Broker, Finding> {
    let Some(user) = account.user(config) else {
        return Err(Finding::wrong("user", format!("{account:?} has no user"), "report this"));
    };
    setup::connect_as(config, user).await.map_err(|error| match error.downcast_ref::<ConnectFailure>() {
        Some(ConnectFailure::Refused { user }) => Finding::wrong(
            "user",
            format!("the broker refuses the user {user:?}"),
            format!("make nats.{}.password the same in nats.conf and in the configuration", key(account)),
        ),
        Some(failure @ ConnectFailure::TooOld { .. }) => Finding::wrong(
            "broker",
            failure.to_string(),
            "update nats-server on every host, one after the other",
        ),
        _ => Finding::wrong("broker", error.to_string(), "start nats-server, or correct nats.url"),
    })
}

/// The server's version.
pub(super) fn examine(broker: &Broker) -> Vec<Finding> {
    let server = broker.client().server_info();
    vec![Finding::ok("broker", format!("nats-server {} at {}:{}", server.version, server.host, server.port))]
}

/// Tries the rights of an account's user.
pub(super) async fn rights(config: &Config, account: Account, broker: &Broker) -> Finding {
    match broker.try_rights(config, account, true).await {
        Ok(()) => Finding::ok("rights", format!("nats.{} may do what it has to", key(account))),
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

/// The key of an account's user in the configuration.
fn key(account: Account) -> &'static str {
    match account {
        Account::Store => "store",
        Account::Gateway => "gateway",
        Account::Worker => "worker",
        Account::Purger => "purger",
        Account::Service => "service",
        Account::Setup => "setup",
        Account::Ops => "ops",
    }
}
