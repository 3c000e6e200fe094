//! Examines a deployment: its settings, this machine, the broker, what each program may do there, and what the streams hold. Changes
//! nothing. Each finding that is not in order says what to do next.

use serde::Serialize;
use tidegate_shared::{
    access::Account,
    config::{Config, NatsUser, Role},
};

mod broker;
mod machine;
mod monitor;
mod settings;
mod streams;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// In order.
    Ok,
    /// It works, and may not go on working.
    Warning,
    /// Something does not work.
    Wrong,
}

/// What one check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, always the same.
    pub check: &'static str,
    /// How much it matters.
    pub grade: Grade,
    /// What was found, as a sentence.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What is examined.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// The address of the broker's monitoring, such as `127.0.0.1:8222`. Its settings show only there.
    pub monitor: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, found: found.into(), next: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warning, found: found.into(), next: Some(next.into()) }
    }

    fn wrong(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, grade: Grade::Wrong, found: found.into(), next: Some(next.into()) }
    }
}

/// Examines all that the reader of the configuration has the secrets for. Ends early where nothing behind a finding can be examined.
pub async fn examine(config: &Config, role: Role, subject: &Subject) -> Vec<Finding> {
    let mut findings = settings::examine(config, role);
    findings.extend(machine::examine(config, role));
    if let Some(address) = &subject.monitor {
        findings.extend(monitor::examine(config, address).await);
    }
    let mut reached = false;
    for user in users(config, role) {
        match broker::connect(config, &user).await {
            Ok(connected) => {
                if !reached {
                    findings.extend(broker::examine(&connected));
                }
                reached = true;
                findings.push(broker::rights(config, &user, &connected).await);
                if user.account == Account::Setup {
                    findings.extend(streams::examine(config, &connected).await);
                }
            }
            Err(finding) => {
                // Without a broker each user would say the same.
                let away = !reached && finding.check == "broker";
                findings.push(finding);
                if away {
                    return findings;
                }
            }
        }
    }
    findings
}

/// A user at the broker, and the name of its table under `[nats]`.
struct User<'a> {
    account: Account,
    key: &'static str,
    login: &'a NatsUser,
}

/// The users whose secrets this reader has. The one that reads the streams comes first.
fn users(config: &Config, role: Role) -> Vec<User<'_>> {
    let nats = &config.nats;
    let all = [
        (Role::Setup, Account::Setup, "setup", &nats.setup),
        (Role::Gateway, Account::Gateway, "gateway", &nats.gateway),
        (Role::Worker, Account::Worker, "worker", &nats.worker),
        (Role::Purger, Account::Purger, "purger", &nats.purger),
        (Role::Service, Account::Service, "service", &nats.service),
        (Role::Operator, Account::Ops, "ops", &nats.ops),
    ];
    let has = all.into_iter().filter(|(of, ..)| role == Role::All || role == *of);
    has.map(|(_, account, key, login)| User { account, key, login }).collect()
}
