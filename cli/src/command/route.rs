//! `tidegate route ls|pause|resume`: the state of routes, and whether workers get their requests.

use std::{
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::Subcommand;
use tidegate_cli::{output, stack::setup};
use tidegate_shared::{
    broker::{LONGEST_PAUSE, RouteState, stored_route},
    config::Role,
};

use crate::command::ConfigArgs;

/// Arguments of `tidegate route`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// List the routes with what waits, what runs and which are paused.
    Ls(LsArgs),
    /// Pause a route: its requests are accepted and wait; those that workers have are finished.
    Pause(PauseArgs),
    /// End the pause of a route.
    Resume(ResumeArgs),
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PauseArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The route's name.
    route: String,
    /// How long, such as 30m [default: until it is resumed].
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pause: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct ResumeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The route's name.
    route: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        RouteCommand::Ls(args) => list(args).await?,
        RouteCommand::Pause(args) => pause(args).await?,
        RouteCommand::Resume(args) => resume(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: LsArgs) -> anyhow::Result<()> {
    let config = args.config.load(Role::Setup)?;
    let broker = setup::connect(&config).await?;
    let states = broker.routes(&config.routes).await.context("reading the consumers of the routes")?;
    if args.json {
        output::line(serde_json::to_string(&states)?);
    } else {
        output::text(&table(&states));
    }
    Ok(())
}

async fn pause(args: PauseArgs) -> anyhow::Result<()> {
    let config = args.config.load(Role::Setup)?;
    let route = stored_route(&config.routes, &args.route).map_err(anyhow::Error::msg)?;
    let pause = args.pause.unwrap_or(LONGEST_PAUSE);
    anyhow::ensure!(!pause.is_zero(), "a pause has at least 1 second");
    let until =
        setup::connect(&config).await?.pause_route(route, pause).await.context("pausing the route")?;
    let until = match args.pause {
        Some(_) => format!("until {}", humantime::format_rfc3339_seconds(until)),
        None => "until it is resumed".to_owned(),
    };
    output::line(format!("{} is paused {until}", route.name));
    Ok(())
}

async fn resume(args: ResumeArgs) -> anyhow::Result<()> {
    let config = args.config.load(Role::Setup)?;
    let route = stored_route(&config.routes, &args.route).map_err(anyhow::Error::msg)?;
    setup::connect(&config).await?.resume_route(route).await.context("resuming the route")?;
    output::line(format!("{} is resumed", route.name));
    Ok(())
}

/// Returns a table with one line per route.
fn table(states: &[RouteState]) -> String {
    let row = |name: &str, waiting: &str, running: &str, paused: &str, matches: &str| {
        format!("{name:<20}{waiting:>9}{running:>9}  {paused:<22}{matches}\n")
    };
    let mut table = row("ROUTE", "WAITING", "RUNNING", "PAUSED UNTIL", "MATCH");
    for state in states {
        let until = state.paused_until.map(|until| UNIX_EPOCH + Duration::from_millis(until));
        let until =
            until.map_or_else(|| "-".to_owned(), |u| humantime::format_rfc3339_seconds(u).to_string());
        let (waiting, running) = (state.waiting.to_string(), state.running.to_string());
        table.push_str(&row(&state.name, &waiting, &running, &until, &state.matches));
    }
    table
}
