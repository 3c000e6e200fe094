//! `tidegate-trial-worker`: the worker of the scenario `faults`. Its handlers record every run, work, and fail on request.
//!
//! Handlers run at least once, so two runs of one request are no fault. Each run answers with a number of its own: two
//! different answers to one request are one.

mod job;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use tidegate_worker::{Attempt, Failure, Json, Publication, Publications, Router, State, User, on, program};

use crate::job::{Job, RUNS_FILE, Stamp};

/// The file of all workers. Every line is appended by one write, so that the lines of several workers do not mix.
#[derive(Debug, Clone)]
struct Runs(Arc<File>);

impl Runs {
    fn open() -> anyhow::Result<Self> {
        let path = std::env::var_os(RUNS_FILE).with_context(|| format!("{RUNS_FILE} is not set"))?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Self(Arc::new(file.with_context(|| format!("opening {}", path.display()))?)))
    }

    fn record(&self, job: &Job, run: u64) -> anyhow::Result<()> {
        let line = format!("{} {} {} {run}\n", job.to, job.by, job.n);
        (&*self.0).write_all(line.as_bytes()).context("recording a run")
    }
}

async fn work(
    State(runs): State<Runs>,
    Attempt(attempt): Attempt,
    User(user): User,
    Json(job): Json<Job>,
) -> Result<(Json<Stamp>, Publications), Failure> {
    if user != job.to {
        return Err(Failure::Dead(format!("a request of {} came as one of {user}", job.to)));
    }
    let run = rand::random_range(1..=u64::MAX);
    runs.record(&job, run)?;
    tokio::time::sleep(Duration::from_millis(job.work_ms)).await;
    if attempt < job.failures {
        return Err(anyhow!("attempt {attempt} fails, as the request asks").into());
    }
    let published = Stamp { to: job.channel.clone(), by: format!("{} of {user}", job.by), n: job.n, run };
    let publications = Publications(vec![Publication::json(&job.channel, &published)?]);
    Ok((Json(Stamp { to: user, by: job.by, n: job.n, run }), publications))
}

fn main() -> ExitCode {
    program(env!("CARGO_PKG_VERSION"), async |_| {
        let router = Router::with_state(Runs::open()?);
        Ok(router.route("steady", on(work)).route("flaky", on(work)).route("later", on(work)))
    })
}
