//! `tidegate-trial-worker`: the worker of the scenarios `faults`, `order`, `deploys`, `failing` and `worker`. Its handlers record
//! every run, work, and fail on request; or do nothing, to measure what the worker itself costs.
//!
//! Handlers run at least once, so two runs of one request are no fault. Each run answers with a number of its own: two
//! different answers to one request are one.

mod job;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use tidegate_worker::{Attempt, Failure, Json, Publication, Router, State, User, on, program};

use crate::job::{
    EMPTY_ROUTE, FAILS, InOrder, Job, LONG_ROUTE, Long, MIXED_ROUTE, ORDER_ROUTE, RUNS_FILE, Stamp,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The file of all workers. Every line is appended by one write, so that the lines of several workers do not mix.
#[derive(Debug, Clone)]
struct Runs(Arc<File>);

impl Runs {
    /// Opens the file of this run; a run without one records nothing.
    fn open() -> anyhow::Result<Self> {
        let path = std::env::var_os(RUNS_FILE).map_or_else(|| PathBuf::from("/dev/null"), PathBuf::from);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Self(Arc::new(file.with_context(|| format!("opening {}", path.display()))?)))
    }

    fn record(&self, job: &Job, run: u64) -> anyhow::Result<()> {
        self.append(&format!("{} {} {} {run}\n", job.to, job.by, job.n))
    }

    fn append(&self, line: &str) -> anyhow::Result<()> {
        (&*self.0).write_all(line.as_bytes()).context("recording a run")
    }
}

async fn work(
    State(runs): State<Runs>,
    Attempt(attempt): Attempt,
    User(user): User,
    Json(job): Json<Job>,
) -> Result<(Json<Stamp>, Publication), Failure> {
    if user != job.to {
        return Err(Failure::dead(format!("a request of {} came as one of {user}", job.to)));
    }
    let run = rand::random_range(1..=u64::MAX);
    runs.record(&job, run)?;
    tokio::time::sleep(Duration::from_millis(job.work_ms)).await;
    if attempt < job.failures {
        return Err(anyhow!("attempt {attempt} fails, as the request asks").into());
    }
    let published = Stamp { to: job.channel.clone(), by: format!("{} of {user}", job.by), n: job.n, run };
    let publication = Publication::json(&job.channel, &published)?;
    Ok((Json(Stamp { to: user, by: job.by, n: job.n, run }), publication))
}

async fn nothing() {}

/// Its effect is a line in the file, between the lines of its beginning and its end.
async fn in_order(State(runs): State<Runs>, Json(job): Json<InOrder>) -> Result<(), Failure> {
    let line = |what: char| format!("{what} {} {} {}\n", job.key, job.n, std::process::id());
    runs.append(&line('b'))?;
    tokio::time::sleep(Duration::from_millis(job.work_ms)).await;
    runs.append(&line('e'))?;
    Ok(())
}

async fn long(Json(job): Json<Long>) {
    tokio::time::sleep(Duration::from_millis(job.work_ms)).await;
}

/// Gives back what it gets, unless that asks it to fail.
async fn mixed(body: Bytes) -> Result<Bytes, Failure> {
    if body == FAILS { Err(anyhow!("it fails for ever").into()) } else { Ok(body) }
}

fn main() -> ExitCode {
    program(env!("CARGO_PKG_VERSION"), async |config| {
        let mut router = Router::with_state(Runs::open()?);
        for route in &config.routes {
            let name = route.name.as_str();
            router = match name {
                EMPTY_ROUTE => router.route(name, on(nothing)),
                ORDER_ROUTE => router.route(name, on(in_order)),
                LONG_ROUTE => router.route(name, on(long)),
                MIXED_ROUTE => router.route(name, on(mixed)),
                "steady" | "flaky" | "later" => router.route(name, on(work)),
                // The bare loop of the scenario `worker` takes it.
                _ => router,
            };
        }
        Ok(router)
    })
}
