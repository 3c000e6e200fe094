//! Scenario `storm`: a gateway with thousands of subscribers is killed during publications, and all reconnect to the other
//! one. Every subscriber must recover in time without a loss, and the broker's load must not grow with their number.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;
use tidegate_cli::{output, stack::Stack};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    process,
    publisher::Publisher,
    report::Verdict,
    scrape::{self, BrokerRequestCounts},
    stats::Percentiles,
    subscriber::{ReconnectBackoff, Segment, Subscriber, SubscriberStats},
};

const CONFIG: &str = r#"
[gateway.limits]
connections_per_address = 18000

[[namespace]]
name = "storm"
allow_subscribe = "authenticated"
history_size = 1000
"#;
/// Subscribers that are started at a time, and how long until the next: the storm is to come later.
const STARTED: usize = 50;
const START_PAUSE: Duration = Duration::from_millis(10);
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long everything is quiet before the kill, and goes on after the last has resumed.
const CALM: Duration = Duration::from_secs(2);
/// The interval of checks whether all subscribers are back.
const LOOK: Duration = Duration::from_millis(20);

/// The size and the time limit of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Subscribers of the gateway that is killed, spread evenly over the channels
    #[arg(long, default_value_t = 5000)]
    subscribers: usize,
    #[arg(long, default_value_t = 50)]
    channels: usize,
    /// Publications a second, over all channels
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Time limit for all subscribers to recover
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    limit: Duration,
}

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct StormResult {
    subscribers: usize,
    channels: usize,
    publications: usize,
    resumed: usize,
    not_recovered: usize,
    missing: usize,
    twice_or_out_of_order: usize,
    /// The time from the kill until the last subscriber resumed. `None` if not all resumed in time.
    last_resumed_ms: Option<u128>,
    limit_ms: u128,
    /// From the end of its connection to the reply that brings what was missed, in milliseconds.
    back: Percentiles,
    /// Stream reads for recoveries by the remaining gateway.
    recovery_reads: u64,
    /// All messages from the gateways to the broker meanwhile.
    broker_requests: u64,
}

/// Runs the scenario on a stack of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<StormResult> {
    ensure!(args.subscribers > 0 && args.channels > 0, "--subscribers and --channels must be positive");
    process::raise_descriptors()?;
    let stack = Stack::builder().config(CONFIG).gateways(2).start().await.context("starting a stack")?;
    let publisher = Publisher::connect(&stack, "storm", args.channels).await?;
    let (stats, done) = (Arc::new(SubscriberStats::new(args.subscribers)), CancellationToken::new());
    let subscribers = start(&stack, args, &stats, &done).await?;
    let over = CancellationToken::new();
    let storm = async {
        let storm = strike(&stack, args, &stats).await;
        over.cancel();
        storm
    };
    let (publications, storm) = tokio::join!(publisher.run(args.rate, over.cancelled()), storm);
    let StormMeasurement { last_resumed, recovery_reads, broker_requests } = storm?;
    publisher.settle(&stats, args.subscribers).await;
    done.cancel();
    let (missing, twice_or_out_of_order) = publisher.compare_all(subscribers).await?;
    let outcome = StormResult {
        subscribers: args.subscribers,
        channels: args.channels,
        publications,
        resumed: stats.resumed(),
        not_recovered: stats.not_recovered(),
        missing,
        twice_or_out_of_order,
        last_resumed_ms: last_resumed.map(|time| time.as_millis()),
        limit_ms: args.limit.as_millis(),
        back: stats.times()?,
        recovery_reads,
        broker_requests,
    };
    ensure!(!stack.log().contains("panicked"), "a process has panicked: {}", stack.log());
    stack.down().await;
    Ok(outcome)
}

/// Connects all subscribers to the first gateway.
async fn start(
    stack: &Stack,
    args: &Args,
    stats: &Arc<SubscriberStats>,
    done: &CancellationToken,
) -> anyhow::Result<JoinSet<(usize, Vec<Segment>)>> {
    let urls: Vec<String> = stack.gateways().into_iter().map(|gateway| gateway.websocket).collect();
    let mut subscribers = JoinSet::new();
    for number in 0..args.subscribers {
        let channel = number % args.channels;
        let subscriber = Subscriber {
            number,
            urls: urls.clone(),
            token: crate::subscriber::token(stack, number)?,
            channel: format!("storm:c{channel}"),
            backoff: ReconnectBackoff::SDK,
            stats: Arc::clone(stats),
        };
        let done = done.clone();
        subscribers.spawn(async move { (channel, subscriber.run(done).await) });
        if number % STARTED == 0 {
            sleep(START_PAUSE).await;
        }
    }
    let deadline = Instant::now() + START_LIMIT;
    while stats.begun() < args.subscribers {
        ensure!(Instant::now() < deadline, "{} of {} subscribed", stats.begun(), args.subscribers);
        sleep(LOOK).await;
    }
    Ok(subscribers)
}

struct StormMeasurement {
    last_resumed: Option<Duration>,
    recovery_reads: u64,
    broker_requests: u64,
}

/// Kills the first gateway and waits until all subscribers have resumed at the second.
async fn strike(stack: &Stack, args: &Args, stats: &SubscriberStats) -> anyhow::Result<StormMeasurement> {
    sleep(CALM).await;
    let second = stack.gateways().get(1).context("a stack with one gateway")?.internal;
    let before = BrokerRequestCounts::of(stack).await?;
    let start = Instant::now();
    stack.hold("gateway-1").await?;
    let back = || stats.resumed() + stats.not_recovered();
    while back() < args.subscribers && start.elapsed() < args.limit {
        sleep(LOOK).await;
    }
    let last_resumed = (back() >= args.subscribers).then(|| start.elapsed());
    let broker_requests = BrokerRequestCounts::of(stack).await?.since(&before);
    let recovery_reads = scrape::counter(second, "tidegate_gateway_recovery_reads_total ").await?;
    sleep(CALM).await;
    Ok(StormMeasurement { last_resumed, recovery_reads, broker_requests })
}

impl Verdict for StormResult {
    /// Whether all recovered in time without losses, duplicates or disorder.
    fn adds_up(&self) -> bool {
        self.publications > 0
            && self.last_resumed_ms.is_some()
            && self.resumed == self.subscribers
            && self.not_recovered + self.missing + self.twice_or_out_of_order == 0
    }

    fn print(&self) {
        let each = |count: u64| {
            #[expect(clippy::cast_precision_loss, reason = "some thousands")]
            let times = count as f64 / self.channels as f64;
            format!("{count}, {times:.1} a channel")
        };
        let last = self.last_resumed_ms.map_or("not all were".to_owned(), |ms| format!("{ms} ms"));
        let lines = [
            format!(
                "storm: {} subscribers on {} channels, their gateway killed",
                self.subscribers, self.channels
            ),
            format!("  publications       {}", self.publications),
            format!("  resumed            {}", self.resumed),
            format!("  not recovered      {}", self.not_recovered),
            format!("  missing            {}", self.missing),
            format!("  twice or disorder  {}", self.twice_or_out_of_order),
            format!("  all back after     {last} (limit {} ms)", self.limit_ms),
            format!("  each               {}", self.back),
            format!("  recovery reads     {}", each(self.recovery_reads)),
            format!("  broker requests    {}", each(self.broker_requests)),
            format!("  {}", if self.adds_up() { "PASS" } else { "FAIL" }),
        ];
        for line in lines {
            output::note(line);
        }
    }
}
