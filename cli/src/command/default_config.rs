//! `tidegate default-config`: prints the configuration reference.

use std::process::ExitCode;

use tidegate_cli::output;
use tidegate_shared::config::DEFAULT_TOML;

/// Arguments of `tidegate default-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(_: Args) -> anyhow::Result<ExitCode> {
    output::text(DEFAULT_TOML);
    Ok(ExitCode::SUCCESS)
}
