//! The broker's configuration file: the `nats.conf` of this repository with the ports, directory and passwords of a stack, and
//! the accounts of its configuration.

use anyhow::Context;
use tidegate_shared::{
    access::{Access, Account},
    config::Config,
};

/// The configuration every stack starts from.
const NATS_CONF: &str = include_str!("../../../nats.conf");
/// The line by which a message is on the disk when it is acknowledged.
const SYNCED: &str = "  sync_interval: always\n";
/// The first line of its last part, the accounts.
const ACCOUNTS: &str = "# The streams are in the account ";

/// How the users of the broker are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// Each kind of program has an account of its own, with its rights.
    Accounts,
    /// All users share one account, each with its permissions. They do not hold against reply subjects: for measuring what
    /// accounts cost.
    Permissions,
}

/// Returns the configuration of one broker: `port` for clients, `monitor` for its health, `data` for its files. `admin` is the
/// password of a user of the streams' own account, who may do everything there.
pub(crate) fn configuration(
    config: &Config,
    (port, monitor): (u16, u16),
    data: &str,
    admin: Option<&str>,
    separation: Separation,
) -> anyhow::Result<String> {
    let mut values = vec![
        ("CLIENT_PORT", port.to_string()),
        ("MONITOR_PORT", monitor.to_string()),
        ("DATA_DIR", quoted(data)),
    ];
    for account in Account::USERS {
        let password = account.user(config).map(|user| quoted(user.password.expose()));
        values.extend(password.map(|password| (account.password_variable(), password)));
    }
    let (own, _) = NATS_CONF.split_once(ACCOUNTS).context("nats.conf has no accounts")?;
    let access = Access::of(config);
    let accounts = match (separation, admin) {
        (Separation::Accounts, Some(password)) => access.nats_conf_with_admin(password),
        (Separation::Accounts, None) => access.nats_conf(),
        (Separation::Permissions, _) => one_account(config),
    };
    let mut text = format!("{own}{accounts}");
    for (name, value) in values {
        text = with(&text, name, &value).with_context(|| format!("nats.conf does not define {name}"))?;
    }
    Ok(text)
}

/// The configuration of a broker that writes to the disk when it likes.
pub(crate) fn relaxed(text: &str) -> anyhow::Result<String> {
    let (before, after) = text.split_once(SYNCED).context("nats.conf does not sync always")?;
    Ok(format!("{before}{after}"))
}

fn one_account(config: &Config) -> String {
    let (access, api) = (Access::of(config), format!("{}.js.", config.nats.prefix));
    let list = |subjects: Vec<String>| {
        let quoted: Vec<String> = subjects.iter().map(|s| quoted(&s.replace(&api, "$JS.API."))).collect();
        quoted.join(", ")
    };
    let users = Account::USERS.iter().filter_map(|account| {
        let (name, password) = (&account.user(config)?.user, account.password_variable());
        let (publish, subscribe) = (list(access.publishes(*account)), list(access.subscribes(*account)));
        Some(format!(
            "      {{ user: {name}, password: ${password}, permissions: {{\n        publish: {{ allow: [ {publish} ] }}\n        \
             subscribe: {{ allow: [ {subscribe} ] }}\n        allow_responses: {{ max: 1, expires: \"10s\" }}\n      }} }}\n"
        ))
    });
    let users: String = users.collect();
    format!(
        "accounts {{\n  ALL {{\n    jetstream: enabled\n    users: [\n{users}    ]\n  }}\n  SYS {{ }}\n}}\nsystem_account: SYS\n"
    )
}

/// Replaces the value of a variable defined at the start of a line.
fn with(text: &str, name: &str, value: &str) -> Option<String> {
    let definition = format!("{name} = ");
    let line = text.lines().find(|line| line.starts_with(&definition))?;
    Some(text.replacen(line, &format!("{definition}{value}"), 1))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Config {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tidegate.toml");
        Config::from_sources(Some(&file), std::collections::BTreeMap::new(), &[]).unwrap()
    }

    /// The file without comments and blanks: what it means to the broker.
    fn meaning(text: &str) -> Vec<String> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap().trim());
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn every_variable_is_replaced_and_nothing_else() {
        let text = configuration(&example(), (4223, 8223), "/tmp/x", None, Separation::Accounts).unwrap();
        assert!(text.contains("CLIENT_PORT = 4223\n") && text.contains("DATA_DIR = \"/tmp/x\"\n"));
        assert!(!text.contains("user: admin"));
    }

    #[test]
    fn nats_conf_grants_what_the_configuration_of_the_local_stack_needs() {
        let text = configuration(&example(), (4222, 8222), ".run/nats", None, Separation::Accounts).unwrap();
        let (ours, file) = (meaning(&text), meaning(NATS_CONF));
        let differing = ours.iter().zip(&file).find(|(ours, file)| ours != file);
        assert_eq!(differing, None, "`tidegate nats-config` prints the accounts for nats.conf");
        assert_eq!(ours.len(), file.len());
    }
}
