//! `tidegate-trial`: a load generator that speaks the protocol of the clients to any server of it, Tidegate or another.
//!
//! Measures from outside, as a client sees it, over loopback only; every run is bounded in count and in time. Figures are
//! no tests: missing a target is printed, and only counts that do not add up fail.

mod broker_cost;
mod idle;
mod process;
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
    /// Measure a debug build, whose figures mean nothing
    #[arg(long, global = true)]
    debug_ok: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// All of them, as they are by default: two to three minutes
    Bench,
    /// From request to answer at a fixed rate, beside the same over bare NATS
    Roundtrip(roundtrip::Args),
    /// Many callers at once: how fast, and whether everything adds up
    Throughput(throughput::Args),
    /// What a connection that does nothing costs
    Idle(idle::Args),
    /// What 50,000 channels and 100,000 users cost the broker, and whether anything is lost: half a minute
    BrokerCost(broker_cost::Args),
    /// Connections cut, gateways and the broker killed: does everybody who recovered have everything
    Torn(torn::Args),
    /// A gateway with thousands of subscribers killed: is everybody back in time, with everything
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
        bail!("this is a debug build: `cargo build --release --workspace --bins`, or --debug-ok");
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
        Scenario::Torn(_) | Scenario::Storm(_) | Scenario::BrokerCost(_) => {}
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

/// Starts a fresh system, so that no scenario measures what another left behind.
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

/// A scenario's arguments as they are when none is given.
fn defaults<A: Args + FromArgMatches>() -> anyhow::Result<A> {
    let command = A::augment_args(clap::Command::new("bench"));
    Ok(A::from_arg_matches(&command.try_get_matches_from(["bench"])?)?)
}
