//! The whole process around a purger: arguments, configuration, logging, signals, health endpoints and exit code.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tidegate_shared::{
    VERSION,
    config::{self, Config, ConfigError, FILE_VARIABLE, Role},
    failure,
    health_check::health_check,
    lifecycle::Lifecycle,
    service_manager, telemetry,
};
use tokio::net::TcpListener;

use crate::{
    health::{self, Health},
    purger::Purger,
};

/// The exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;
/// How long the tasks may take to end: each has at most one request to the broker under way.
const LAST_MOMENT: Duration = Duration::from_secs(3);

/// Removes acknowledged requests from the streams of the routes.
#[derive(Debug, Parser)]
#[command(name = "tidegate-purger", version = VERSION)]
struct Arguments {
    /// The configuration file [default: tidegate.toml, if it exists]
    #[arg(long, value_name = "PATH", env = FILE_VARIABLE)]
    config: Option<PathBuf>,
    /// The address of health and metrics, instead of `purger.internal`
    #[arg(long, value_name = "ADDR")]
    internal: Option<SocketAddr>,
    /// Ask the purger that runs with this configuration whether it is alive, and end: with 0 if it is
    #[arg(long)]
    health_check: bool,
}

/// Runs the purger until SIGTERM or SIGINT. The exit code is 0 after a regular end, 64 for a configuration that cannot be used,
/// and 1 for every other failure; the reason is on stderr.
pub fn program() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(if error.is::<ConfigError>() { BAD_CONFIGURATION } else { 1 })
        }
    }
}

#[tokio::main]
async fn start(arguments: Arguments) -> anyhow::Result<()> {
    let file = config::usual_file(arguments.config);
    let flag = arguments.internal.map(|internal| ("purger.internal", internal.to_string()));
    let config = Config::load_as(Role::Purger, file.as_deref(), flag.as_slice())?;
    if arguments.health_check {
        return Ok(health_check(config.purger.internal)?);
    }
    telemetry::init(&config.log)?;
    config::log_source(file.as_deref());
    let lifecycle = Lifecycle::new();
    lifecycle.listen_for_signals().context("listening for signals")?;
    let address = config.purger.internal;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on purger.internal = {address}: choose another with --internal")
    })?;
    tracing::info!(internal = %listener.local_addr()?, "purger starting");
    let health = Health { purger: std::sync::Arc::default(), lifecycle: lifecycle.clone() };
    tokio::select! {
        served = health::serve(listener, health.clone()) => served.context("the internal listener ended"),
        worked = work(&config, &health) => worked,
    }
}

async fn work(config: &Config, health: &Health) -> anyhow::Result<()> {
    let lifecycle = &health.lifecycle;
    let purger = tokio::select! {
        () = lifecycle.draining() => return Ok(()),
        purger = Purger::connect(config) => purger?,
    };
    // The routes that it has the rights for are purged all the same.
    if let Err(missing) = purger.try_rights(config).await {
        tracing::error!("{missing}");
    }
    purger.start(lifecycle);
    let _ = health.purger.set(purger);
    service_manager::ready(lifecycle);
    lifecycle.draining().await;
    lifecycle.finish(LAST_MOMENT).await;
    lifecycle.failure().cloned().map_or(Ok(()), |ended| Err(ended.into()))
}

#[expect(
    clippy::print_stderr,
    reason = "logging may not be set up yet, and the reason has to reach the terminal"
)]
fn print_error(error: &anyhow::Error) {
    eprintln!("tidegate-purger: {}", failure::text(error));
}
