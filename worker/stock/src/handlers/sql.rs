//! `sql`: runs the statements of a route in one transaction. With `once`, the same transaction notes the request and its answer in
//! the table `tide_inbox`, so a request that comes again gets that answer and has no second effect.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde_json::Value;
use tidegate_shared::config::{self, Refusal, SqlAnswer};
use tidegate_worker::{Answer, Failure};

use self::{
    meaning::Trouble,
    postgres::Postgres,
    sqlite::Sqlite,
    statement::{Dialect, Statement},
};
use super::answer;
use crate::input::Input;

mod meaning;
mod migrations;
mod postgres;
pub(crate) mod sqlite;
mod statement;
mod transaction;

/// Connections of one route.
const CONNECTIONS: u32 = 8;
/// How often requests that are older than `keep` are removed from `tide_inbox`.
const PRUNING: Duration = Duration::from_mins(10);
/// The most rows of an answer.
const MOST_ROWS: usize = 10_000;

/// The database of one route, with its prepared statements.
#[derive(Debug)]
pub(crate) struct Sql {
    database: Database,
    settings: Settings,
    violation: Refusal,
    keep: Duration,
    pruned: Mutex<Option<Instant>>,
}

#[derive(Debug)]
enum Database {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// What both databases need to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    route: String,
    once: bool,
    answer: SqlAnswer,
    /// The longest answer. A longer one could not be stored.
    most_bytes: usize,
}

impl Settings {
    /// Whether the statement at this place is the one whose rows are the answer.
    fn has_rows(&self, place: usize, statements: usize) -> bool {
        place + 1 == statements && matches!(self.answer, SqlAnswer::Row | SqlAnswer::Rows)
    }
}

/// What is done when a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Run its migrations, prepare the statements, and work.
    Work,
    /// Try the same and undo it.
    Check,
}

/// One run: who asks, and the values of each statement's parameters.
pub(crate) struct Run {
    id: String,
    now: i64,
    values: Vec<Vec<Value>>,
}

impl Sql {
    /// Opens the database of a route. The error has the key that is wrong and the reason.
    pub(crate) async fn open(
        route: &config::Route,
        settings: &config::Sql,
        most_bytes: u64,
        purpose: Purpose,
    ) -> Result<Self, (String, String)> {
        let url = settings.url.expose();
        let dialect = match url.split_once(':') {
            Some(("sqlite", _)) => Dialect::Sqlite,
            Some(("postgres" | "postgresql", _)) => Dialect::Postgres,
            _ => return Err(("url".to_owned(), "begins with neither sqlite: nor postgres:".to_owned())),
        };
        let params = crate::input::params(&route.matches);
        let mut statements = Vec::new();
        for (place, text) in settings.statements.iter().enumerate() {
            let statement = Statement::parse(text, dialect, &params);
            statements.push(statement.map_err(|error| (format!("statements.{place}"), error))?);
        }
        let folder = settings.migrations.clone().unwrap_or_default();
        let migrations =
            if settings.migrations.is_some() { migrations::read(&folder).await? } else { Vec::new() };
        let shared = Settings {
            route: route.name.clone(),
            once: settings.once,
            answer: settings.answer,
            most_bytes: usize::try_from(most_bytes).unwrap_or(usize::MAX),
        };
        let database = match dialect {
            Dialect::Sqlite => {
                Database::Sqlite(Sqlite::open(url, &shared, statements, (&migrations, purpose)).await?)
            }
            Dialect::Postgres => {
                Database::Postgres(Postgres::open(url, &shared, statements, (&migrations, purpose)).await?)
            }
        };
        let (violation, keep) = (settings.violation, settings.keep);
        Ok(Self { database, settings: shared, violation, keep, pruned: Mutex::new(None) })
    }

    /// Runs the statements for one request, or returns the answer of an earlier run.
    pub(crate) async fn call(&self, input: Input) -> Result<Answer, Failure> {
        self.prune().await;
        let mut values = Vec::new();
        let (sqlite, postgres) = match &self.database {
            Database::Sqlite(sqlite) => (Some(sqlite), None),
            Database::Postgres(postgres) => (None, Some(postgres)),
        };
        let statements =
            sqlite.map(|sqlite| &sqlite.statements).or(postgres.map(|postgres| &postgres.statements));
        for statement in statements.into_iter().flatten() {
            values.push(statement.fields.iter().map(|field| input.value(field)).collect::<Result<_, _>>()?);
        }
        let run = Run { id: input.id, now: seconds(SystemTime::now()), values };
        let body = match &self.database {
            Database::Sqlite(sqlite) => sqlite.run(&self.settings, &run).await,
            Database::Postgres(postgres) => postgres.run(&self.settings, &run).await,
        };
        body.map(answer::plain).map_err(|trouble| trouble.failure(self.violation))
    }

    /// Removes old requests from `tide_inbox`, from time to time.
    async fn prune(&self) {
        let due = {
            let mut pruned = self.pruned.lock().unwrap_or_else(PoisonError::into_inner);
            let due = self.settings.once && pruned.is_none_or(|time| time.elapsed() > PRUNING);
            if due {
                *pruned = Some(Instant::now());
            }
            due
        };
        if !due {
            return;
        }
        let before = seconds(SystemTime::now()) - i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        let removed = match &self.database {
            Database::Sqlite(sqlite) => sqlite.prune(&self.settings.route, before).await,
            Database::Postgres(postgres) => postgres.prune(&self.settings.route, before).await,
        };
        match removed {
            Ok(0) => {}
            Ok(rows) => {
                tracing::debug!(route = self.settings.route, rows, "old requests removed from tide_inbox");
            }
            Err(error) => {
                tracing::warn!(route = self.settings.route, %error, "cannot remove old requests from tide_inbox");
            }
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

/// The answer that the objects of rows become.
fn of_rows(settings: &Settings, mut rows: Vec<String>, changed: u64) -> Result<Bytes, Trouble> {
    let body: Bytes = match settings.answer {
        SqlAnswer::None => Bytes::new(),
        SqlAnswer::Count => changed.to_string().into(),
        SqlAnswer::Row => if rows.is_empty() { "null".to_owned() } else { rows.swap_remove(0) }.into(),
        SqlAnswer::Rows if rows.len() > MOST_ROWS => {
            return Err(Trouble::Result(format!("the result has more than {MOST_ROWS} rows")));
        }
        SqlAnswer::Rows => format!("[{}]", rows.join(",")).into(),
    };
    if body.len() > settings.most_bytes {
        let most = settings.most_bytes;
        return Err(Trouble::Result(format!(
            "the result is longer than streams.answer_max_bytes, {most} bytes"
        )));
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
