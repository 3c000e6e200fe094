//! One test: makes ready what the handler needs, runs it in memory, and compares.

use tempfile::TempDir;
use tidegate_shared::config::{
    Config, Expected, HandlerTest, Match, Route, Secret, TestDatabase, UNKNOWN_DATABASE,
};
use tidegate_worker::{
    Answer, Failure, Misconfigured,
    testing::{self, TestJob},
};

use super::{compare, receiver::Receiver};
use crate::handlers::{self, Database};

/// How a test ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    /// What differs.
    Failed(Vec<String>),
    /// Why it cannot be tried.
    Skipped(String),
}

/// Runs a test. An error means that the configuration cannot be used.
pub(super) async fn run(config: &Config, test: &HandlerTest) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let mut route = route_of(config, test)?.clone();
    let job = job(test, &route);
    let receiver = match &mut route.webhook {
        Some(webhook) => {
            let receiver = Receiver::start(&test.receiver).await?;
            webhook.url = at(&webhook.url, &receiver.address);
            webhook.allow.push("127.0.0.0/8".to_owned());
            Some(receiver)
        }
        None => None,
    };
    let mut database = None;
    if let Some(sql) = &mut route.sql {
        if let Some(why) = not_sqlite(test, sql.url.expose()) {
            return Ok(Outcome::Skipped(why.to_owned()));
        }
        let url = format!("sqlite:{}", dir.path().join("test.db").display());
        sql.url = Secret::new(url.as_str());
        database = Some(url);
    }
    if route.handler.as_deref() == Some("forward") {
        return Ok(Outcome::Skipped("its service is behind NATS, which tests have not".to_owned()));
    }
    let result = call(config, route, job, (test, database.as_deref(), &dir)).await?;
    let mut differences = receiver.map(|receiver| receiver.differences()).unwrap_or_default();
    outcome(&test.expect, &result, &mut differences);
    if let (Some(url), Some(query)) = (&database, &test.expect.query) {
        let rows = Database::open(url).await?.rows(query).await;
        let rows = rows.map_err(|error| wrong(test, &format!("expect.query: {error}")))?;
        compare::optional("rows", test.expect.rows.as_deref(), &rows, &mut differences);
    }
    Ok(if differences.is_empty() { Outcome::Passed } else { Outcome::Failed(differences) })
}

/// Why the statements of a route cannot be tried in an SQLite. `None` if they can.
fn not_sqlite(test: &HandlerTest, url: &str) -> Option<&'static str> {
    match test.database {
        Some(TestDatabase::Sqlite) => None,
        None if url == UNKNOWN_DATABASE => Some(
            "its database is not known, because secrets are not read: if its statements are for SQLite, add database = \"sqlite\"",
        ),
        None if url.starts_with("sqlite:") => None,
        Some(TestDatabase::Postgres) | None => Some("its database is PostgreSQL, and tests have an SQLite"),
    }
}

/// Runs the handler of the route.
async fn call(
    config: &Config,
    route: Route,
    job: TestJob,
    (test, database, dir): (&HandlerTest, Option<&str>, &TempDir),
) -> anyhow::Result<Result<Answer, Failure>> {
    let mut config = Config { routes: vec![route], ..config.clone() };
    config.quakes.database = dir.path().join("quakes.db");
    let router = handlers::router(&config).await?;
    if let Some(url) = database {
        let database = Database::open(url).await?;
        for statement in &test.before {
            let run = database.run(statement).await;
            run.map_err(|error| wrong(test, &format!("before: {statement}: {error}")))?;
        }
    }
    Ok(router.call(job).await)
}

fn wrong(test: &HandlerTest, text: &str) -> Misconfigured {
    Misconfigured::new(format!("[[test]] {:?}: {text}", test.name))
}

/// The route of a test.
fn route_of<'a>(config: &'a Config, test: &HandlerTest) -> Result<&'a Route, Misconfigured> {
    let takes = |route: &&Route| match (&test.route, &route.matches) {
        (Some(name), _) => route.name == *name,
        (None, Match::Rpc(pattern)) => test.method.as_deref().is_some_and(|method| pattern.matches(method)),
        (None, Match::Publish(namespace)) => {
            test.channel.as_deref().and_then(|channel| channel.split(':').next()) == Some(namespace)
        }
        (None, Match::Send | Match::Hook(_)) => false,
    };
    let route = config.routes.iter().find(takes).ok_or_else(|| {
        wrong(test, "no [[route]] takes it: set `method` or `channel` to one that a route takes, or `route` to its name")
    })?;
    if route.handler.is_none() {
        return Err(wrong(test, &format!("the route {:?} has no stock handler to test", route.name)));
    }
    Ok(route)
}

