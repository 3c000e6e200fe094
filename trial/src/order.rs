//! Scenario `order`: a route with a strict order, while workers are killed and come and go. Afterwards the effects of each key are
//! in the order of its requests, and no two workers have run one key at the same time.
//!
//! A request may run twice, the second time directly behind the first: its worker was killed.

mod check;

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use futures_util::future::try_join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use tidegate_cli::{
    output,
    stack::{Kind as Processes, Stack},
};
use tidegate_shared::{broker::Broker, topology};
use tokio::time::{Instant, sleep};

use self::check::Checked;
use crate::{
    job::{InOrder, ORDER_ROUTE, RUNS_FILE},
    report::Verdict,
    requests::{self, Kind, Requests},
};

const CONFIG: &str = r#"
[worker]
ack_wait = "2s"

[[route]]
name = "order"
match = "rpc.order"
order = "strict"
partitions = 16
"#;
const WORKER: &str = "tidegate-trial-worker";
/// How many workers there are at least and at most. Each change is one of the faults.
const WORKERS: (usize, usize) = (2, 4);
/// The limit for each request, and for each fault, which costs some groups `ack_wait`.
const LIMIT_EACH: Duration = Duration::from_millis(50);
const LIMIT_FAULT: Duration = Duration::from_secs(10);
const LIMIT_LEAST: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(20);

/// The size of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[arg(long, default_value_t = 50)]
    keys: usize,
    /// Requests, spread evenly over the keys
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// How often a worker is killed with SIGKILL; between two of these the number of workers changes
    #[arg(long, default_value_t = 30)]
    kills: usize,
    /// Which workers are killed, to repeat an earlier run; random if left out
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the recorded runs
    #[arg(long)]
    keep: bool,
}

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct OrderResult {
    keys: usize,
    count: usize,
    kills: usize,
    seed: u64,
    seconds: f64,
    answers: usize,
    dead_letters: u64,
    #[serde(flatten)]
    checked: Checked,
    kept: Option<PathBuf>,
}

impl Verdict for OrderResult {
    /// Whether everything is answered, in order, and one at a time.
    fn adds_up(&self) -> bool {
        self.answers == self.count
            && self.dead_letters == 0
            && self.checked.effects >= self.count
            && self.checked.disorder.is_empty()
            && self.checked.at_once.is_empty()
    }

    fn print(&self) {
        let mut lines = vec![
            format!(
                "order: {} requests of {} keys, {} x kill -9 of a worker and as many changes of their number, seed {}, {:.0} s",
                self.count, self.keys, self.kills, self.seed, self.seconds
            ),
            format!("  stored answers        {}, dead letters {}", self.answers, self.dead_letters),
            format!(
                "  effects               {}, of them repeated {}",
                self.checked.effects, self.checked.repeated
            ),
            format!("  out of order          {}", self.checked.disorder.len()),
            format!("  a key at two workers  {}", self.checked.at_once.len()),
        ];
        let wrong = self.checked.disorder.iter().chain(&self.checked.at_once);
        lines.extend(wrong.take(20).map(|line| format!("    {line}")));
        if let Some(kept) = &self.kept {
            lines.push(format!("  the recorded runs are in {}", kept.display()));
        }
        lines.push(format!("  {}", if self.adds_up() { "PASS" } else { "FAIL" }));
        for line in lines {
            output::line(line);
        }
    }
}

/// Runs the scenario on a stack of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<OrderResult> {
    ensure!(args.keys > 0 && args.count >= args.keys, "--count must be at least --keys");
    let scratch = tempfile::tempdir().context("creating a directory")?;
    let file = scratch.path().join("runs");
    let builder = Stack::builder().config(CONFIG).workers(WORKERS.0).worker_program(WORKER);
    let builder = builder.variable("worker", RUNS_FILE, file.display().to_string());
    let stack = builder.start().await.context("starting a stack")?;
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let count = args.count / args.keys * args.keys;
    let (admin, begun) = (stack.admin().await?, Instant::now());
    let field = Field { stack: &stack, admin: &admin, file: &file, count };
    let requests = Requests::connect(stack.config()).await?;
    let ((), ()) = tokio::try_join!(load(&requests, args.keys, count, seed), field.strike(args.kills, seed))?;
    let seconds = begun.elapsed().as_secs_f64();
    let text = std::fs::read_to_string(&file).context("reading the recorded runs")?;
    let mut result = OrderResult {
        keys: args.keys,
        count,
        kills: args.kills,
        seed,
        seconds,
        answers: requests::answers(&admin).await?,
        dead_letters: admin.fill(topology::DEAD).await?.last_seq,
        checked: check::check(&text, count / args.keys)?,
        kept: None,
    };
    stack.down().await;
    if args.keep || !result.adds_up() {
        result.kept = Some(scratch.keep().join("runs"));
    }
    Ok(result)
}

/// Stores the requests of each key one after the other.
async fn load(requests: &Requests, keys: usize, count: usize, seed: u64) -> anyhow::Result<()> {
    let of_key = async |key: usize| -> anyhow::Result<()> {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(key as u64));
        let key = format!("k{key}");
        for n in 0..(count / keys) as u64 {
            let body = InOrder { key: key.clone(), n, work_ms: random.random_range(0..8) };
            let body = serde_json::to_vec(&body)?;
            requests
                .store(std::iter::once(requests.of(ORDER_ROUTE, Kind::Keyed(&key), &n.to_string(), body)))
                .await?;
        }
        Ok(())
    };
    try_join_all((0..keys).map(of_key)).await.map(drop)
}

/// What faults happen to.
struct Field<'a> {
    stack: &'a Stack,
    admin: &'a Broker,
    file: &'a Path,
    count: usize,
}

impl Field<'_> {
    /// Kills a worker or changes their number whenever some more requests are answered, and waits for the rest.
    async fn strike(&self, kills: usize, seed: u64) -> anyhow::Result<()> {
        let faults = 2 * kills;
        let limit =
            LIMIT_LEAST + LIMIT_EACH * u32::try_from(self.count)? + LIMIT_FAULT * u32::try_from(faults)?;
        let deadline = Instant::now() + limit;
        let (mut random, mut workers) = (StdRng::seed_from_u64(seed), WORKERS.0);
        for fault in 0..faults {
            self.until((fault + 1) * self.count / (faults + 1), deadline).await?;
            if fault % 2 == 0 {
                self.kill(random.random_range(1..=workers)).await?;
            } else {
                workers = random.random_range(WORKERS.0..=WORKERS.1);
                output::note(format!("order: {workers} workers"));
                self.stack.scale(Processes::Worker, workers).await?;
            }
        }
        self.until(self.count, deadline).await
    }

    /// Kills a worker, and notes that what it ran has ended.
    async fn kill(&self, number: usize) -> anyhow::Result<()> {
        let name = format!("worker-{number}");
        self.stack.wait_ready(&name).await?;
        let pid = self.stack.pid(&name).ok_or_else(|| anyhow!("{name} does not run"))?;
        output::note(format!("order: kill -9 {name}"));
        self.stack.kill(&name).await?;
        let mut file = OpenOptions::new().create(true).append(true).open(self.file)?;
        Ok(file.write_all(format!("k - 0 {pid}\n").as_bytes())?)
    }

    async fn until(&self, wanted: usize, deadline: Instant) -> anyhow::Result<()> {
        loop {
            let answered = requests::answers(self.admin).await?;
            if answered >= wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{answered} of {} requests are answered in time", self.count);
            sleep(LOOK).await;
        }
    }
}
