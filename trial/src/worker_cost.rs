//! Scenario `worker`: what a worker costs, beside the least that JetStream allows. One worker process with an empty handler, and a
//! bare loop of the NATS client that pulls, publishes and acknowledges, take turns on the same broker with the same requests.
//!
//! Requests are stored before a side begins. Both sides store an answer to each in TIDE_REPLY, and acknowledge it after that, with
//! the broker's confirmation. The rate is that of settled requests, without the first and the last tenth.

mod bare;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use tidegate_cli::{output, stack::Stack};
use tidegate_shared::{broker::Broker, topology};
use tokio::time::{sleep, timeout};

use self::bare::ROUTE as BARE_ROUTE;
use crate::{
    job::EMPTY_ROUTE,
    process::{self, ForeignCpu},
    report::Verdict,
    requests::{self, Kind, Requests},
    stats::median,
};

const CONFIG: &str = r#"
[streams]
reply_max_bytes = "512 MiB"

[[route]]
name = "empty"
match = "rpc.empty"
max_bytes = "256 MiB"

[[route]]
name = "bare"
match = "rpc.bare"
max_bytes = "256 MiB"
"#;
/// What is measured: requests with a key, for which the worker looks for an earlier answer and sends a live copy, and others.
const KEYED: Kind<'_> = Kind::Keyed("42");
const BODY: &[u8] = br#"{"sku":"a-7","quantity":3}"#;
/// The program of the worker.
const WORKER: &str = "tidegate-trial-worker";
const WORKER_NAME: &str = "worker-1";
/// The least share of the bare loop's rate that a worker should reach.
const TARGET: f64 = 0.6;
/// How many requests the bare loop settles at a time: the best of these counts.
const CONCURRENCIES: [usize; 3] = [64, 256, 1024];
/// The longest turn.
const LIMIT: Duration = Duration::from_mins(3);
const LOOK: Duration = Duration::from_millis(20);

/// The load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Requests of one turn where the broker acknowledges before it writes to the disk
    #[arg(long, default_value_t = 40_000)]
    requests: usize,
    /// Requests of one turn where the broker writes to the disk before it acknowledges
    #[arg(long, default_value_t = 10_000)]
    synced_requests: usize,
    /// How often each side takes its turn
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Measure a broker of this kind only
    #[arg(long)]
    only: Option<Durability>,
    /// The `concurrency` of the worker's route, instead of the default
    #[arg(long)]
    concurrency: Option<usize>,
}

/// When the broker acknowledges a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
enum Durability {
    /// When it has it in memory.
    Relaxed,
    /// When it is on the disk.
    Always,
}

/// The results.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerCost {
    brokers: Vec<OnBroker>,
}

/// The results on one broker.
#[derive(Debug, Serialize)]
struct OnBroker {
    durability: Durability,
    requests: usize,
    bare: Vec<Turn>,
    keyed: Vec<Turn>,
    kept: Vec<Turn>,
    foreign_cpu_percent: f64,
}

/// One turn of one side.
#[derive(Debug, Clone, Copy, Serialize)]
struct Turn {
    settled_per_second: f64,
    /// Processor time of the worker for each request, in microseconds. 0 for the bare loop, which is this program.
    worker_micros: f64,
    broker_micros: f64,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args) -> anyhow::Result<WorkerCost> {
    ensure!(args.turns > 0 && args.requests >= 1000 && args.synced_requests >= 1000, "too little to measure");
    let mut brokers = Vec::new();
    for durability in [Durability::Relaxed, Durability::Always] {
        if args.only.is_none_or(|only| only == durability) {
            brokers.push(Box::pin(on_broker(args, durability)).await?);
        }
    }
    Ok(WorkerCost { brokers })
}

async fn on_broker(args: &Args, durability: Durability) -> anyhow::Result<OnBroker> {
    let relaxed = durability == Durability::Relaxed;
    let requests = if relaxed { args.requests } else { args.synced_requests };
    let concurrency = args.concurrency.map(|most| format!("{CONFIG_EMPTY_END}concurrency = {most}\n"));
    let config =
        concurrency.map_or_else(|| CONFIG.to_owned(), |with| CONFIG.replacen(CONFIG_EMPTY_END, &with, 1));
    let builder = Stack::builder().config(&config).workers(1).worker_program(WORKER).relaxed(relaxed);
    let stack = builder.start().await.context("starting a stack")?;
    let field = Field { admin: stack.admin().await?, stack: &stack, requests };
    stack.stop(WORKER_NAME).await?;
    let pid = |name: &str| stack.pid(name).and_then(|pid| u32::try_from(pid).ok());
    let neighbours = ForeignCpu::watch(
        ["nats", "purger"].into_iter().filter_map(pid).chain([std::process::id()]).collect(),
    )?;
    let mut results = OnBroker {
        durability,
        requests,
        bare: vec![],
        keyed: vec![],
        kept: vec![],
        foreign_cpu_percent: 0.0,
    };
    let mut best = None;
    for turn in 0..args.turns {
        output::note(format!("{durability:?}: turn {} of {}", turn + 1, args.turns));
        if best.is_none() {
            best = Some(field.tune().await?);
        }
        results.bare.push(field.bare(best.unwrap_or(CONCURRENCIES[0])).await?);
        results.keyed.push(field.worker(KEYED).await?);
        results.kept.push(field.worker(Kind::Kept).await?);
    }
    // The worker's own time is not in the list of those that belong to the measurement, because its process changes.
    results.foreign_cpu_percent = neighbours.percent()?;
    stack.down().await;
    Ok(results)
}

