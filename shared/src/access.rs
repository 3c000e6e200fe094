//! Who may do what at the broker. Pure: derived from the configuration.
//!
//! The streams are in an account of their own, which has no user. Every other account belongs to one kind of program and has one
//! user. It imports the subjects that the program needs and no others. That matters because a NATS server does not check reply
//! subjects: within one account, a request whose reply subject is another subject makes the server, or the program that answers,
//! publish there. A reply that crosses an import arrives in the account of the program that asked, where nothing but that
//! program's own imports are.
//!
//! `table` has the rights, `conf` writes them as the `accounts` of nats.conf, `probe` has harmless calls to try them with.

mod conf;
mod probe;
mod table;

use std::time::Duration;

pub use self::{conf::ADMIN, probe::Probe};
use crate::config::{Config, NatsUser};

/// An account of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// The streams.
    Store,
    /// Gateways.
    Gateway,
    /// Workers.
    Worker,
    /// The purger.
    Purger,
    /// Programs that publish to clients.
    Service,
    /// `tidegate apply`.
    Setup,
    /// People and tools that look at queues and dead letters.
    Ops,
}

/// How many answers a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answers {
    /// One, or none. The server forgets the call with the answer.
    One,
    /// Several. The server forgets the call when no answer came for this long: it cannot know which one is the last.
    Many(Duration),
}

/// What a right allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// To publish a message that these accounts take, and to receive their answers.
    Call(&'static [Account], Answers),
    /// To receive what is published in the account of the streams.
    Hear,
    /// To exchange messages with programs of the same account.
    Talk,
    /// To publish what this account hears, on another subject there. No stream takes it, and nobody has to be there.
    Tell(Account, String),
    /// To confirm on this subject, which is the account's inbox, what the account has told.
    Confirm(Account),
    /// To publish where nobody listens.
    Barrier,
}

/// One right of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The subject, as programs write it.
    pub subject: String,
    /// What it allows.
    pub kind: Kind,
    /// The subjects under `subject` that the user may use; empty for all.
    pub only: Vec<String>,
    /// What it is for.
    pub why: &'static str,
}

/// The rights of all accounts, for one configuration.
#[derive(Debug, Clone)]
pub struct Access {
    prefix: String,
    rights: Vec<(Account, Right)>,
    users: Vec<(Account, String)>,
}

impl Account {
    /// The accounts that have a user.
    pub const USERS: [Self; 6] =
        [Self::Gateway, Self::Worker, Self::Purger, Self::Service, Self::Setup, Self::Ops];

    /// The account's name at the broker.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "TIDEGATE",
            Self::Gateway => "TIDEGATE_GATEWAY",
            Self::Worker => "TIDEGATE_WORKER",
            Self::Purger => "TIDEGATE_PURGER",
            Self::Service => "TIDEGATE_SERVICE",
            Self::Setup => "TIDEGATE_SETUP",
            Self::Ops => "TIDEGATE_OPS",
        }
    }

    /// The account's user. The account of the streams has none.
    pub fn user(self, config: &Config) -> Option<&NatsUser> {
        let nats = &config.nats;
        match self {
            Self::Store => None,
            Self::Gateway => Some(&nats.gateway),
            Self::Worker => Some(&nats.worker),
            Self::Purger => Some(&nats.purger),
            Self::Service => Some(&nats.service),
            Self::Setup => Some(&nats.setup),
            Self::Ops => Some(&nats.ops),
        }
    }

    /// The variable of nats.conf that has the password of the account's user.
    pub const fn password_variable(self) -> &'static str {
        match self {
            Self::Store => "",
            Self::Gateway => "GATEWAY_PASSWORD",
            Self::Worker => "WORKER_PASSWORD",
            Self::Purger => "PURGER_PASSWORD",
            Self::Service => "SERVICE_PASSWORD",
            Self::Setup => "SETUP_PASSWORD",
            Self::Ops => "OPS_PASSWORD",
        }
    }
}

