//! `tidegate`: the command line of the local stack and its tools.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidegate_cli::output;
use tidegate_shared::{config::ConfigError, failure};

use crate::command::{
    apply, asyncapi, call, check_config, completion, conformance, dead, default_config, demo, doctor, down,
    enqueue, explain, job, logs, man, nats_config, process, publish, route, scale, schedule, status, sub,
    token, up, version,
};

mod command;

/// The exit code for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
const BAD_CONFIG: u8 = 64;

/// Durable WebSockets on NATS JetStream: the local stack and the tools around it.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Start the local stack: a broker, gateways and workers.
    Up(up::Args),
    /// End the local stack in order: gateways, workers, broker.
    Down(down::Args),
    /// Show the state of every process of the local stack.
    Status(status::Args),
    /// Change the number of workers or gateways: workers=4.
    Scale(scale::Args),
    /// Kill one process (SIGKILL); the stack restarts it.
    Kill(process::KillArgs),
    /// End one process and leave it down.
    Stop(process::Args),
    /// Start a process that was stopped.
    Start(process::Args),
    /// Print the logs of the processes.
    Logs(logs::Args),
    /// Create or update the broker's streams and consumers to match the configuration.
    Apply(apply::Args),
    /// List, pause and resume routes.
    Route(route::Args),
    /// Check the configuration.
    CheckConfig(check_config::Args),
    /// Print every configuration key with its default and its meaning.
    DefaultConfig(default_config::Args),
    /// Print the accounts and permissions that the configuration needs at the broker, for nats.conf.
    NatsConfig(nats_config::Args),
    /// Test the worker of a route, in any language, with awkward requests.
    Conformance(conformance::Args),
    /// Print the AsyncAPI 3 document of what workers and services exchange over NATS.
    Asyncapi(asyncapi::Args),
    /// Call a method and print its answer.
    Call(call::Args),
    /// Store a request for a worker, now or for later, and print its id.
    Enqueue(enqueue::Args),
    /// Show what has become of a request, or cancel it.
    Job(job::Args),
    /// List, show, set and remove schedules: requests and publications that are repeated, or come at a time.
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Subscribe to channels and print each publication as a JSON line.
    Sub(sub::Args),
    /// Publish to a channel.
    #[command(name = "pub")]
    Publish(publish::Args),
    /// List, show, redrive and drop dead letters: requests that failed for good.
    #[command(subcommand)]
    Dead(dead::Command),
    /// Replay an earthquake feed through a temporary stack, kill processes meanwhile, and count losses and duplicates.
    Demo(demo::Args),
    /// Print a connection token for a user.
    Token(token::Args),
    /// Examine a deployment: settings, machine, broker, rights, streams; say what to do about what is not in order.
    Doctor(doctor::Args),
    /// Say what a code means that a client has seen.
    Explain(explain::Args),
    /// Print the completions for a shell.
    Completion(completion::Args),
    /// Write the manual pages.
    Man(man::Args),
    /// Print the version.
    Version(version::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(Cli::parse().command)).await {
        Ok(code) => code,
        Err(error) => {
            output::note(format!("error: {}", failure::text(&error)));
            if error.is::<ConfigError>() { ExitCode::from(BAD_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(command: CliCommand) -> anyhow::Result<ExitCode> {
    match command {
        CliCommand::Up(args) => up::run(args).await,
        CliCommand::Down(args) => down::run(args).await,
        CliCommand::Status(args) => status::run(args).await,
        CliCommand::Scale(args) => scale::run(args).await,
        CliCommand::Kill(args) => process::kill(args).await,
        CliCommand::Stop(args) => process::stop(args).await,
        CliCommand::Start(args) => process::start(args).await,
        CliCommand::Logs(args) => logs::run(args).await,
        CliCommand::Apply(args) => apply::run(args).await,
        CliCommand::Route(args) => route::run(args).await,
        CliCommand::CheckConfig(args) => check_config::run(args).await,
        CliCommand::DefaultConfig(args) => default_config::run(args).await,
        CliCommand::NatsConfig(args) => nats_config::run(args).await,
        CliCommand::Conformance(args) => Box::pin(conformance::run(args)).await,
        CliCommand::Asyncapi(args) => asyncapi::run(args).await,
        CliCommand::Call(args) => call::run(args).await,
        CliCommand::Enqueue(args) => enqueue::run(args).await,
        CliCommand::Job(args) => job::run(args).await,
        CliCommand::Schedule(command) => schedule::run(command).await,
        CliCommand::Sub(args) => sub::run(args).await,
        CliCommand::Publish(args) => publish::run(args).await,
        CliCommand::Dead(command) => dead::run(command).await,
        CliCommand::Demo(args) => demo::run(args).await,
        CliCommand::Token(args) => token::run(args).await,
        CliCommand::Doctor(args) => doctor::run(args).await,
        CliCommand::Explain(args) => explain::run(args).await,
        CliCommand::Completion(args) => completion::run(args).await,
        CliCommand::Man(args) => man::run(args).await,
        CliCommand::Version(args) => version::run(args).await,
    }
}
