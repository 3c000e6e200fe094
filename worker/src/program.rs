//! The whole process around a worker: arguments, configuration, logging, signals, health endpoints and exit code.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, anyhow};
use clap::{CommandFactory, FromArgMatches, Parser};
use tidegate_shared::{
    config::{self, Config, ConfigError, FILE_VARIABLE, Role},
    failure,
    health_check::health_check,
    id::random_token,
    lifecycle::Lifecycle,
    service_manager, telemetry,
};

use crate::{
    embed::{RunFailure, Worker},
    router::Router,
    runtimes::EngineRuntime,
    worker::{Misconfigured, StartFailure},
};

/// The exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;
/// The exit code for every other failure, an early end of a route's consume task included.
const FAILED: u8 = 1;

/// Handles requests of Tidegate.
#[derive(Debug, Parser)]
struct Arguments {
    /// The configuration file [default: tidegate.toml, if it exists]
    #[arg(long, value_name = "PATH", env = FILE_VARIABLE)]
    config: Option<PathBuf>,
    /// The address of health and metrics, instead of `worker.internal`
    #[arg(long, value_name = "ADDR")]
    internal: Option<SocketAddr>,
    /// The worker's name in its answers [default: a random one]
    #[arg(long)]
    name: Option<String>,
    /// Ask the worker that runs with this configuration whether it is alive, and end: with 0 if it is
    #[arg(long)]
    health_check: bool,
}

/// Runs a worker program with the arguments of `tidegate-worker` and the handlers of the router that `make` builds from the
/// configuration. `version` is what `--version` prints.
///
/// Returns after the first SIGTERM or SIGINT, when the requests under way are finished or `worker.drain` is over. A second
/// signal ends the worker now. The exit code is 0 after a regular end, 64 for a configuration that cannot be used, and 1 for
/// every other failure; the reason is on stderr.
///
/// ```no_run
/// use tidegate_worker::{Router, on, program};
///
/// async fn ping() {}
///
/// fn main() -> std::process::ExitCode {
///     program(env!("CARGO_PKG_VERSION"), async |_config| Ok(Router::new().route("ping", on(ping))))
/// }
/// ```
pub fn program<S, M>(version: &'static str, make: M) -> ExitCode
where
    S: Clone + Send + Sync + 'static,
    M: AsyncFnOnce(&Config) -> anyhow::Result<Router<S>>,
{
    let command = Arguments::command().version(version);
    let arguments = Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    match start(arguments, make) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn start<S, M>(arguments: Arguments, make: M) -> anyhow::Result<()>
where
    S: Clone + Send + Sync + 'static,
    M: AsyncFnOnce(&Config) -> anyhow::Result<Router<S>>,
{
    let file = config::usual_file(arguments.config);
    let flag = arguments.internal.map(|internal| ("worker.internal", internal.to_string()));
    let config = Config::load_as(Role::Worker, file.as_deref(), flag.as_slice())?;
    if arguments.health_check {
        return Ok(health_check(config.worker.internal)?);
    }
    telemetry::init(&config.log)?;
    config::log_source(file.as_deref());
    let name = arguments.name.unwrap_or_else(random_token::<5>);
    let engine = Arc::new(EngineRuntime::start()?);
    let handlers = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = handlers.block_on(serve(&config, &name, &engine, make));
    // Handlers that block their threads do not delay the end of the process.
    handlers.shutdown_background();
    ended
}

/// Handlers run on the calling runtime. Signals, health and the worker itself run on the engine's, which no handler blocks.
async fn serve<S, M>(config: &Config, name: &str, engine: &Arc<EngineRuntime>, make: M) -> anyhow::Result<()>
where
    S: Clone + Send + Sync + 'static,
    M: AsyncFnOnce(&Config) -> anyhow::Result<Router<S>>,
{
    let lifecycle = Lifecycle::new();
    let signals = lifecycle.clone();
    engine.run(async move { signals.listen_for_signals() }).await.context("listening for signals")?;
    let router = make(config).await?;
    let worker = Worker::builder(config).name(name).router(router).internal(config.worker.internal);
    let starting = worker.inside(Arc::clone(engine), lifecycle.clone()).start();
    let running = async {
        let worker = match Box::pin(starting).await {
            Ok(worker) => worker,
            // It has no requests to finish.
            Err(StartFailure::Stopped) => return Ok(()),
            Err(failure) => return Err(RunFailure::from(failure)),
        };
        engine.run(async move { service_manager::ready(&lifecycle) }).await;
        Ok(worker.ended().await?)
    };
    running.await.map_err(|failure| match failure {
        RunFailure::Start(StartFailure::Internal { address, reason }) => {
            anyhow!("cannot listen on worker.internal = {address}: choose another with --internal: {reason}")
        }
        RunFailure::Start(failure) => failure.into(),
        RunFailure::Ended(ended) => ended.into(),
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if is_configuration(error) { BAD_CONFIGURATION } else { FAILED }
}

fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>()
        || error.is::<Misconfigured>()
        || matches!(error.downcast_ref(), Some(StartFailure::Misconfigured(_)))
}

#[expect(
    clippy::print_stderr,
    reason = "logging may not be set up yet, and the reason has to reach the terminal"
)]
fn print_error(error: &anyhow::Error) {
    eprintln!("error: {}", failure::text(error));
}

#[cfg(test)]
mod tests {
    use tidegate_shared::lifecycle::TaskEnded;

    use super::*;

    #[test]
    fn a_failed_task_exits_with_1_and_a_bad_configuration_with_64() {
        let ended = TaskEnded { task: "consume", reason: "it returned".to_owned() };
        assert_eq!(exit_code(&ended.into()), 1);
        assert_eq!(exit_code(&Misconfigured::new("no such route").into()), 64);
        assert_eq!(exit_code(&StartFailure::from(Misconfigured::new("no such route")).into()), 64);
    }
}
