//! `tidegate-worker check`: everything that a start of the stock worker would refuse, without a broker and without leaving anything
//! behind. Databases are connected to; migrations and statements are tried and undone.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use tidegate_shared::{
    config::{Config, FILE_VARIABLE, Role, usual_file},
    failure,
};

use crate::handlers;

/// The exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;

/// Checks the configuration of the stock worker: keys, secrets, templates, statements.
#[derive(Debug, Parser)]
#[command(name = "tidegate-worker check", version)]
struct Arguments {
    /// The configuration file [default: tidegate.toml, if it exists]
    #[arg(long, value_name = "PATH", env = FILE_VARIABLE)]
    config: Option<PathBuf>,
}

/// Runs the command with the arguments behind its name.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command for a terminal")]
pub(crate) fn run(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let arguments = Arguments::parse_from(std::iter::once("tidegate-worker check".into()).chain(arguments));
    match check(arguments) {
        Ok(routes) => {
            println!(
                "the configuration is usable: {}",
                if routes.is_empty() { "no route has a stock handler" } else { &routes }
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", failure::text(&error));
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

fn check(arguments: Arguments) -> anyhow::Result<String> {
    let config = Config::load_as(Role::Worker, usual_file(arguments.config).as_deref(), &[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(handlers::check(&config))?;
    let bound = config
        .routes
        .iter()
        .filter_map(|route| Some(format!("{} ({})", route.name, route.handler.as_ref()?)));
    Ok(bound.collect::<Vec<_>>().join(", "))
}
