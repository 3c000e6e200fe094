//! `tidegate demo`: a real feed through a real system, with processes killed on the way, and everything counted.
//!
//! Stations report earthquakes, workers store and publish them, listeners hear them. Clients are ordinary ones: what is
//! counted is what an application would see, and the rows of the database.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until, timeout};

pub use self::verdict::Counts;
use self::{
    latency::Latency,
    plan::Plan,
    probe::ProbeResults,
    replay::Replay,
    subscriber::{ALERTS, DemoSubscriber, NOTICE},
};
use crate::{
    client::{Options as Connection, ReconnectOptions, ReconnectingClient},
    output,
    stack::Stack,
    token::connection_token,
};

mod delivery;
mod latency;
mod plan;
mod probe;
mod progress;
mod replay;
mod reports;
mod rows;
mod subscriber;
mod verdict;

/// A run takes seconds; one that takes this long has failed.
const LIMIT: Duration = Duration::from_mins(2);
/// How long clients ask for their answers: less than the limit, so that what is missing is counted and named.
const PATIENCE: Duration = Duration::from_secs(80);
/// The configured `worker.ack_wait`: how long the work of a killed worker lies still.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// Listeners, spread over the gateways.
const LISTENERS: usize = 4;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The feed: one earthquake a line.
    pub file: PathBuf,
    /// Whether a worker and a gateway are killed on the way.
    pub kills: bool,
    /// When the stack's files stay.
    pub keep: KeepFiles,
}

/// When a run's files stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepFiles {
    /// In any case.
    Always,
    /// When the run failed: they are what it takes to find out why.
    Failed,
    /// Not even then.
    Never,
}

/// Runs the demo once and returns what it counted.
pub async fn run(options: &Options) -> anyhow::Result<Counts> {
    let feed = tokio::fs::read_to_string(&options.file)
        .await
        .with_context(|| format!("reading {} (name another with --file)", options.file.display()))?;
    let plan = Plan::read(&feed).with_context(|| options.file.display().to_string())?;
    let dir = tempfile::Builder::new().prefix("tidegate-demo-").tempdir()?;
    let database = dir.path().join("quakes.db");
    let config = configuration(&database);
    let stack = Stack::builder().config(&config).dir(dir.path()).gateways(2).workers(2).start().await?;
    let demo = Demo { plan, stack: &stack, database, kills: options.kills };
    let counts = match timeout(LIMIT, demo.run()).await {
        Ok(counts) => counts,
        Err(_) => Err(anyhow::anyhow!("not finished within {} s", LIMIT.as_secs())),
    };
    stack.down().await;
    let passed = counts.as_ref().is_ok_and(|counts| counts.problems().is_empty());
    if options.keep == KeepFiles::Always || (options.keep == KeepFiles::Failed && !passed) {
        keep(dir);
    }
    counts
}

fn keep(dir: TempDir) {
    output::note(format!("files and logs: {}", dir.keep().display()));
}

fn configuration(database: &Path) -> String {
    format!(
        r#"
[worker]
ack_wait = "{}s"

[quakes]
database = "{}"

[[namespace]]
name = "quakes"

[[route]]
name = "quakes"
match = "rpc.quakes.report"
handler = "quakes"

[[route]]
name = "later"
match = "rpc.later.echo"
handler = "echo"
answer = "later"
"#,
        ACK_WAIT.as_secs(),
        database.display()
    )
}

/// One run against a stack that is up.
struct Demo<'a> {
    plan: Plan,
    stack: &'a Stack,
    database: PathBuf,
    kills: bool,
}

