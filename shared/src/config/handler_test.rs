//! `[[test]]`: a request to a stock handler, and what has to come of it. `tidegate-worker test` runs them; no other program reads
//! them.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::unit;

/// One test. Texts that are JSON are compared as JSON.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerTest {
    /// What it shows, in a sentence.
    pub name: String,
    /// The route. Left out, the route that takes the method.
    #[serde(default)]
    pub route: Option<String>,
    /// The method of the call.
    #[serde(default)]
    pub method: Option<String>,
    /// The channel of a publication.
    #[serde(default)]
    pub channel: Option<String>,
    /// The authenticated user.
    #[serde(default)]
    pub user: Option<String>,
    /// How many attempts were begun before.
    #[serde(default)]
    pub attempt: u32,
    /// The request's body.
    #[serde(default)]
    pub body: String,
    /// Which database the statements of `sql` are for. Left out, the one that the route's `url` names.
    #[serde(default)]
    pub database: Option<TestDatabase>,
    /// Statements that prepare the database of `sql`.
    #[serde(default)]
    pub before: Vec<String>,
    /// What the back end of `webhook`, or the service of `forward`, is asked and answers, one after the other.
    #[serde(default)]
    pub receiver: Vec<Exchange>,
    /// What has to come of the request.
    pub expect: Expected,
}

/// A database that statements are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestDatabase {
    /// SQLite, which a test has.
    Sqlite,
    /// PostgreSQL, which no test has.
    Postgres,
}

/// One call of a back end: what has to be in it, and its response.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The HTTP method.
    #[serde(default)]
    pub method: Option<String>,
    /// Path and query, or the subject of a service.
    #[serde(default)]
    pub path: Option<String>,
    /// The body.
    #[serde(default)]
    pub body: Option<String>,
    /// Some of the headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The response's status.
    #[serde(default = "ok")]
    pub status: u16,
    /// The response's headers.
    #[serde(default)]
    pub response_headers: BTreeMap<String, String>,
    /// The response's body.
    #[serde(default)]
    pub response: String,
}

/// What has to come of a request: an answer, or one of the failures; and what is beside it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The answer.
    #[serde(default)]
    pub answer: Option<String>,
    /// The code of the error that the caller gets.
    #[serde(default)]
    pub error: Option<u32>,
    /// Its message.
    #[serde(default)]
    pub message: Option<String>,
    /// Words of the reason for a dead letter.
    #[serde(default)]
    pub dead: Option<String>,
    /// Words of the reason for the next attempt.
    #[serde(default)]
    pub retry: Option<String>,
    /// How long the request is put off for, without using an attempt.
    #[serde(default, with = "unit::optional_duration")]
    pub snooze: Option<Duration>,
    /// All publications.
    #[serde(default)]
    pub publications: Option<Vec<ExpectedPublication>>,
    /// What a query of the database of `sql` finds afterwards.
    #[serde(default)]
    pub query: Option<String>,
    /// Its rows: a list of objects as JSON.
    #[serde(default)]
    pub rows: Option<String>,
}

/// One publication.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedPublication {
    /// The channel.
    pub channel: String,
    /// The data.
    pub data: String,
    /// The tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Exchange {
    /// The response to a call that no test expects.
    pub fn unexpected() -> Self {
        Self {
            method: None,
            path: None,
            body: None,
            headers: BTreeMap::new(),
            status: 500,
            response_headers: BTreeMap::new(),
            response: "the test expects no further call".to_owned(),
        }
    }
}

fn ok() -> u16 {
    200
}
