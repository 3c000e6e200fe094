//! The rights as the `accounts` of nats.conf.

use std::fmt::{self, Display, Formatter, Write};

use super::{Access, Account, Answers, Kind};

/// The comment above the accounts.
const HEAD: &str = "\
# The streams are in the account TIDEGATE, which has no user. Each kind of program has an account of its own with one user, and
# imports the subjects that it needs from the accounts that serve them. So a reply subject, which NATS does not check, reaches
# nothing that the program could not publish to by itself. Within its account the user's permissions say the same once more, and
# which inbox is its own. JetStream's API has the name `tide.js` in these accounts: the server keeps `$JS.API` for itself.
#
# `tidegate nats-config` prints this part for a configuration: some lines name a namespace or a route.
";

/// The user of the streams' own account. Only brokers of tests have it.
pub const ADMIN: &str = "admin";

/// About how long a line of subjects is.
const LINE: usize = 110;

impl Access {
    /// Returns the `accounts` of nats.conf for this configuration. Passwords are variables.
    pub fn nats_conf(&self) -> String {
        let mut text = HEAD.replace("`tide.js`", &format!("`{}.js`", self.prefix));
        text.push_str("accounts {\n");
        text.push_str(&self.store());
        for account in Account::USERS {
            text.push('\n');
            text.push_str(&self.account(account));
        }
        text.push_str("\n  # The broker's own account.\n  SYS { }\n}\nsystem_account: SYS\n");
        text
    }

    /// The same with a user of the streams' own account, who may do everything there. For brokers of tests alone.
    pub fn nats_conf_with_admin(&self, password: &str) -> String {
        let user = format!("users: [ {{ user: {ADMIN}, password: {} }} ]", quoted(password));
        self.nats_conf().replacen("jetstream: enabled\n", &format!("jetstream: enabled\n    {user}\n"), 1)
    }

    fn store(&self) -> String {
        let exports = self.exports(Account::Store);
        format!(
            "  {} {{\n    jetstream: enabled\n{}  }}\n",
            Account::Store.name(),
            list(4, "exports", &exports)
        )
    }

    fn account(&self, account: Account) -> String {
        let mut text = format!("  {} {{\n", account.name());
        let calls_api = self.rights(account).any(|right| right.subject.starts_with("$JS.API."));
        if calls_api {
            let prefix = &self.prefix;
            let _ = writeln!(text, "    mappings: {{ \"$JS.API.>\": \"{prefix}.js.>\" }}");
        }
        let exports = self.exports(account);
        if !exports.is_empty() {
            text.push_str(&list(4, "exports", &exports));
        }
        text.push_str(&list(4, "imports", &self.imports(account)));
        text.push_str(&self.user(account));
        text.push_str("  }\n");
        text
    }

    fn exports(&self, account: Account) -> Vec<String> {
        let served = self.served(account).into_iter().map(|(subject, callers, answers)| {
            let (subject, callers) = (quoted(&subject), names(&callers));
            format!("{{ service: {subject}, accounts: {callers}{answers} }}")
        });
        let heard = self.heard(account).into_iter().map(|(subject, listeners)| {
            format!("{{ stream: {}, accounts: {} }}", quoted(&subject), names(&listeners))
        });
        served.chain(heard).collect()
    }

    /// One line for each import, and a comment above those that have another purpose than the line before.
    fn imports(&self, account: Account) -> Vec<String> {
        let (mut lines, mut said) = (Vec::new(), "");
        for right in self.rights(account) {
            let takers: &[Account] = match &right.kind {
                Kind::Call(takers, _) => takers,
                Kind::Hear => &[Account::Store],
                Kind::Talk | Kind::Barrier | Kind::Tell(..) | Kind::Confirm(_) => continue,
            };
            if right.why != said {
                lines.push(format!("# {}", right.why));
                said = right.why;
            }
            let kind = if right.kind == Kind::Hear { "stream" } else { "service" };
            let local = self.local(&right.subject);
            let to = if local == right.subject { String::new() } else { format!(", to: {}", quoted(&local)) };
            for taker in takers {
                let (name, subject) = (taker.name(), quoted(&right.subject));
                lines.push(format!("{{ {kind}: {{ account: {name}, subject: {subject} }}{to} }}"));
            }
        }
        for (owner, right) in self.told(account) {
            if right.why != said {
                lines.push(format!("# {}: {}", owner.name(), right.why));
                said = right.why;
            }
            let (name, subject) = (owner.name(), quoted(&right.subject));
            let to = match &right.kind {
                Kind::Tell(_, on) => format!(", to: {}", quoted(on)),
                _ => String::new(),
            };
            lines.push(format!("{{ stream: {{ account: {name}, subject: {subject} }}{to} }}"));
        }
        lines
    }

    fn user(&self, account: Account) -> String {
        let Some((_, user)) = self.users.iter().find(|(owner, _)| *owner == account) else {
            return String::new();
        };
        let mut text = format!(
            "    users: [ {{ user: {}, password: ${}, permissions: {{\n",
            quoted(user),
            account.password_variable()
        );
        text.push_str("      publish: {\n");
        text.push_str(&list(8, "allow", &lines(&self.publishes(account))));
        text.push_str("      }\n      subscribe: {\n");
        text.push_str(&list(8, "allow", &lines(&self.subscribes(account))));
        text.push_str("      }\n");
        if self.responds(account) {
            text.push_str("      # It may answer requests, and nobody else.\n");
            text.push_str("      allow_responses: { max: 1, expires: \"10s\" }\n");
        }
        text.push_str("    } } ]\n");
        text
    }
}

impl Display for Answers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => Ok(()),
            Self::Many(forgotten) => {
                write!(f, ", response: stream, threshold: \"{}s\"", forgotten.as_secs())
            }
        }
    }
}

/// A named list, one entry a line.
fn list(indent: usize, name: &str, entries: &[String]) -> String {
    let space = " ".repeat(indent);
    let mut text = format!("{space}{name}: [\n");
    for entry in entries {
        let _ = writeln!(text, "{space}  {entry}");
    }
    let _ = writeln!(text, "{space}]");
    text
}

/// Several subjects a line, as many as fit.
fn lines(subjects: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for subject in subjects {
        match lines.last_mut() {
            Some(line) if line.len() + subject.len() < LINE => {
                let _ = write!(line, ", {}", quoted(subject));
            }
            _ => lines.push(quoted(subject)),
        }
    }
    lines
}

fn names(accounts: &[Account]) -> String {
    let names: Vec<&str> = accounts.iter().map(|account| account.name()).collect();
    format!("[ {} ]", names.join(", "))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
