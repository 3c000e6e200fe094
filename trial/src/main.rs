//! `tidegate-trial`: a load generator for any server of the Centrifuge protocol, Tidegate or another.
//!
//! It measures as a client, over loopback only; every run is bounded in count and in time. A missed target is
//! printed; only losses, duplicates and disorder fail a run.

mod accounts;
mod broker_cost;
mod faults;
mod idle;
mod job;
mod process;
mod proxy;
mod publisher;
mod report;
mod roundtrip;
mod scrape;
mod stats;
mod storm;
mod subscriber;
mod target;
mod throughput;
mod torn;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::{Args, FromArgMatches, Parser, Subcommand};
use serde::Serialize;
use tidegate_cli::output;

use crate::{
    report::{BenchReport, Conditions},
    target::{ExternalServer, Target},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a server of the Centrifuge protocol.
#[derive(Debug, Parser)]
#[command(name = "tidegate-trial", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    outside: ExternalServer,
    /// Write the figures to this file too
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Allow a debug build, whose figures are meaningless
    #[arg(long, global = true)]
    debug_ok: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Run roundtrip, throughput and idle with their defaults: two to three minutes
    Bench,
    /// Measure round trips at a fixed rate, compared with bare NATS
    Roundtrip(roundtrip::Args),
    /// Measure many concurrent callers; check that each request is answered and stored once, in order
    Throughput(throughput::Args),
    /// Measure the cost of idle connections
    Idle(idle::Args),
    /// Measure round trips and throughput with the broker's accounts and without
    Accounts(accounts::Args),
    /// Measure the broker's cost of 50,000 channels and 100,000 users; check for losses: half a minute
    BrokerCost(broker_cost::Args),
    /// Cut connections, kill gateways and the broker; check what recovered subscribers received
    Torn(torn::Args),
    /// Kill and stop every process, delete consumers, reset connections; check keyed requests and channels
    Faults(faults::Args),
    /// Kill a gateway with thousands of subscribers; check that all recover in time
    Storm(storm::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::note(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<bool> {
    if cfg!(debug_assertions) && !cli.debug_ok {
        bail!("this is a debug build: run `cargo build --release --workspace --bins`, or pass --debug-ok");
    }
    match &cli.scenario {
        Scenario::Torn(args) => {
            let outcome = Box::pin(torn::run(args)).await?;
            outcome.print();
            write(cli.json.as_deref(), &outcome)?;
            return Ok(outcome.adds_up());
        }
        Scenario::Storm(args) => {
            let outcome = Box::pin(storm::run(args)).await?;
            outcome.print();
            write(cli.json.as_deref(), &outcome)?;
            return Ok(outcome.adds_up());
        }
        Scenario::Faults(args) => {
            let outcome = Box::pin(faults::run(args)).await?;
            outcome.print();
            write(cli.json.as_deref(), &outcome)?;
            return Ok(outcome.adds_up());
        }
        Scenario::Accounts(args) => {
            let outcome = Box::pin(accounts::run(args)).await?;
            outcome.print();
            write(cli.json.as_deref(), &outcome)?;
            return Ok(true);
        }
        Scenario::BrokerCost(args) => {
            let outcome = Box::pin(broker_cost::run(args)).await?;
            outcome.print();
            write(cli.json.as_deref(), &outcome)?;
            return Ok(outcome.adds_up());
        }
        _ => {}
    }
    let mut report = BenchReport::new(Conditions::here()?);
    let outside = &cli.outside;
    match &cli.scenario {
        Scenario::Bench => bench(outside, &mut report).await?,
        Scenario::Roundtrip(args) => roundtrip(outside, args, &mut report).await?,
        Scenario::Throughput(args) => throughput(outside, args, &mut report).await?,
        Scenario::Idle(args) => idle(outside, args, &mut report).await?,
        Scenario::Torn(_)
        | Scenario::Storm(_)
        | Scenario::Faults(_)
        | Scenario::BrokerCost(_)
        | Scenario::Accounts(_) => {}
    }
    report.print();
    if let Some(file) = &cli.json {
        report.write(file)?;
    }
    Ok(report.passes())
}

fn write(file: Option<&Path>, outcome: &impl Serialize) -> anyhow::Result<()> {
    if let Some(file) = file {
        std::fs::write(file, serde_json::to_vec_pretty(outcome)?)?;
    }
    Ok(())
}

async fn bench(outside: &ExternalServer, report: &mut BenchReport) -> anyhow::Result<()> {
    idle(outside, &defaults()?, report).await?;
    roundtrip(outside, &defaults()?, report).await?;
    throughput(outside, &defaults()?, report).await
}

async fn roundtrip(
    outside: &ExternalServer,
    args: &roundtrip::Args,
    report: &mut BenchReport,
) -> anyhow::Result<()> {
    let target = begin("roundtrip", outside, (1, 1), report).await?;
    report.roundtrip = Some(roundtrip::run(&target, args).await?);
    target.end().await;
    Ok(())
}

async fn throughput(
    outside: &ExternalServer,
    args: &throughput::Args,
    report: &mut BenchReport,
) -> anyhow::Result<()> {
    let target = begin("throughput", outside, (2, 2), report).await?;
    report.throughput = Some(throughput::run(&target, args).await?);
    target.end().await;
    Ok(())
}

async fn idle(outside: &ExternalServer, args: &idle::Args, report: &mut BenchReport) -> anyhow::Result<()> {
    let target = begin("idle", outside, (1, 0), report).await?;
    report.idle = Some(idle::run(&target, args).await?);
    target.end().await;
    Ok(())
}

/// Starts a new stack, so that scenarios do not affect each other.
async fn begin(
    name: &str,
    outside: &ExternalServer,
    (gateways, workers): (usize, usize),
    report: &mut BenchReport,
) -> anyhow::Result<Target> {
    let target = Target::start(outside, gateways, workers).await?;
    if let Some(stack) = target.stack() {
        report.conditions.look_at(stack).await?;
    }
    output::note(format!("{name} ..."));
    Ok(target)
}

/// Returns the default arguments of a scenario.
fn defaults<A: Args + FromArgMatches>() -> anyhow::Result<A> {
    let command = A::augment_args(clap::Command::new("bench"));
    Ok(A::from_arg_matches(&command.try_get_matches_from(["bench"])?)?)
}