impl Access {
    /// Derives the rights from the configuration.
    pub fn of(config: &Config) -> Self {
        let user = |account: Account| Some((account, account.user(config)?.user.clone()));
        Self {
            prefix: config.nats.prefix.clone(),
            rights: table::rights(config),
            users: Account::USERS.into_iter().filter_map(user).collect(),
        }
    }

    /// The rights of one account.
    pub fn rights(&self, account: Account) -> impl Iterator<Item = &Right> {
        self.rights.iter().filter(move |(owner, _)| *owner == account).map(|(_, right)| right)
    }

    /// The subjects that the account's user may publish on, as the server checks them.
    pub fn publishes(&self, account: Account) -> Vec<String> {
        let mut subjects = Vec::new();
        let published = |right: &&Right| !matches!(right.kind, Kind::Hear | Kind::Confirm(_));
        for right in self.rights(account).filter(published) {
            if right.only.is_empty() {
                subjects.push(self.local(&right.subject));
            } else {
                subjects.extend(right.only.iter().map(|subject| self.local(subject)));
            }
        }
        subjects
    }

    /// The subjects that the account's user may subscribe to.
    pub fn subscribes(&self, account: Account) -> Vec<String> {
        let own = self.rights(account).filter(|right| matches!(right.kind, Kind::Hear | Kind::Talk));
        let mut subjects: Vec<String> = own.map(|right| right.subject.clone()).collect();
        let own_talk = subjects.clone();
        let served = self.served(account).into_iter().map(|(subject, ..)| subject);
        // What others call may be said within the account too.
        subjects.extend(served.filter(|subject| !own_talk.contains(subject)));
        let user = self.users.iter().find(|(owner, _)| *owner == account);
        subjects.extend(user.map(|(_, user)| format!("_INBOX_{user}.>")));
        subjects
    }

    /// Whether the account's user answers requests.
    fn responds(&self, account: Account) -> bool {
        let talks = self.rights(account).any(|right| right.kind == Kind::Talk);
        talks || !self.served(account).is_empty()
    }

    /// What other accounts may call in this one: the subjects, who may, and how many answers they get.
    fn served(&self, account: Account) -> Vec<(String, Vec<Account>, Answers)> {
        let mut served: Vec<(String, Vec<Account>, Answers)> = Vec::new();
        for (caller, right) in &self.rights {
            let Kind::Call(takers, answers) = &right.kind else { continue };
            if !takers.contains(&account) {
                continue;
            }
            match served.iter_mut().find(|(subject, ..)| *subject == right.subject) {
                Some((_, callers, most)) => {
                    callers.push(*caller);
                    *most = (*most).max(*answers);
                }
                None => served.push((right.subject.clone(), vec![*caller], *answers)),
            }
        }
        served
    }

    /// What others may receive of what is published in this account.
    fn heard(&self, account: Account) -> Vec<(String, Vec<Account>)> {
        let mut heard: Vec<(String, Vec<Account>)> = Vec::new();
        for (owner, right) in &self.rights {
            let listener = match right.kind {
                Kind::Hear if account == Account::Store => *owner,
                Kind::Tell(to, _) | Kind::Confirm(to) if *owner == account => to,
                _ => continue,
            };
            match heard.iter_mut().find(|(subject, _)| *subject == right.subject) {
                Some((_, listeners)) => listeners.push(listener),
                None => heard.push((right.subject.clone(), vec![listener])),
            }
        }
        heard
    }

    /// What this account receives from accounts with a user: the account and the right of each.
    fn told(&self, account: Account) -> impl Iterator<Item = &(Account, Right)> {
        let to = move |right: &Right| match right.kind {
            Kind::Tell(to, _) | Kind::Confirm(to) => to == account,
            _ => false,
        };
        self.rights.iter().filter(move |(_, right)| to(right))
    }

    /// The subject within an account. JetStream's API has another name there: its own belongs to the server, which would answer
    /// every call with "JetStream not enabled for account" before the account of the streams does.
    fn local(&self, subject: &str) -> String {
        match subject.strip_prefix("$JS.API.") {
            Some(call) => format!("{}.js.{call}", self.prefix),
            None => subject.to_owned(),
        }
    }
}