/// Where the configuration of the empty route goes on.
const CONFIG_EMPTY_END: &str = "match = \"rpc.empty\"\n";

/// One broker with its routes.
struct Field<'a> {
    stack: &'a Stack,
    admin: Broker,
    requests: usize,
}

impl Field<'_> {
    /// Finds out how many requests at a time suit the bare loop.
    async fn tune(&self) -> anyhow::Result<usize> {
        let mut best = (0.0, CONCURRENCIES[0]);
        for concurrency in CONCURRENCIES {
            let turn = self.bare(concurrency).await?;
            output::note(format!("  bare loop, {concurrency} at a time: {:.0}/s", turn.settled_per_second));
            if turn.settled_per_second > best.0 {
                best = (turn.settled_per_second, concurrency);
            }
        }
        Ok(best.1)
    }

    async fn bare(&self, concurrency: usize) -> anyhow::Result<Turn> {
        self.fill(BARE_ROUTE, KEYED).await?;
        let _working = bare::start(self.stack.config(), concurrency).await?;
        self.turn(BARE_ROUTE, None).await
    }

    async fn worker(&self, kind: Kind<'_>) -> anyhow::Result<Turn> {
        self.fill(EMPTY_ROUTE, kind).await?;
        self.stack.start_process(WORKER_NAME).await?;
        let turn = self.turn(EMPTY_ROUTE, Some(WORKER_NAME)).await?;
        self.stack.stop(WORKER_NAME).await?;
        Ok(turn)
    }

    /// Stores the requests of a turn, after what the one before has left is removed.
    async fn fill(&self, route: &str, kind: Kind<'_>) -> anyhow::Result<()> {
        let newest = self.admin.fill(topology::REPLY).await?.last_seq;
        self.admin.purge_below(topology::REPLY, newest + 1).await?;
        let requests = Requests::connect(self.stack.config()).await?;
        let all = (0..self.requests).map(|number| requests.of(route, kind, &number.to_string(), BODY));
        requests.store(all).await
    }

    /// Watches a side at work.
    async fn turn(&self, route: &str, worker: Option<&str>) -> anyhow::Result<Turn> {
        let stream = topology::request_stream(route);
        let pid = |name: &str| self.stack.pid(name).and_then(|pid| u32::try_from(pid).ok());
        let used = |pid: Option<u32>| pid.and_then(|pid| process::cpu(pid).ok()).unwrap_or_default();
        let (broker_pid, tenth) = (pid("nats"), self.requests / 10);
        let watched = async {
            let (mut first, mut last) = (None, None);
            loop {
                let progress = self.admin.progress(&stream, route).await?;
                let left = usize::try_from(progress.unacknowledged + progress.waiting)?;
                let settled = self.requests.saturating_sub(left);
                if settled >= tenth {
                    let now = (Instant::now(), settled, used(worker.and_then(pid)), used(broker_pid));
                    first.get_or_insert(now);
                    if settled <= self.requests - tenth {
                        last = Some(now);
                    }
                }
                if left == 0 {
                    return anyhow::Ok(first.zip(last));
                }
                sleep(LOOK).await;
            }
        };
        let watched = timeout(LIMIT, watched)
            .await
            .with_context(|| format!("{route}: not settled within {LIMIT:?}"))??;
        let (first, last) = watched.context("too few requests: nothing was seen of the work")?;
        let answers = requests::answers(&self.admin).await?;
        ensure!(answers == self.requests, "{answers} answers to {} requests are stored", self.requests);
        #[expect(clippy::cast_precision_loss, reason = "some thousands of requests")]
        let settled = (last.1 - first.1) as f64;
        ensure!(settled > 0.0, "too few requests: they were settled between two looks");
        let micros =
            |last: Duration, first: Duration| last.saturating_sub(first).as_secs_f64() * 1e6 / settled;
        Ok(Turn {
            settled_per_second: settled / (last.0 - first.0).as_secs_f64(),
            worker_micros: micros(last.2, first.2),
            broker_micros: micros(last.3, first.3),
        })
    }
}

impl Verdict for WorkerCost {
    /// Prints the table.
    fn print(&self) {
        for broker in &self.brokers {
            output::line(broker.table());
        }
    }
}

impl OnBroker {
    fn table(&self) -> String {
        let bare = middle(&self.bare, |turn| turn.settled_per_second);
        let mut lines = vec![format!(
            "worker, empty handler, broker {}: medians of {} turns of {} requests",
            match self.durability {
                Durability::Relaxed => "relaxed",
                Durability::Always => "sync_interval: always",
            },
            self.bare.len(),
            self.requests
        )];
        lines.push(format!(
            "  bare loop          {bare:8.0}/s   broker {:5.1} us each",
            middle(&self.bare, |turn| turn.broker_micros)
        ));
        for (name, turns) in [("with a key", &self.keyed), ("without a key", &self.kept)] {
            let rate = middle(turns, |turn| turn.settled_per_second);
            let share = rate / bare;
            let word = if share >= TARGET { "PASS" } else { "MISSED" };
            lines.push(format!(
                "  worker, {name:<13} {rate:6.0}/s   broker {:5.1} us, worker {:5.1} us each: {share:.2} of the bare loop  {word} (target >= {TARGET})",
                middle(turns, |turn| turn.broker_micros),
                middle(turns, |turn| turn.worker_micros),
            ));
        }
        lines.push(process::foreign_line(self.foreign_cpu_percent));
        lines.join("\n")
    }
}

fn middle(turns: &[Turn], figure: impl Fn(&Turn) -> f64) -> f64 {
    median(turns.iter().map(figure)).unwrap_or_default()
}