fn job(test: &HandlerTest, route: &Route) -> TestJob {
    let mut job = match (&test.method, &test.channel) {
        (Some(method), _) => testing::job(method).matched_by(&route.matches.to_string()),
        (None, Some(channel)) => testing::publication(&route.name, channel),
        (None, None) => testing::message(&route.name),
    };
    if let Some(user) = &test.user {
        job = job.user(user);
    }
    job.route(&route.name).attempt(test.attempt).bytes(test.body.clone())
}

/// The address of a webhook with another host. Only path and query have fields.
fn at(url: &str, address: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find(['/', '?']).and_then(|begin| rest.get(begin..)).unwrap_or_default();
    format!("http://{address}{path}")
}

/// Compares what came of the request with what has to.
fn outcome(expect: &Expected, result: &Result<Answer, Failure>, differences: &mut Vec<String>) {
    let (wanted, found) = (wanted(expect), found(result));
    match result {
        Ok(answer) if wanted == "an answer" => {
            let body = String::from_utf8_lossy(&answer.body);
            compare::optional("answer", expect.answer.as_deref(), &body, differences);
            publications(expect, answer, differences);
        }
        Err(Failure::Reject { code, message, .. }) if expect.error == Some(*code) => {
            compare::optional("message", expect.message.as_deref(), message, differences);
        }
        Err(Failure::Dead { reason, .. }) if expect.dead.is_some() => {
            compare::contains("dead", expect.dead.as_deref().unwrap_or_default(), reason, differences);
        }
        Err(Failure::Retry { error, .. }) if expect.retry.is_some() => {
            let words = expect.retry.as_deref().unwrap_or_default();
            compare::contains("retry", words, &format!("{error:#}"), differences);
        }
        Err(Failure::Snooze { delay, .. }) if expect.snooze == Some(*delay) => {}
        _ => differences.push(compare::differs("outcome", &wanted, &found)),
    }
}

fn wanted(expect: &Expected) -> String {
    match expect {
        Expected { error: Some(code), .. } => format!("error {code}"),
        Expected { dead: Some(words), .. } => format!("a dead letter with {words:?}"),
        Expected { retry: Some(words), .. } => format!("the next attempt, because of {words:?}"),
        Expected { snooze: Some(time), .. } => format!("a snooze of {}", humantime::format_duration(*time)),
        _ => "an answer".to_owned(),
    }
}

fn found(result: &Result<Answer, Failure>) -> String {
    match result {
        Ok(answer) => format!("the answer {}", String::from_utf8_lossy(&answer.body)),
        Err(Failure::Reject { code, message, .. }) => format!("error {code}: {message}"),
        Err(Failure::Dead { reason, .. }) => format!("a dead letter: {reason}"),
        Err(Failure::Retry { error, .. }) => format!("the next attempt: {error:#}"),
        Err(Failure::Snooze { delay, .. }) => format!("a snooze of {}", humantime::format_duration(*delay)),
        Err(other) => format!("{other:?}"),
    }
}

fn publications(expect: &Expected, answer: &Answer, differences: &mut Vec<String>) {
    let Some(expected) = &expect.publications else { return };
    let (wanted, found) = (expected.len(), answer.publications.len());
    if wanted != found {
        let channels: Vec<_> = answer.publications.iter().map(|one| one.channel.as_str()).collect();
        let found = format!("{found}, in {channels:?}");
        differences.push(compare::differs("publications", &wanted.to_string(), &found));
    }
    for (place, (expected, found)) in expected.iter().zip(&answer.publications).enumerate() {
        let what = format!("publication {}", place + 1);
        compare::texts(&format!("{what}, channel"), &expected.channel, &found.channel, differences);
        let data = String::from_utf8_lossy(&found.data);
        compare::texts(&format!("{what}, data"), &expected.data, &data, differences);
        if expected.tags != found.tags {
            let (wanted, found) = (format!("{:?}", expected.tags), format!("{:?}", found.tags));
            differences.push(compare::differs(&format!("{what}, tags"), &wanted, &found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_has_the_receivers_host_and_its_own_path() {
        for (url, expected) in [
            ("https://shop.example.com/orders/{param.id}?a={user}", "http://a:1/orders/{param.id}?a={user}"),
            ("https://shop.example.com", "http://a:1"),
            ("http://shop.example.com:8080?x=1", "http://a:1?x=1"),
        ] {
            assert_eq!(at(url, "a:1"), expected);
        }
    }
}
