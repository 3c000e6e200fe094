//! Scenario `deploys`: rolling deploys in the middle of long requests. Each worker in turn is stopped with SIGTERM and started
//! again. Requests have one attempt: one that a deploy costs an attempt becomes a dead letter.

use std::time::Duration;

use anyhow::Context;
use rand::Rng;
use serde::Serialize;
use tidegate_cli::{output, stack::Stack};
use tidegate_shared::{broker::Broker, topology};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    job::{LONG_ROUTE, Long},
    report::Verdict,
    requests::{self, Kind, Requests},
};

/// Most requests take longer than a worker may drain.
const CONFIG: &str = r#"
[worker]
ack_wait = "5s"
drain = "2s"

[[route]]
name = "long"
match = "rpc.long"
max_attempts = 1
concurrency = 16
timeout = "1m"
"#;
const WORKER: &str = "tidegate-trial-worker";
const WORKERS: usize = 3;
/// How long a request takes, in milliseconds.
const WORK_MS: std::ops::Range<u64> = 500..15_000;
/// How many requests are unanswered at a time: somewhat more than all workers run.
const OPEN: usize = 60;
/// How long each worker is left alone between two deploys.
const CALM: Duration = Duration::from_secs(2);
/// How long the last requests may take.
const END_LIMIT: Duration = Duration::from_mins(3);
const LOOK: Duration = Duration::from_millis(100);

/// The size of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How often every worker is replaced
    #[arg(long, default_value_t = 10)]
    count: usize,
}

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct DeploysResult {
    deploys: usize,
    requests: usize,
    /// Workers that did not end by themselves with code 0.
    failed_ends: usize,
    answers: usize,
    /// Requests that a deploy has cost an attempt.
    lost_attempts: usize,
    dead_letters: u64,
    seconds: f64,
}

impl Verdict for DeploysResult {
    /// Whether every request is answered in its first attempt.
    fn adds_up(&self) -> bool {
        self.answers == self.requests
            && self.failed_ends == 0
            && self.lost_attempts == 0
            && self.dead_letters == 0
    }

    fn print(&self) {
        let lines = [
            format!(
                "deploys: {} of {WORKERS} workers each, in the middle of requests of up to {} s, {:.0} s",
                self.deploys,
                WORK_MS.end / 1000,
                self.seconds
            ),
            format!("  stored answers  {} of {}", self.answers, self.requests),
            format!("  dead letters    {}", self.dead_letters),
            format!(
                "  lost attempts   {}, workers that ended badly {}",
                self.lost_attempts, self.failed_ends
            ),
            format!("  {}", if self.adds_up() { "PASS" } else { "FAIL" }),
        ];
        for line in lines {
            output::line(line);
        }
    }
}

/// Runs the scenario on a stack of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<DeploysResult> {
    let builder = Stack::builder().config(CONFIG).workers(WORKERS).worker_program(WORKER);
    let stack = builder.start().await.context("starting a stack")?;
    let (admin, begun) = (stack.admin().await?, Instant::now());
    let requests = Requests::connect(stack.config()).await?;
    let mut load = Load { requests: &requests, admin: &admin, stored: 0 };
    let mut deploys = Box::pin(deploy(&stack, args.count));
    let failed_ends = loop {
        load.fill_up().await?;
        tokio::select! {
            ended = &mut deploys => break ended?,
            () = sleep(LOOK) => {}
        }
    };
    output::note("deploys: no more of them, waiting for the last answers");
    let stored = load.stored;
    let answered = async {
        while requests::answers(&admin).await? < stored {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    // What is missing is in the result.
    timeout(END_LIMIT, answered).await.unwrap_or(Ok(()))?;
    let result = DeploysResult {
        deploys: args.count,
        requests: stored,
        failed_ends,
        answers: requests::answers(&admin).await?,
        lost_attempts: requests::each_answer(&admin, stack.config(), |answer| answer.attempt > 0).await?,
        dead_letters: admin.fill(topology::DEAD).await?.last_seq,
        seconds: begun.elapsed().as_secs_f64(),
    };
    stack.down().await;
    Ok(result)
}

/// Replaces every worker so often. Returns how many of them did not end with code 0.
async fn deploy(stack: &Stack, count: usize) -> anyhow::Result<usize> {
    let mut failed = 0;
    for deploy in 0..count {
        for number in 1..=WORKERS {
            sleep(CALM).await;
            let name = format!("worker-{number}");
            let end = stack.stop(&name).await?;
            failed += usize::from(!end.success());
            stack.start_process(&name).await?;
            stack.wait_ready(&name).await?;
        }
        output::note(format!("deploys: {} of {count}", deploy + 1));
    }
    Ok(failed)
}

/// Keeps so many requests unanswered.
struct Load<'a> {
    requests: &'a Requests,
    admin: &'a Broker,
    stored: usize,
}

impl Load<'_> {
    async fn fill_up(&mut self) -> anyhow::Result<()> {
        let open = self.stored.saturating_sub(requests::answers(self.admin).await?);
        let more = OPEN.saturating_sub(open);
        let bodies = (0..more).map(|_| Long { work_ms: rand::rng().random_range(WORK_MS) });
        let bodies = bodies.map(|body| serde_json::to_vec(&body)).collect::<Result<Vec<_>, _>>()?;
        let from = self.stored;
        let all = bodies
            .into_iter()
            .enumerate()
            .map(|(n, body)| self.requests.of(LONG_ROUTE, Kind::Kept, &(from + n).to_string(), body));
        self.requests.store(all).await?;
        self.stored += more;
        Ok(())
    }
}
