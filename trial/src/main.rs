//! `tidegate-trial`: a load generator for servers of the Centrifuge protocol and some others, and long fault runs.
//!
//! It measures as a client, over loopback only; every run is bounded in count and in time. A missed target is
//! printed; only losses, duplicates and disorder fail a run.

mod accounts;
mod bare_nats;
mod bench;
mod broker_cost;
mod deploys;
mod effects;
mod failing;
mod faults;
mod generator;
mod job;
mod open_loop;
mod order;
mod process;
mod proxy;
mod publisher;
mod report;
mod request_path;
mod requests;
mod scrape;
mod stats;
mod storm;
mod subscriber;
mod target;
mod throughput;
mod torn;
mod worker_cost;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use tidegate_cli::output;

use crate::{
    bench::{results::Results, runner},
    report::{Verdict, markdown},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures servers, and checks Tidegate under faults.
#[derive(Debug, Parser)]
#[command(name = "tidegate-trial", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    /// Write the figures to this file too
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Allow a debug build, whose figures are meaningless
    #[arg(long, global = true)]
    debug_ok: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Measure memory, connects, fan-out, requests, recovery and faults, beside other servers
    Bench(runner::Args),
    /// Write the tables of results that were measured before
    Report(ReportArgs),
    /// Play clients, as told on the standard input
    #[command(hide = true)]
    Generate,
    /// Be the floor that servers are compared with
    #[command(hide = true)]
    Raw,
    /// Check with many callers that each request is answered and stored once, in order
    Throughput(throughput::Args),
    /// Measure round trips and throughput with the broker's accounts and without
    Accounts(accounts::Args),
    /// Measure the broker's cost of 50,000 channels and 100,000 users; check for losses: half a minute
    BrokerCost(broker_cost::Args),
    /// Measure a worker with an empty handler, compared with a bare loop of the NATS client
    Worker(worker_cost::Args),
    /// Measure healthy requests beside a thousand that fail for ever, and without them
    Failing(failing::Args),
    /// Cut connections, kill gateways and the broker; check what recovered subscribers received
    Torn(torn::Args),
    /// Kill and stop every process, delete consumers, reset connections; check keyed requests and channels
    Faults(faults::Args),
    /// Kill workers in the middle of statements in SQLite and PostgreSQL; check that each request takes effect once
    Effects(effects::Args),
    /// Kill workers of a strict order, and change their number; check the order of effects
    Order(order::Args),
    /// Replace all workers in the middle of long requests, again and again; check that none is lost
    Deploys(deploys::Args),
    /// Kill a gateway with thousands of subscribers; check that all recover in time
    Storm(storm::Args),
}

/// What to make of results.
#[derive(Debug, clap::Args)]
struct ReportArgs {
    /// The file that `bench --json` has written
    results: PathBuf,
    /// Write the tables to this file, instead of printing them
    #[arg(long, num_args = 0..=1, default_missing_value = "-", value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Replace the tables of this document, which stand between two comments
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Draw a chart into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.scenario {
        // One thread over epoll: no runtime.
        Scenario::Generate => generator::run().map(|()| true),
        Scenario::Raw => generator::raw::run().map(|()| true),
        _ => in_runtime(&cli),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::note(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn in_runtime(cli: &Cli) -> anyhow::Result<bool> {
    if cfg!(debug_assertions) && !cli.debug_ok {
        bail!("this is a debug build: run `cargo build --release --workspace --bins`, or pass --debug-ok");
    }
    Ok(match &cli.scenario {
        Scenario::Bench(args) => {
            Box::pin(runner::run(args, cli.json.as_deref())).await?;
            true
        }
        Scenario::Report(args) => args.run()?,
        Scenario::Generate | Scenario::Raw => false,
        Scenario::Throughput(args) => cli.tell(&throughput::run(args).await?)?,
        Scenario::Torn(args) => cli.tell(&Box::pin(torn::run(args)).await?)?,
        Scenario::Storm(args) => cli.tell(&Box::pin(storm::run(args)).await?)?,
        Scenario::Faults(args) => cli.tell(&Box::pin(faults::run(args)).await?)?,
        Scenario::Effects(args) => cli.tell(&Box::pin(effects::run(args)).await?)?,
        Scenario::Order(args) => cli.tell(&Box::pin(order::run(args)).await?)?,
        Scenario::Deploys(args) => cli.tell(&Box::pin(deploys::run(args)).await?)?,
        Scenario::Failing(args) => cli.tell(&Box::pin(failing::run(args)).await?)?,
        Scenario::Accounts(args) => cli.tell(&Box::pin(accounts::run(args)).await?)?,
        Scenario::Worker(args) => cli.tell(&Box::pin(worker_cost::run(args)).await?)?,
        Scenario::BrokerCost(args) => cli.tell(&Box::pin(broker_cost::run(args)).await?)?,
    })
}

impl ReportArgs {
    fn run(&self) -> anyhow::Result<bool> {
        let text = std::fs::read_to_string(&self.results)
            .with_context(|| format!("reading {}", self.results.display()))?;
        let results: Results = serde_json::from_str(&text)
            .with_context(|| format!("{} has no results of `bench --json`", self.results.display()))?;
        let file = self.markdown.as_deref().filter(|file| file.as_os_str() != "-");
        if let Some(into) = &self.into {
            let document =
                std::fs::read_to_string(into).with_context(|| format!("reading {}", into.display()))?;
            let document = markdown::put_into(&document, &markdown::render(&results));
            let document =
                document.with_context(|| format!("{} has no comment <!-- tables -->", into.display()))?;
            std::fs::write(into, document)?;
        } else if file.is_none() {
            output::line(markdown::render(&results));
        }
        runner::show(&results, file, self.svg.as_deref())?;
        Ok(true)
    }
}

impl Cli {
    /// Prints a result, and returns whether the run passed.
    fn tell(&self, outcome: &impl Verdict) -> anyhow::Result<bool> {
        outcome.print();
        if let Some(file) = &self.json {
            std::fs::write(file, serde_json::to_vec_pretty(outcome)?)?;
        }
        Ok(outcome.adds_up())
    }
}
