//! `tidegate nats-config`: prints the accounts of nats.conf for the configuration.

use std::process::ExitCode;

use tidegate_cli::output;
use tidegate_shared::{access::Access, config::Role};

use crate::command::ConfigArgs;

/// Arguments of `tidegate nats-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // It names variables instead of passwords, so it needs no secret.
    let config = args.config.load(Role::Client)?;
    output::text(&Access::of(&config).nats_conf());
    Ok(ExitCode::SUCCESS)
}
