//! `tidegate demo`: replays an earthquake feed through a stack, kills processes meanwhile, and counts the results.
//!
//! Stations report earthquakes, workers store and publish them, subscribers receive them. The clients are ordinary ones: the
//! counts are what an application would see, and the rows of the database.

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
mod replay;
mod reports;
mod rows;
mod subscriber;
mod verdict;

/// The time limit of a run, which normally takes seconds.
const LIMIT: Duration = Duration::from_mins(2);
/// How long clients retry: less than the limit, so that missing answers are counted and named.
const PATIENCE: Duration = Duration::from_secs(80);
/// The configured `worker.ack_wait`: the delay before the requests of a killed worker are redelivered.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// Subscribers, spread over the gateways.
const LISTENERS: usize = 4;

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The feed: one earthquake a line.
    pub file: PathBuf,
    /// Whether a worker and a gateway are killed during the run.
    pub kills: bool,
    /// When the stack's files are kept.
    pub keep: KeepFiles,
}

/// When the files of a run are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepFiles {
    /// After every run.
    Always,
    /// After a failed run, to find its cause.
    Failed,
    /// After no run.
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
history_size = 100

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

/// One run against a running stack.
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
        let subscribers = self.subscribers(&urls)?;
        // On the gateway that is not killed: an answer on a personal channel is not sent again after a reconnect.
        let prober =
            self.subscriber("prober".to_owned(), urls.iter().take(1).cloned().collect(), Vec::new())?;
        for subscriber in subscribers.iter().chain([&prober]) {
            subscriber.ready(deadline).await.with_context(|| subscriber.user.clone())?;
        }
        let stations = self.stations(&urls)?;
        output::note(format!(
            "{} stations report {} earthquakes to 2 gateways and 2 workers, {} clients subscribe",
            stations.len(),
            self.plan.events(),
            subscribers.len()
        ));
        let victims = self.kills.then_some(self.stack);
        let replay = Replay::run(&self.plan, &stations, victims, deadline);
        let (replay, probed) = tokio::join!(replay, probe::run(&prober, deadline));
        let mut replay = replay?;
        delivery::publish_as_service(self.stack.config(), &subscribers, deadline).await?;
        if let Some(kill) = replay.last_kill {
            // Requests that a killed worker answered but did not acknowledge are redelivered now and may cause duplicates.
            sleep_until(kill + ACK_WAIT).await;
        }
        delivery::wait_for_deliveries(&self.plan, &subscribers).await;
        replay.requests.stray_replies =
            stations.iter().chain([&prober.session]).map(ReconnectingClient::stray_replies).sum();
        self.count(replay, probed, &prober, &subscribers).await
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

    fn subscriber(
        &self,
        user: String,
        urls: Vec<String>,
        channels: Vec<String>,
    ) -> anyhow::Result<DemoSubscriber> {
        let options = self.session(&user, urls, channels)?;
        Ok(DemoSubscriber::start(user, options))
    }

    /// Starts subscribers on every gateway, each to the alerts, the notices, and some of the largest networks.
    fn subscribers(&self, urls: &[String]) -> anyhow::Result<Vec<DemoSubscriber>> {
        let networks = self.plan.largest_networks();
        let subscriber = |number: usize| {
            let mut channels = vec![ALERTS.to_owned(), NOTICE.to_owned()];
            let own = networks.iter().skip(number % 2).step_by(2).take(3);
            channels.extend(own.map(|network| format!("quakes:{network}")));
            self.subscriber(format!("subscriber-{}", number + 1), rotated(urls, number / 2), channels)
        };
        (0..LISTENERS).map(subscriber).collect()
    }

    /// Starts the stations' sessions, spread over the gateways.
    fn stations(&self, urls: &[String]) -> anyhow::Result<Vec<ReconnectingClient>> {
        let stations = self.plan.stations.iter().enumerate().map(|(number, station)| {
            let options = self.session(&station.name, rotated(urls, number), Vec::new())?;
            // A station reads no events, so the receiver is dropped.
            Ok(ReconnectingClient::start(options).0)
        });
        stations.collect()
    }

    async fn count(
        &self,
        replay: Replay,
        mut probed: ProbeResults,
        prober: &DemoSubscriber,
        subscribers: &[DemoSubscriber],
    ) -> anyhow::Result<Counts> {
        let sent = self.plan.networks.values().flatten().cloned().collect();
        let rows = rows::count(&rows::ids(&self.database).await?, &sent, &replay.rows_expected);
        probed.counts.twice = probe::answers(prober).values().filter(|count| **count > 1).count();
        let mut requests = replay.requests;
        requests.failures.append(&mut probed.failures);
        let (deliveries, service) = delivery::count(&self.plan, subscribers);
        Ok(Counts {
            events: self.plan.events(),
            alerts_expected: self.plan.alerts.len(),
            kills: replay.kills,
            requests,
            rows,
            deliveries,
            service,
            probes: probed.counts,
            answer_ms: Latency::of(replay.elapsed)?,
            accept_ms: Latency::of(probed.accepted_after)?,
            replay_ms: replay.duration.as_millis().try_into()?,
        })
    }
}

/// Rotates the addresses.
fn rotated(urls: &[String], by: usize) -> Vec<String> {
    let mut urls = urls.to_vec();
    let by = by % urls.len().max(1);
    urls.rotate_left(by);
    urls
}
