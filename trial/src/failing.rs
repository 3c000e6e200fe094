//! Scenario `failing`: what a thousand requests that fail for ever cost the healthy ones of the same route. Both sides take turns
//! on one stack: round trips at a fixed rate with the failing requests, and without.
//!
//! What counts begins when each of them has failed once. Before that they are a thousand requests that wait in front of the
//! healthy ones, as any others would be; those seconds have a line of their own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde::Serialize;
use tidegate_cli::{output, stack::Stack};
use tidegate_shared::{broker::Broker, topology};
use tokio::time::sleep;

use crate::{
    job::{FAILS, MIXED_ROUTE},
    open_loop::{self, SliceResult},
    process::{self, ForeignCpu},
    report::Verdict,
    request_path::RequestPath,
    requests::{Kind, Requests},
    stats::{Failures, Percentiles, Series, median},
    target::Target,
};

/// Each of them comes back every 10 to 20 seconds.
const CONFIG: &str = r#"
[[route]]
name = "mixed"
match = "rpc.mixed"
max_attempts = 1000
backoff = { base = "20s", cap = "20s" }
"#;
const WORKER: &str = "tidegate-trial-worker";
/// The most that the 99th percentile may grow.
const TARGET: f64 = 1.5;
/// Round trips before anything counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long the first attempts of the failing requests are watched.
const FIRST: Duration = Duration::from_secs(5);
/// How long the failing requests may take to have failed once, and to be gone.
const LIMIT: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(100);

/// The load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Requests that fail for ever
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Healthy requests a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long one side is measured before the other takes its turn
    #[arg(long, default_value = "40s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How often each side takes its turn
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Connections that take turns at asking
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Let the broker acknowledge before it writes to the disk
    #[arg(long)]
    relaxed: bool,
}

/// The results.
#[derive(Debug, Serialize)]
pub(crate) struct Failing {
    count: usize,
    rate: u32,
    relaxed: bool,
    turns: Vec<Turn>,
    without: Percentiles,
    /// While the failing requests have their first attempts.
    first: Percentiles,
    with: Percentiles,
    ratio_p99: f64,
    failures: Failures,
    foreign_cpu_percent: f64,
}

/// The times of one turn of each side.
#[derive(Debug, Clone, Copy, Serialize)]
struct Turn {
    without: Percentiles,
    with: Percentiles,
}

impl Verdict for Failing {
    /// Whether every healthy request was answered. A missed target fails no run: the machine may be busy.
    fn adds_up(&self) -> bool {
        self.failures.total() == 0
    }

    fn print(&self) {
        let word = if self.ratio_p99 <= TARGET { "PASS" } else { "MISSED" };
        let mut lines = vec![
            format!(
                "failing: {} requests that fail for ever beside {} healthy ones a second, {} turns of each side, broker {}",
                self.count,
                self.rate,
                self.turns.len(),
                if self.relaxed { "relaxed" } else { "sync_interval: always" }
            ),
            format!("  without them    {}", self.without),
            format!("  with them       {}", self.with),
            format!("  first attempts  {} (the first {} s, which do not count)", self.first, FIRST.as_secs()),
            format!(
                "  ratio p99       {:.2}x  {word} (target <= {TARGET}x, median of the turns)",
                self.ratio_p99
            ),
            format!("  not answered    {}", self.failures.total()),
        ];
        lines.extend(self.failures.lines().map(|line| format!("    {line}")));
        lines.push(process::foreign_line(self.foreign_cpu_percent));
        for line in lines {
            output::line(line);
        }
    }
}

/// Runs the scenario on a stack of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<Failing> {
    ensure!(args.rate > 0 && args.connections > 0 && args.turns > 0, "nothing to measure");
    let builder = Stack::builder().config(CONFIG).gateways(1).workers(1).worker_program(WORKER);
    let target = Target::of(builder.relaxed(args.relaxed)).await?;
    let stack = target.stack();
    let mut clients = Vec::new();
    for number in 0..args.connections {
        clients.push(target.connect(number).await?);
    }
    let way = Arc::new(RequestPath::Server { clients, method: MIXED_ROUTE.to_owned() });
    let requests = Requests::connect(stack.config()).await?;
    let mut sides = Sides { args, way, admin: stack.admin().await?, requests, failures: Failures::default() };
    open_loop::slice(&sides.way, args.rate, WARM_UP).await?;
    let neighbours = ForeignCpu::watch(target.pids())?;
    let (mut without, mut first, mut with) = (Series::new()?, Series::new()?, Series::new()?);
    let mut turns = Vec::new();
    for turn in 0..args.turns {
        output::note(format!("failing: turn {} of {}", turn + 1, args.turns));
        let healthy = sides.measure(args.duration).await?;
        let (beginning, beside) = sides.beside().await?;
        first.add(&beginning)?;
        turns.push(Turn { without: healthy.times(), with: beside.times() });
        without.add(&healthy)?;
        with.add(&beside)?;
    }
    let foreign_cpu_percent = neighbours.percent()?;
    let failures = sides.failures;
    target.end().await;
    Ok(Failing {
        count: args.count,
        rate: args.rate,
        relaxed: args.relaxed,
        ratio_p99: median(turns.iter().map(|turn| turn.with.p99 / turn.without.p99)).unwrap_or_default(),
        turns,
        without: without.times(),
        first: first.times(),
        with: with.times(),
        failures,
        foreign_cpu_percent,
    })
}

/// The two sides.
struct Sides<'a> {
    args: &'a Args,
    way: Arc<RequestPath>,
    admin: Broker,
    requests: Requests,
    failures: Failures,
}

impl Sides<'_> {
    async fn measure(&mut self, duration: Duration) -> anyhow::Result<Series> {
        let SliceResult { series, failures, .. } =
            open_loop::slice(&self.way, self.args.rate, duration).await?;
        self.failures.add(failures);
        Ok(series)
    }

    /// Measures while requests fail: their first attempts, and what follows. Afterwards they are gone.
    async fn beside(&mut self) -> anyhow::Result<(Series, Series)> {
        let failing =
            (0..self.args.count).map(|n| self.requests.of(MIXED_ROUTE, Kind::Kept, &n.to_string(), FAILS));
        self.requests.store(failing).await?;
        let first = self.measure(FIRST).await?;
        let deadline = Instant::now() + LIMIT;
        while self.left().await? > 0 {
            ensure!(Instant::now() < deadline, "not every failing request has failed once after {LIMIT:?}");
            sleep(LOOK).await;
        }
        let beside = self.measure(self.args.duration).await?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let parked = self.admin.fill(topology::PARK).await?;
            self.admin.purge_below(topology::PARK, parked.last_seq + 1).await?;
            let parked = self.admin.fill(topology::PARK).await?;
            if parked.last_seq + 1 == parked.first_seq && self.left().await? == 0 {
                return Ok((first, beside));
            }
            ensure!(Instant::now() < deadline, "the failing requests do not go within {LIMIT:?}");
            sleep(LOOK).await;
        }
    }

    /// Requests that wait to be run, or run.
    async fn left(&self) -> anyhow::Result<u64> {
        let mut left = 0;
        for stream in [topology::request_stream(MIXED_ROUTE), topology::PARK.to_owned()] {
            let progress = self.admin.progress(&stream, MIXED_ROUTE).await?;
            left += progress.unacknowledged + progress.waiting;
        }
        Ok(left)
    }
}
