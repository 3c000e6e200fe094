//! `tidegate asyncapi`: prints the AsyncAPI 3 document of the configuration.

use std::process::ExitCode;

use tidegate_cli::{asyncapi, output};
use tidegate_shared::config::Role;

use crate::command::ConfigArgs;

/// Arguments of `tidegate asyncapi`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load(Role::Client)?;
    let schemas = asyncapi::Schemas::read(&config)?;
    let document = asyncapi::document(&config, env!("CARGO_PKG_VERSION"), &schemas);
    output::line(serde_json::to_string_pretty(&document)?);
    Ok(ExitCode::SUCCESS)
}
