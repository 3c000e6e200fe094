//! The gateway program: reads arguments and configuration, runs the gateway, and reports why it ended.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use tidegate_gateway::Gateway;
use tidegate_shared::{
    VERSION,
    config::{self, Config, FILE_VARIABLE, Role},
    failure,
    health_check::health_check,
    lifecycle::Lifecycle,
    telemetry,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Holds client connections and stores what clients send in JetStream.
#[derive(Debug, Parser)]
#[command(name = "tidegate-gateway", version = VERSION)]
struct Arguments {
    /// The configuration file [default: tidegate.toml, if it exists].
    #[arg(long, value_name = "PATH", env = FILE_VARIABLE)]
    config: Option<PathBuf>,
    /// The address clients connect to (`gateway.listen`).
    #[arg(long)]
    listen: Option<String>,
    /// The address of health, metrics and the server API (`gateway.internal`).
    #[arg(long)]
    internal: Option<String>,
    /// Ask the gateway that runs with this configuration whether it is alive, and end: with 0 if it is.
    #[arg(long)]
    health_check: bool,
}

/// The exit code for an invalid configuration (`EX_USAGE`).
const BAD_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let flags = [("gateway.listen", arguments.listen), ("gateway.internal", arguments.internal)];
    let flags: Vec<_> =
        flags.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))).collect();
    let file = config::usual_file(arguments.config);
    let config = match Config::load_as(Role::Gateway, file.as_deref(), &flags) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), BAD_CONFIGURATION),
    };
    if arguments.health_check {
        return match health_check(config.gateway.internal) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string(), 1),
        };
    }
    if let Err(error) = telemetry::init(&config.log) {
        return fail(&error.to_string(), BAD_CONFIGURATION);
    }
    config::log_source(file.as_deref());
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&failure::text(&error), 1),
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let lifecycle = Lifecycle::new();
    lifecycle.listen_for_signals()?;
    Gateway::bind(config)?.run(lifecycle).await
}

#[expect(clippy::print_stderr, reason = "the last word of the program, with or without a working log")]
fn fail(reason: &str, code: u8) -> ExitCode {
    eprintln!("tidegate-gateway: {reason}");
    ExitCode::from(code)
}