impl Demo<'_> {
    async fn run(self) -> anyhow::Result<Counts> {
        let deadline = Instant::now() + PATIENCE;
        let urls: Vec<String> = self.stack.gateways().into_iter().map(|gateway| gateway.websocket).collect();
        let listeners = self.listeners(&urls)?;
        // On the gateway that is not killed: an answer on a personal channel is not sent again to who comes back.
        let prober =
            self.listener("prober".to_owned(), urls.iter().take(1).cloned().collect(), Vec::new())?;
        for listener in listeners.iter().chain([&prober]) {
            listener.ready(deadline).await.with_context(|| listener.user.clone())?;
        }
        let stations = self.stations(&urls)?;
        output::note(format!(
            "{} stations report {} earthquakes to 2 gateways and 2 workers, {} clients listen",
            stations.len(),
            self.plan.events(),
            listeners.len()
        ));
        let victims = self.kills.then_some(self.stack);
        let replay = Replay::run(&self.plan, &stations, victims, deadline);
        let (replay, probed) = tokio::join!(replay, probe::run(&prober, deadline));
        let mut replay = replay?;
        delivery::speak_as_service(self.stack.config(), &listeners, deadline).await?;
        if let Some(kill) = replay.last_kill {
            // What a killed worker had answered but not acknowledged comes back now, and may say things again.
            sleep_until(kill + ACK_WAIT).await;
        }
        delivery::wait_for_the_last_words(&self.plan, &listeners).await;
        replay.requests.stray_replies =
            stations.iter().chain([&prober.session]).map(ReconnectingClient::stray_replies).sum();
        self.count(replay, probed, &prober, &listeners).await
    }

    fn session(
        &self,
        user: &str,
        urls: Vec<String>,
        channels: Vec<String>,
    ) -> anyhow::Result<ReconnectOptions> {
        let hour = Duration::from_hours(1);
        let token = connection_token(&self.stack.config().auth, user, hour, SystemTime::now())?;
        Ok(ReconnectOptions { connection: Connection::new("").token(token), urls, channels })
    }

    fn listener(
        &self,
        user: String,
        urls: Vec<String>,
        channels: Vec<String>,
    ) -> anyhow::Result<DemoSubscriber> {
        let options = self.session(&user, urls, channels)?;
        Ok(DemoSubscriber::start(user, options))
    }

    /// Listeners on every gateway, each with the alerts, the notices, and some of the largest networks.
    fn listeners(&self, urls: &[String]) -> anyhow::Result<Vec<DemoSubscriber>> {
        let networks = self.plan.largest_networks();
        let listener = |number: usize| {
            let mut channels = vec![ALERTS.to_owned(), NOTICE.to_owned()];
            let own = networks.iter().skip(number % 2).step_by(2).take(3);
            channels.extend(own.map(|network| format!("quakes:{network}")));
            self.listener(format!("listener-{}", number + 1), turned(urls, number / 2), channels)
        };
        (0..LISTENERS).map(listener).collect()
    }

    /// The stations' sessions, spread over the gateways.
    fn stations(&self, urls: &[String]) -> anyhow::Result<Vec<ReconnectingClient>> {
        let stations = self.plan.stations.iter().enumerate().map(|(number, station)| {
            let options = self.session(&station.name, turned(urls, number), Vec::new())?;
            // A station has no use for events: nobody reads them, so they are dropped as they come.
            Ok(ReconnectingClient::start(options).0)
        });
        stations.collect()
    }

    async fn count(
        &self,
        replay: Replay,
        mut probed: ProbeResults,
        prober: &DemoSubscriber,
        listeners: &[DemoSubscriber],
    ) -> anyhow::Result<Counts> {
        let sent = self.plan.networks.values().flatten().cloned().collect();
        let rows = rows::count(&rows::ids(&self.database).await?, &sent, &replay.must);
        probed.counts.twice = probe::answers(prober).values().filter(|count| **count > 1).count();
        let mut requests = replay.requests;
        requests.failures.append(&mut probed.failures);
        let (heard, service) = delivery::sum_up(&self.plan, listeners);
        Ok(Counts {
            events: self.plan.events(),
            alerts_expected: self.plan.alerts.len(),
            kills: replay.kills,
            requests,
            rows,
            heard,
            service,
            probes: probed.counts,
            answer_ms: Latency::of(replay.elapsed)?,
            accept_ms: Latency::of(probed.accepted_after)?,
            replay_ms: replay.duration.as_millis().try_into()?,
        })
    }
}

/// The addresses, beginning with another one.
fn turned(urls: &[String], by: usize) -> Vec<String> {
    let mut urls = urls.to_vec();
    let by = by % urls.len().max(1);
    urls.rotate_left(by);
    urls
}
